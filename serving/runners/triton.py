"""Segments that are models of a Triton: image -> exit k is one unary call of ``<model>_dk``.

Of a model of several input sizes, that is ``<model>_300x300_dk``.

There are fused segments only, so features never leave Triton, and the executor chooses depth and
batch whenever a call comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from serving.artifacts.model_folders import depth_model
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.errors import BackendError, BackendUnavailable
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_segment
from serving.runners.rows import copied_rows
from serving.triton import wire
from serving.triton.rpc import CHANNEL_OPTIONS, RPC_TIMEOUT_S, add_images, arrays, infer_request
from serving.triton.shared_memory import SharedImages

BATCH_SIZES = (1, 4)
"""Batch sizes tried of each model, up to the largest that its configuration allows."""
CALL_TIMEOUT_S = 60.0
"""Seconds after which a call is given up. Nobody waits for so long; ``abort`` ends a call that
hangs."""
NO_FEATURES = "the depth models of a Triton have no features"
"""Message of the errors for what only features allow."""

_OUTPUTS: dict[str, tuple[str, int | None]] = {
    wire.BOXES: ("FP32", 3),
    wire.SCORES: ("FP32", 2),
    wire.LABELS: ("INT32", 2),
    wire.COUNTS: ("INT32", None),  # (B,) or (B, 1), as the backend likes
}
"""Outputs of a depth model: datatype, and number of dimensions or None for any, by name."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch of images, or of the detections that an exit made of them."""

    depth: int
    images: tuple[Image, ...] = ()
    detections: list[Detections] = field(default_factory=list)


class TritonRunner:
    """A ``SegmentRunner`` over the depth models of one input size in the Triton at ``url``.

    ``abort`` may be called from any thread. Raises BackendUnavailable while they are not all there.
    """

    def __init__(self, catalog: Catalog, url: str) -> None:
        self._catalog = catalog
        self._image_shape = (catalog.input_height, catalog.input_width, 3)
        self._channel = grpc.insecure_channel(url, CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self.segments = frozenset(segments.fused_segments(catalog.num_exits))
        self._calling = threading.Lock()
        self._call: Any = None
        self._closed = False
        self._shared: SharedImages | None = None
        try:
            server = self._query(self._stub.ServerMetadata, pb.ServerMetadataRequest())
            self.runtime = f"triton {server.version}"
            largest = min(self._largest_batch(segment) for segment in self.segments)
            self.batch_sizes = tuple(size for size in BATCH_SIZES if size <= largest)
        except BaseException:
            self._channel.close()
            raise

    def share(self, shared: SharedImages | None) -> None:
        """Send images through ``shared``, which Triton has mapped, from now on; None: inline."""
        self._shared = shared

    def abort(self) -> None:
        """End the call that is under way, if any: its run raises BackendUnavailable."""
        with self._calling:
            if self._call is not None:
                self._call.cancel()

    # -- SegmentRunner ---------------------------------------------------------------------------

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, by reference: they are copied when they are sent."""
        self._check_open()
        check_images(images, self._image_shape, self.batch_sizes[-1])
        return Batch(segments.IMAGE, tuple(images))

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Make one unary call, and wait for it without the interpreter lock.

        Raises BackendUnavailable when Triton is not there, BackendError when it answers nonsense.
        """
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        request = infer_request(self._model(segment), "", {})
        shape = (len(batch.images), *self._image_shape)
        shared = self._shared
        slot = add_images(request, wire.IMAGES, shape, batch.images, shared)
        try:
            response = self._infer(request)
        finally:
            if slot is not None and shared is not None:
                shared.free(slot)
        return Batch(segment.stop, detections=_detections(response, len(batch.images)))

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Raise ValueError: there are no features here to select from."""
        raise ValueError(NO_FEATURES)

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Raise ValueError: there are no features here to merge."""
        raise ValueError(NO_FEATURES)

    def release(self, batch: Batch) -> None:
        """Do nothing: memory goes with the last reference."""

    def detections(self, batch: Batch) -> list[Detections]:
        """Return the boxes that the exit found."""
        self._check_open()
        return batch.detections

    def close(self, _: Pause = no_pause, /) -> None:
        """Close the connection."""
        self._closed = True
        self._channel.close()

    # -- inside ----------------------------------------------------------------------------------

    def _model(self, segment: Segment) -> str:
        """Return the name of the model that a fused segment is."""
        return depth_model(self._catalog, segment.stop)

    def _largest_batch(self, segment: Segment) -> int:
        """Return the largest batch that the configuration of a segment's model allows."""
        request = pb.ModelConfigRequest(name=self._model(segment))
        return int(self._query(self._stub.ModelConfig, request).config.max_batch_size)

    def _query(self, rpc: Any, request: Any) -> Any:
        """Ask Triton about itself. Raises BackendUnavailable."""
        try:
            return rpc(request, timeout=RPC_TIMEOUT_S)
        except grpc.RpcError as error:
            raise _unavailable(error) from error

    def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Make the call that ``abort`` can end. Raises BackendUnavailable."""
        with self._calling:
            call = self._call = self._stub.ModelInfer.future(request, timeout=CALL_TIMEOUT_S)
        try:
            return call.result()
        except grpc.FutureCancelledError as error:
            raise BackendUnavailable("Triton went away during this request.") from error
        except grpc.RpcError as error:
            raise _unavailable(error) from error
        finally:
            with self._calling:
                self._call = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")


def _unavailable(error: grpc.RpcError) -> BackendUnavailable:
    return BackendUnavailable(f"Triton refused: {error.details()}")


def _detections(response: pb.ModelInferResponse, size: int) -> list[Detections]:
    """Return the rows of an answer to ``size`` images.

    Raises BackendError if it has another shape.
    """
    found = arrays(response, _OUTPUTS)
    boxes, scores, labels = found[wire.BOXES], found[wire.SCORES], found[wire.LABELS]
    counts = found[wire.COUNTS].reshape(-1)
    most = scores.shape[1]
    if (
        boxes.shape != (size, most, 4)
        or labels.shape != scores.shape
        or len(counts) != size
        or not ((counts >= 0) & (counts <= most)).all()
    ):
        raise BackendError("Triton's boxes, scores, labels and counts do not belong together.")
    return copied_rows(boxes, scores, labels, counts)
