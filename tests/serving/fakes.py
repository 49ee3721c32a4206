"""What gateway tests put in place of the engine, the clock and the camera."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from serving.core.catalog import Catalog, Evaluation, Exit
from serving.core.errors import BackendUnavailable
from serving.core.family import Family
from serving.core.model_entry import ModelEntry
from serving.core.ports import Image
from serving.core.request import Answered, Detections, Request

CATALOG = Catalog(
    name="cells",
    version="1",
    description="A model that does not exist.",
    license="Apache-2.0",
    flavour="test",
    classes=("circle", "square"),
    input_height=96,
    input_width=128,
    resize="letterbox",
    max_detections=100,
    score_threshold=0.05,
    exits=tuple(Exit(depth, 0.3 + depth / 10, 0.6, {}) for depth in (1, 2, 3)),
    evaluation=Evaluation("shapes", "val", 10, 0, "onnxruntime", "2026-01-01"),
    segments={},
    profiles={},
    command="none",
)


def family_of(*catalogs: Catalog) -> Family:
    """The family of models of one input size each."""
    return Family(tuple(ModelEntry((catalog,)) for catalog in catalogs))


FAMILY = family_of(CATALOG)

DETECTIONS = Detections(
    boxes_xyxy_input=np.array([[8, 16, 24, 32], [0, 0, 4, 4], [1, 1, 2, 2]], dtype=np.float32),
    scores=np.array([0.9, 0.5, 0.1], dtype=np.float32),
    labels=np.array([1, 0, 0], dtype=np.int32),
)


class FakeClock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Behaviour = Callable[[Image, Request], Awaitable[Answered]]
Growth = Callable[[Image, Request], AsyncGenerator[Answered, None]]


class FakeBackend:
    """Answers at the deepest exit of the first model allowed, at once, unless told to behave
    otherwise."""

    def __init__(
        self,
        clock: Callable[[], float],
        behaviour: Behaviour | None = None,
        family: Family = FAMILY,
    ) -> None:
        self.family = family
        self.ready = self.alive = True
        self.absence = BackendUnavailable("The engine is not ready.")
        self.num_waiting = self.num_in_flight = self.num_held = 0
        self.num_instances = 1
        self.exit_s = 0.010
        """How much longer each exit takes than the one before."""
        self.tail_ratio = 1.0
        """By how much it seldom takes longer than that."""
        self.seen: list[tuple[Image, Request]] = []
        self.stopped_with: float | None = None
        self.start_error: Exception | None = None
        self.clock = clock
        self.behaviour: Behaviour = behaviour or self.answer
        self.growth: Growth = self.answers
        self.plain: Growth = self.only

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        return self.exit_s * depth + 0.005 * (model or 0)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        return self.tail_ratio * self.predicted_s(depth, model)

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.ready = True

    async def stop(self, grace_s: float) -> None:
        self.ready, self.stopped_with = False, grace_s

    def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        self.seen.append((image, request))
        return (self.growth if request.streaming else self.plain)(image, request)

    async def only(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """The one answer of a plain request."""
        yield await self.behaviour(image, request)

    async def answers(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """One at each exit that is wanted, all at once."""
        for depth in range(request.min_depth, request.max_depth + 1):
            yield await self.answer(image, request, depth)

    async def answer(self, _: Image, request: Request, depth: int | None = None) -> Answered:
        now_s = self.clock()
        depth = depth or self.family.deepest(0, request.max_depth)
        return Answered(request, DETECTIONS, depth, now_s, now_s, 0.0, self.predicted_s(depth))


async def forever(*_: Any) -> Any:
    """A backend's behaviour: never answer."""
    await asyncio.Event().wait()


def picture(width: int, height: int) -> npt.NDArray[np.uint8]:
    """``(height, width, 3)``: four quarters, so that any turn or flip shows. Red, green above
    blue, grey."""
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 210)
    return pixels


def encode(pixels: npt.NDArray[Any] | PillowImage.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of ``kind`` (JPEG, PNG or WEBP)."""
    image = pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encode(picture(64, 48), "JPEG", quality=95)


def write_catalogs(folder: Path, *models: str | Catalog, default: str | None = None) -> Path:
    """Models with nothing but these catalogues, ``CATALOG`` where there is only a name; the one
    called ``default`` is marked as such. Returns ``folder``."""
    for model in models:
        catalog = replace(CATALOG, name=model) if isinstance(model, str) else model
        version = folder / f"{catalog.name}_anytime" / "1"
        version.mkdir(parents=True)
        entry = ModelEntry((catalog,), default=catalog.name == default)
        (version / "catalog.json").write_text(json.dumps(entry.to_json()))
    return folder
