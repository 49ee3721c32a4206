"""The detector that every peer serves: one exit of the model, on Punctual's own engine.

    environment -> PeerDetectorSettings -> PeerDetector   the framework adds batches, timeouts, HTTP
    JPEG -> pixels (1) -> boxes (1 .. 4 at once) -> JSON

Decoder, runner, precision, threads and JSON are Punctual's own, so that a difference between two
servers is one of serving.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.artifacts.model_folders import ModelError, find_model, read_catalog
from serving.core import segment as segments
from serving.core.command_errors import CommandError
from serving.core.letterbox import Letterbox
from serving.core.ports import Image
from serving.core.request import Detections
from serving.core.timing import time_every_segment
from serving.execution.engine import WARM_UP_ROUNDS
from serving.imaging.decoding import load_image
from serving.imaging.malloc import keep_freed_memory
from serving.models.opening import open_runner
from serving.models.runtime_options import RuntimeOptions
from serving.runners.openvino.runner import BATCH_SIZES

RUNTIME = "openvino"
MAX_BATCH_SIZE = BATCH_SIZES[-1]
"""Largest batch that the engine is compiled for."""
ROUTE = "/v1/detect"


class PeerSettingsError(CommandError):
    """An error in the environment: it does not say what to serve. The message is one sentence."""


@dataclass(frozen=True)
class PeerDetectorSettings:
    """The settings of a peer, read from the environment: what to serve, and where.

    The variables are ``PEER_MODEL_REPOSITORY``, and ``PEER_MODEL`` where several models are in
    there; ``PEER_DEPTH``, the exit, and ``PEER_SIZE``, its input size, where the model has several;
    ``PEER_PORT`` on loopback; ``PEER_TIMEOUT_MS``.
    """

    folder: Path
    """Folder with the model's catalogue and segments."""
    size: str | None
    """Name of the input size; None: the only one."""
    depth: int
    port: int
    timeout_s: float
    """Seconds that the framework takes for its timeout: a later answer is of use to nobody."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> PeerDetectorSettings:
        """Read the settings.

        Raises PeerSettingsError, also for a model or a depth that is not there.
        """
        try:
            folder = find_model(
                Path(environment["PEER_MODEL_REPOSITORY"]), environment.get("PEER_MODEL")
            )
            size = environment.get("PEER_SIZE")
            num_exits = read_catalog(folder, size).num_exits
            settings = cls(
                folder,
                size=size,
                depth=int(environment["PEER_DEPTH"]),
                port=int(environment["PEER_PORT"]),
                timeout_s=float(environment["PEER_TIMEOUT_MS"]) / 1e3,
            )
        except KeyError as error:
            raise PeerSettingsError(f"{error.args[0]} is not set") from error
        except (ValueError, ModelError) as error:
            raise PeerSettingsError(f"the PEER_ variables cannot be used: {error}") from error
        if not 1 <= settings.depth <= num_exits:
            raise PeerSettingsError(f"PEER_DEPTH={settings.depth}: the exits are 1 to {num_exits}")
        if not settings.timeout_s > 0:
            raise PeerSettingsError("PEER_TIMEOUT_MS must be positive")
        return settings


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as the model takes it, and where the original lies in it."""

    pixels: Image
    placement: Letterbox


class PeerDetector:
    """A model's exit as one fused segment, compiled and warm; one call of ``detect`` at a time.

    The exit is ``depth`` of the model in ``folder``, at the input size called ``size``; None: the
    only one.
    """

    def __init__(self, folder: Path, size: str | None, depth: int) -> None:
        catalog = read_catalog(folder, size)
        keep_freed_memory()
        self._answer = {
            "exit_depth": depth,
            "operating_point": f"{catalog.size}/{depth}",
            "expected_ap": catalog.expected_ap(depth),
        }
        self._input = catalog.input
        self._segment = segments.fused_exit(depth)
        self._runner = open_runner(folder, RuntimeOptions(RUNTIME), {self._segment}, size)
        blank = np.zeros((catalog.input_height, catalog.input_width, 3), dtype=np.uint8)
        for _ in range(WARM_UP_ROUNDS):
            for _ in time_every_segment(self._runner, blank, catalog.num_exits, time.perf_counter):
                pass  # nobody asks for the times

    def decode(self, data: bytes) -> Decoded:
        """Decode an image file to the model's input. Raises InvalidImage or UnsupportedImage."""
        return Decoded(*load_image(data, self._input))

    def detect(self, images: Sequence[Decoded]) -> list[bytes]:
        """Return the JSON reply to each of 1 to ``MAX_BATCH_SIZE`` images, found in one run."""
        batch = self._runner.load([image.pixels for image in images])
        boxes = self._runner.run(self._segment, batch)
        found = self._runner.detections(boxes)
        self._runner.release(batch)
        self._runner.release(boxes)
        return [
            self._reply(detections, image.placement)
            for detections, image in zip(found, images, strict=True)
        ]

    def close(self) -> None:
        """Free the engine."""
        self._runner.close()

    def _reply(self, found: Detections, placement: Letterbox) -> bytes:
        """Return the reply as JSON, rounded as Punctual's own replies are.

        Boxes are to a hundredth of a pixel of the original image.
        """
        boxes = placement.to_original(found.boxes_xyxy_input).astype(float).round(2).tolist()
        scores = found.scores.astype(float).round(4).tolist()
        detections = [
            {"box": box, "score": score, "class_id": class_id}
            for box, score, class_id in zip(boxes, scores, found.labels.tolist(), strict=True)
        ]
        body = {"detections": detections, **self._answer}
        return json.dumps(body, separators=(",", ":")).encode()
