"""A large picture in nine tiles: how long it takes, and at which exits its tiles are answered.

The picture is made of photographs: as many as there are, in rows, each scaled to its cell.
"""

from __future__ import annotations

import io
import json
import math
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from loadtest.environment.spread import Spread
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage

SIZE = (2000, 1500)
"""Width and height of the picture, in pixels."""
QUERY = "tiles=3x3&overlap=0.2"
NUM_TILES = 9
PATIENCE_S = 15.0
WARM_UP = 5


@dataclass(frozen=True, slots=True)
class TileFigures:
    """What became of the requests with one budget."""

    budget_ms: float
    num_requests: int
    latency_ms: Spread | None
    """Latency of those that were answered, as the client sees it; None if none was."""
    answered: Spread | None
    """Share of the tiles that were answered, of each of these."""
    points: dict[str, int]
    """Operating points of all tiles, and outcomes of those that have none."""
    refused: dict[str, int]
    """Statuses of requests of which no tile was answered."""


def picture(images: Sequence[AnnotatedImage]) -> bytes:
    """Return a JPEG of ``SIZE`` that these photographs make up."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    whole = Image.new("RGB", SIZE)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        left, top = column * SIZE[0] // columns, row * SIZE[1] // rows
        right, bottom = (column + 1) * SIZE[0] // columns, (row + 1) * SIZE[1] // rows
        with Image.open(io.BytesIO(images[place % len(images)].data)) as photograph:
            cell = photograph.convert("RGB").resize((right - left, bottom - top))
        whole.paste(cell, (left, top))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(
    url: str, data: bytes, budgets_ms: Sequence[float], num_requests: int
) -> list[TileFigures]:
    """Send the picture in tiles, one request after the other, with each budget. Raises StudyError.

    Budgets take turns, so that each sees the same machine.
    """
    for _ in range(WARM_UP):
        _ask(url, data, budgets_ms[-1])
    seen = [
        [(budget_ms, *_ask(url, data, budget_ms)) for budget_ms in budgets_ms]
        for _ in range(num_requests)
    ]
    return [_figures([turn[place] for turn in seen]) for place in range(len(budgets_ms))]


def _ask(url: str, data: bytes, budget_ms: float) -> tuple[float, int, dict[str, object]]:
    """Return latency in milliseconds, status and body of a reply."""
    request = urllib.request.Request(
        f"{url}/v1/detect?{QUERY}&deadline_ms={budget_ms:g}",
        data,
        {"Content-Type": "image/jpeg"},
    )
    started_s = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            status, body = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    except OSError as error:
        raise StudyError(f"{url} does not answer: {error}") from error
    return 1e3 * (time.perf_counter() - started_s), status, json.loads(body)


def _figures(seen: Sequence[tuple[float, float, int, dict[str, object]]]) -> TileFigures:
    answered = [(latency_ms, body) for _, latency_ms, status, body in seen if status == 200]
    points: Counter[str] = Counter()
    for _, body in answered:
        parts = body["parts"]
        assert isinstance(parts, list)
        points.update(str(part.get("operating_point") or part["outcome"]) for part in parts)
    shares = [int(str(body["num_answered"])) / NUM_TILES for _, body in answered]
    return TileFigures(
        seen[0][0],
        len(seen),
        Spread.of(latency_ms for latency_ms, _ in answered) if answered else None,
        Spread.of(shares) if shares else None,
        dict(points.most_common()),
        dict(Counter(str(status) for _, _, status, _ in seen if status != 200)),
    )
