from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from serving.api.tensors import (
    LENGTH_HEADER,
    MAX_JSON_BYTES,
    Tensor,
    read_request,
    split_body,
    write_response,
)
from serving.core.errors import InvalidRequest, PayloadTooLarge, RequestCancelled

INPUT = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3]}


def message(data: Any = None, **members: Any) -> dict[str, Any]:
    """A request with one input and, unless None, these numbers in it."""
    entry = INPUT if data is None else {**INPUT, "data": data}
    return {"inputs": [entry], **members}


def read(request: Any, binary: bytes = b"") -> Tensor:
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_request(text, binary)[1]


def with_size(size: int, **entry: Any) -> dict[str, Any]:
    return {"inputs": [{**INPUT, **entry, "parameters": {"binary_data_size": size}}]}


class TestSplit:
    def test_json_alone(self) -> None:
        assert split_body(Headers(), b"{}") == (b"{}", b"")

    def test_what_follows(self) -> None:
        headers = Headers({LENGTH_HEADER: "2"})
        assert split_body(headers, b"{}12") == (b"{}", b"12")
        assert split_body(headers, b"{}") == (b"{}", b"")

    @pytest.mark.parametrize("stated", ["0", "5", "-1", "", "2.0", "two", "9" * 30])
    def test_lengths_that_cannot_be(self, stated: str) -> None:
        with pytest.raises(InvalidRequest, match=LENGTH_HEADER):
            split_body(Headers({LENGTH_HEADER: stated}), b"{}12")


class TestNumbers:
    @pytest.mark.parametrize(
        "data",
        [
            "[1,2,3,4,5,255]",
            "[1, 2 ,\n3,\t4,5,255]",
            "[[[1,2,3],[4,5,255]]]",
            " [ [ [ 1 , 2 , 3 ] , [ 4 , 5 , 255 ] ] ] ",
        ],
    )
    @pytest.mark.parametrize("after", ["", ',"parameters":{}', ' , "parameters" : {}'])
    def test_flat_or_nested(self, data: str, after: str) -> None:
        text = json.dumps(message("?")).replace('"?"', data + after)
        assert read(text.encode()).data == bytes([1, 2, 3, 4, 5, 255])

    def test_they_may_come_first(self) -> None:
        entry = json.dumps({"data": [7], **INPUT})
        assert read(b'{"inputs":[%s],"id":"data"}' % entry.encode()).data == b"\x07"

    def test_strings_are_left_alone(self) -> None:
        tricky = message([7], id='"data":[1,2,3]', parameters={"x": '"data": [1]'})
        request, tensor = read_request(json.dumps(tricky).encode(), b"")
        assert (request.id, request.parameters) == (tricky["id"], tricky["parameters"])
        assert tensor.data == b"\x07"

    def test_the_key_as_a_value(self) -> None:
        assert read({"id": "data", **message([7])}).data == b"\x07"

    def test_none(self) -> None:
        assert read(message([])).data == b""

    @given(st.lists(st.integers(0, 255)), st.sampled_from([(",", ":"), (" , ", " : ")]))
    def test_any(self, numbers: list[int], separators: tuple[str, str]) -> None:
        text = json.dumps(message(numbers), separators=separators)
        assert read(text.encode()).data == bytes(numbers)

    def test_many(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
        for data in (pixels.tolist(), pixels.ravel().tolist()):
            assert read(message(data)).data == pixels.tobytes()

    @pytest.mark.parametrize(
        "data",
        [
            *("[256]", "[-1]", "[1.0]", "[1e2]", "[true]", "[null]", '["1"]', "1", '"1"', "{}"),
            *("[1 2]", "[1,]", "[,1]", "[1,,2]", "[1][2]", "[1", "1]", "[[1]", "[[1]]]"),
            f"[{'9' * 5000}]",
        ],
    )
    @pytest.mark.parametrize("count", [1, 6000])
    def test_anything_else_is_refused(self, data: str, count: int) -> None:
        before = "0," * (count - 1)  # so that it is met in a later piece as well
        data = data.replace("[", "[" + before, 1) if data.startswith("[") else data
        text = json.dumps(message("?")).replace('"?"', data)
        with pytest.raises(InvalidRequest):
            read(text.encode())


class TestRequest:
    def test_binary(self) -> None:
        tensor = read(with_size(6), b"abcdef")
        assert tensor == Tensor("UINT8", (1, 2, 3), b"abcdef")

    @pytest.mark.parametrize(
        ("request_", "binary", "sentence"),
        [
            (b"", b"", "not JSON"),
            (b"\xff", b"", "not JSON"),
            (b"[" * 60_000, b"", "not JSON"),
            (b"[]", b"", "The message: Input should be an object"),
            ({}, b"", "inputs: Field required"),
            ({"inputs": []}, b"", "one input; there are 0"),
            ({"inputs": [INPUT, INPUT]}, b"", "one input; there are 2"),
            ({"inputs": [{}]}, b"", "inputs.0.name: Field required"),
            (message([1], id=7), b"", "id: Input should be a valid string"),
            (message([1], parameter={}), b"", "'parameter' is not served"),
            (message([1], outputs=[{"name": "boxes", "data": []}]), b"", "is not served"),
            (with_size(6, shape=[1, -2, 3]), b"abcdef", "inputs.0.shape.1: "),
            (with_size(6, shape=[1, True, 3]), b"abcdef", "inputs.0.shape.1: "),
            (with_size(5), b"abcdef", "6 bytes follow the JSON; binary_data_size is 5"),
            (with_size(7), b"abcdef", "6 bytes follow the JSON; binary_data_size is 7"),
            (with_size(-6), b"abcdef", "binary_data_size"),
            (with_size(6, data=[1]), b"abcdef", "not both"),
            (with_size(6, data="x"), b"abcdef", "not both"),
            (message([1]), b"abcdef", "binary_data_size is 0"),
            (message(), b"", "data must be whole numbers"),
            ({"inputs": [{**INPUT, "datatype": "BYTES", "data": ["x"]}]}, b"", "binary data"),
            ({"inputs": [{**INPUT, "datatype": "BYTES", "data": [1]}]}, b"", "binary data"),
            (
                {"inputs": [{**INPUT, "parameters": {"shared_memory_region": "x"}}]},
                b"",
                "no memory is shared",
            ),
            (
                message([1], outputs=[{"name": "boxes", "parameters": {"classification": 2}}]),
                b"",
                "not scores of a whole image",
            ),
        ],
    )
    def test_refusals(self, request_: Any, binary: bytes, sentence: str) -> None:
        with pytest.raises(InvalidRequest, match=sentence):
            read(request_, binary)

    def test_only_numbers_may_be_long(self) -> None:
        with pytest.raises(PayloadTooLarge, match="JSON is larger"):
            read(message([1], id="x" * MAX_JSON_BYTES))
        with pytest.raises(PayloadTooLarge, match="JSON is larger"):
            read(message([0.5] * MAX_JSON_BYTES))

    @given(st.binary(), st.binary())
    def test_noise(self, text: bytes, binary: bytes) -> None:
        for written in (text, b'{"inputs":[{"data":[' + text + b"]}]}"):
            with contextlib.suppress(InvalidRequest):
                read(written, binary)


class TestElement:
    def test_the_only_one(self) -> None:
        assert Tensor("BYTES", (1,), struct.pack("<I", 2) + b"ab").element() == b"ab"
        assert Tensor("BYTES", (1,), struct.pack("<I", 0)).element() == b""

    @pytest.mark.parametrize("shape", [(), (0,), (2,), (1, 1)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InvalidRequest, match=r"shape \[1\]"):
            Tensor("BYTES", shape, struct.pack("<I", 0)).element()

    @pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\1\0\0\0", b"\1\0\0\0ab", b"\xff" * 8])
    def test_length(self, data: bytes) -> None:
        with pytest.raises(InvalidRequest, match="one element"):
            Tensor("BYTES", (1,), data).element()


class TestResponse:
    SCORES = np.array([0.5, 0.25], np.float32)
    LABELS = np.array([[3], [258]], np.int32)

    def test_json(self) -> None:
        response = write_response({"id": "1"}, [("scores", self.SCORES, False)])
        assert response.headers["content-type"] == "application/json"
        assert LENGTH_HEADER not in response.headers
        assert json.loads(bytes(response.body)) == {
            "id": "1",
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]}],
        }

    def test_mixed(self) -> None:
        outputs = [("labels", self.LABELS, True), ("scores", self.SCORES, False)]
        response = write_response({}, [*outputs, ("empty", self.SCORES[:0], True)])
        assert response.headers["content-type"] == "application/octet-stream"
        length = int(response.headers[LENGTH_HEADER])
        labels, scores, empty = json.loads(bytes(response.body[:length]))["outputs"]
        assert labels == {
            "name": "labels",
            "datatype": "INT32",
            "shape": [2, 1],
            "parameters": {"binary_data_size": 8},
        }
        assert scores["data"] == [0.5, 0.25]
        assert (empty["shape"], empty["parameters"]) == ([0], {"binary_data_size": 0})
        assert response.body[length:] == b"\x03\0\0\0\x02\x01\0\0"

    def test_strided(self) -> None:
        array = np.arange(6, dtype=np.float32).reshape(3, 2).T
        response = write_response({}, [("x", array, True)])
        raw = bytes(response.body[int(response.headers[LENGTH_HEADER]) :])
        assert np.frombuffer(raw, "<f4").tolist() == [0, 2, 4, 1, 3, 5]


def test_long_numbers_can_be_stopped() -> None:
    def stop() -> None:
        raise RequestCancelled("Nobody waits for it.")

    numbers = b"1," * 20_000 + b"1"
    text = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1],"data":[%b]}]}' % numbers
    with pytest.raises(RequestCancelled):
        read_request(text, b"", stop)
