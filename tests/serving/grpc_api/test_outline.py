"""What a message may hold beside its image."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.grpc_api.outline import MAX_FIELDS, MAX_OUTLINE_BYTES, check_outline
from tests.properties import examples

IMAGE = bytes(3 * MAX_OUTLINE_BYTES)


def message(*, raw: bytes = b"", contents: bytes = b"", num_outputs: int = 0) -> bytes:
    made = pb.ModelInferRequest(model_name="x")
    tensor = made.inputs.add(name="image", datatype="BYTES", shape=[1])
    if raw:
        made.raw_input_contents.append(raw)
    if contents:
        tensor.contents.bytes_contents.append(contents)
    for _ in range(num_outputs):
        made.outputs.add()
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("where", ["raw", "contents"])
def test_an_image_may_be_large(where: str) -> None:
    check_outline(message(**{where: IMAGE}))  # type: ignore[arg-type]


def test_fields_have_a_bound() -> None:
    num_others = 5  # the name of the model, the input, and the three fields of that
    check_outline(message(num_outputs=MAX_FIELDS - num_others))
    with pytest.raises(PayloadTooLarge, match=f"more than {MAX_FIELDS} fields"):
        check_outline(message(num_outputs=MAX_FIELDS - num_others + 1))


def test_fields_of_contents_count() -> None:
    made = pb.ModelInferRequest()
    made.inputs.add().contents.bytes_contents.extend([b""] * MAX_FIELDS)
    with pytest.raises(PayloadTooLarge, match="fields"):
        check_outline(made.SerializeToString())


def test_all_else_has_a_bound() -> None:
    def named(num_bytes: int) -> bytes:
        made = pb.ModelInferRequest(id="x" * num_bytes)
        made.raw_input_contents.append(IMAGE)
        return bytes(made.SerializeToString())

    spare = len(named(MAX_OUTLINE_BYTES)) - len(IMAGE) - MAX_OUTLINE_BYTES
    check_outline(named(MAX_OUTLINE_BYTES - spare))
    with pytest.raises(PayloadTooLarge, match="without its image"):
        check_outline(named(MAX_OUTLINE_BYTES - spare + 1))


@examples(200)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        check_outline(noise)


@examples(200)
@given(st.data())
def test_what_is_cut_off_is_never_an_error_of_another_kind(data: st.DataObject) -> None:
    whole = message(raw=b"x" * 300, contents=b"y" * 300, num_outputs=3)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    with contextlib.suppress(InvalidRequest):
        check_outline(whole[start:stop])
