"""Who sends a request, by its head."""

from __future__ import annotations

import pytest

from serving.access.identity import ADDRESS_LABEL, by_address, by_key, by_nobody
from serving.access.keys import Keyring, digest_of
from serving.core.errors import Unauthenticated
from serving.core.principals import NOBODY, Principal

HOLDER = Principal("camera-7", "camera-7")
identify = by_key(lambda: Keyring({digest_of(b"secret"): HOLDER}))


def scope(*headers: tuple[bytes, bytes], client: object = ("192.0.2.1", 4711)) -> dict[str, object]:
    return {"type": "http", "client": client, "headers": list(headers)}


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer secret")],
        [(b"authorization", b"bearer  secret ")],
        [(b"x-api-key", b"secret")],
        [(b"x-api-key", b"secret"), (b"authorization", b"Bearer secret")],
        [(b"sec-websocket-protocol", b"punctual, punctual.key.c2VjcmV0")],
    ],
)
def test_a_key_says_who_it_is(headers):
    assert identify(scope(*headers)) is HOLDER


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([], "asks for a key"),
        ([(b"x-api-key", b"")], "not one that is known"),
        ([(b"x-api-key", b"wrong")], "not one that is known"),
        ([(b"authorization", b"Basic c2VjcmV0")], "must be: Bearer"),
        ([(b"authorization", b"secret")], "must be: Bearer"),
        ([(b"sec-websocket-protocol", b"punctual")], "asks for a key"),
        ([(b"sec-websocket-protocol", b"punctual.key.d3Jvbmc")], "not one that is known"),
        ([(b"sec-websocket-protocol", b"punctual.key.a")], "no base64url"),
        ([(b"sec-websocket-protocol", b"punctual.key.\xff\xff\xff\xff")], "no base64url"),
        ([(b"authorization", b"Bearer \xff\xfe")], "not one that is known"),
        ([(b"x-api-key", b"secret"), (b"x-api-key", b"wrong")], "more than one key"),
        ([(b"x-api-key", b"wrong"), (b"authorization", b"Bearer secret")], "more than one key"),
    ],
)
def test_without_a_key_that_is_known_nobody_is_let_in(headers, why):
    with pytest.raises(Unauthenticated, match=why):
        identify(scope(*headers))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "192.0.2.1", False),
    ],
)
def test_an_address_or_what_was_given_out_with_it(one: str, other: str, same: bool):
    first, second = (by_address(scope(client=(host, 1))) for host in (one, other))
    assert (first.name == second.name) == same
    assert first.label == second.label == ADDRESS_LABEL


def test_a_socket_without_addresses_is_one_client():
    assert by_address(scope(client=None)) == by_address(scope(client=None))


def test_everybody_may_be_one():
    assert by_nobody(scope()) is NOBODY
