"""Answers of ``<model>_anytime``, as they come from Triton."""

from __future__ import annotations

from collections.abc import Collection

from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import BackendError, malformed_output
from serving.core.ladder import PointId
from serving.core.output_check import FindFault
from serving.core.request import Answered, Detections, Request
from serving.triton import wire
from serving.triton.rpc import arrays

_TENSORS: dict[str, tuple[str, int | None]] = {
    wire.BOXES: ("FP32", 2),
    wire.SCORES: ("FP32", 1),
    wire.LABELS: ("INT32", 1),
    wire.OPERATING_POINT: ("INT32", 1),
    wire.TIMES: ("INT64", 1),
}
"""Outputs of the model: datatype and number of dimensions, by name."""


def read_answer(
    request: Request,
    response: pb.ModelInferResponse,
    arrived_s: float,
    known: Collection[PointId],
    find_fault: FindFault,
) -> tuple[Answered, float]:
    """Return what ``response`` says of ``request``, and the seconds that it spent in Triton.

    The response came at ``arrived_s``, of an engine with the operating points ``known``. Raises
    BackendError if it is malformed, and for boxes that ``find_fault`` finds fault with.
    """
    found = arrays(response, _TENSORS)
    boxes, scores, labels = found[wire.BOXES], found[wire.SCORES], found[wire.LABELS]
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        raise BackendError("Triton's boxes, scores and labels do not belong together.")
    try:
        numbers = found[wire.OPERATING_POINT].tolist()
        point, *earlier = zip(numbers[::2], numbers[1::2], strict=True)
        times_us = found[wire.TIMES].tolist()
        queue_s, engine_s, predicted_s = (us / wire.MICROSECONDS for us in times_us)
    except ValueError as error:
        raise BackendError("Triton's answer says not how it came about.") from error
    if not all(each in known for each in (point, *earlier)):
        raise BackendError("Triton answered at an operating point that is not there.")
    model, depth = point
    if not request.min_depth <= depth <= request.max_depth:
        raise BackendError(f"Triton answered at exit {depth}, which was not asked for.")
    detections = Detections(boxes, scores, labels)
    if (fault := find_fault(detections)) is not None:
        raise malformed_output(fault)
    answered = Answered(
        request,
        detections,
        depth,
        started_s=arrived_s - engine_s,
        finished_s=arrived_s,
        engine_s=engine_s,
        predicted_s=predicted_s,
        model=model,
        earlier=tuple(earlier),
    )
    return answered, queue_s + engine_s
