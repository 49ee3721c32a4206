from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.base64_json import MAX_OTHER_BYTES, read_json
from serving.core.errors import InvalidRequest, PayloadTooLarge, RequestCancelled

FILE = bytes(range(256)) * 1000
TEXT = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"image": TEXT, "max_depth": 2}),
        json.dumps({"image": "data:image/jpeg;base64," + TEXT, "max_depth": 2}, indent=2),
        json.dumps({"max_depth": 2, "image": TEXT}).replace("/", "\\/"),
    ],
)
def test_the_image_and_what_is_beside_it(body: str) -> None:
    assert read_json(body.encode()) == (FILE, [("max_depth", 2)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"image": 3}',
        b'{"image": "AAAA"',
        b'{"image": "AAAA", "image": "AAAA"}',
        b'{"image": "A"}',
        b'{"image": "\xff\xfe"}',
        b'{"image": "data:image/jpeg,AAAA"}',
        b'{"other": {"image": "AAAA"}}',
        b'{"images": ["AAAA"]}',
        b'{"image": {"image": "AAAA"}}',
        b'{"image": [{"image": "AAAA"}]}',
        b"[" * 10_000 + b'"image": "AAAA"',
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_json(body)


def test_members_that_are_there_twice_are_both_seen() -> None:
    assert read_json(b'{"image": "AAAA", "a": 1, "a": 2}') == (bytes(3), [("a", 1), ("a", 2)])


def test_nothing_else_may_be_large() -> None:
    for large in ({"image": TEXT, "x": "y" * MAX_OTHER_BYTES}, {"not": TEXT}):
        with pytest.raises(PayloadTooLarge):
            read_json(json.dumps(large).encode())


@given(st.binary() | st.text().map(str.encode))
def test_only_core_errors(noise: bytes) -> None:
    for body in (noise, b'{"image": "' + noise + b'"}', b'{"image": "AAAA", ' + noise + b"}"):
        with contextlib.suppress(InvalidRequest):
            read_json(body)


def test_a_long_message_can_be_stopped() -> None:
    def stop() -> None:
        raise RequestCancelled("Nobody waits for it.")

    with pytest.raises(RequestCancelled):
        read_json(b'{"image": "' + b"A" * 100_000 + b'"}', stop)
