from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import BackendError
from serving.core.request import Request
from serving.triton import wire
from serving.triton.answer import read_answer
from tests.serving.fakes import FAMILY

REQUEST = Request(7, 0.0, 1.0, 1, 2)
POINTS = ((0, 1), (0, 2), (1, 1))
DATATYPES = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}


def response(point: list[int], **others: Any) -> pb.ModelInferResponse:
    arrays = {
        wire.BOXES: np.ones((2, 4), np.float32),
        wire.SCORES: np.array([0.9, 0.5], np.float32),
        wire.LABELS: np.array([1, 0], np.int32),
        wire.EXIT_DEPTH: np.array([point[1]], np.int32),
        wire.OPERATING_POINT: np.array(point, np.int32),
        wire.TIMES: np.array([1000, 20_000, 18_000], np.int64),
        **others,
    }
    message = pb.ModelInferResponse()
    for name, array in arrays.items():
        message.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message


def test_an_answer_of_one_point() -> None:
    answered, in_triton_s = read_answer(REQUEST, response([1, 1]), 5.0, POINTS, FAMILY.find_fault)
    assert (answered.model, answered.depth, answered.earlier) == (1, 1, ())
    assert (answered.finished_s, answered.predicted_s) == (5.0, 0.018)
    assert in_triton_s == pytest.approx(0.021)


def test_an_answer_that_took_in_earlier_ones() -> None:
    answered, _ = read_answer(REQUEST, response([1, 1, 0, 2]), 5.0, POINTS, FAMILY.find_fault)
    assert (answered.model, answered.depth, answered.earlier) == (1, 1, ((0, 2),))
    answered, _ = read_answer(REQUEST, response([1, 1, 0, 1, 0, 2]), 5.0, POINTS, FAMILY.find_fault)
    assert answered.points == ((0, 1), (0, 2), (1, 1))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (response([1, 2]), "at an operating point that is not there"),
        (response([2, 1]), "at an operating point that is not there"),
        (response([1, 1, 2, 1]), "at an operating point that is not there"),
        (response([1, 1, 0]), "not how it came about"),
        (response([0, 2], **{wire.TIMES: np.zeros(2, np.int64)}), "not how it came about"),
        (response([0, 2], **{wire.LABELS: np.zeros(3, np.int32)}), "do not belong together"),
        (response([0, 2], **{wire.SCORES: np.array([0.9, np.nan], np.float32)}), "a score"),
        (response([0, 2], **{wire.BOXES: np.full((2, 4), np.inf, np.float32)}), "near the image"),
        (response([0, 2], **{wire.LABELS: np.array([0, 2], np.int32)}), "one of 2 classes"),
    ],
)
def test_malformed_answers_are_engine_errors(message: pb.ModelInferResponse, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        read_answer(REQUEST, message, 5.0, POINTS, FAMILY.find_fault)


def test_a_depth_that_was_not_asked_for() -> None:
    request = Request(7, 0.0, 1.0, 2, 2)
    with pytest.raises(BackendError, match="exit 1, which was not asked for"):
        read_answer(request, response([0, 1]), 5.0, POINTS, FAMILY.find_fault)
