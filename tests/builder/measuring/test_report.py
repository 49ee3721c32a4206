"""What a report is made of, with a runner that finds one box from exit 2 on."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.data import Dataset
from builder.measuring import report
from builder.measuring.report import evenly_spaced, gather
from serving.core import segment as segments
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.model_entry import ModelEntry
from tests.builder.data.samples import make_sample
from tests.builder.measuring.test_latency import CATALOG, Oracle
from tests.serving.world import FakeClock


@pytest.mark.parametrize(
    ("count", "wanted", "positions"),
    [(72, 3, [12, 36, 60]), (2, 5, [0, 1]), (1, 1, [0]), (7, 1, [3]), (5, 0, [])],
)
def test_pictures_are_evenly_spaced(count: int, wanted: int, positions: list[int]) -> None:
    assert evenly_spaced(count, wanted) == positions


def test_what_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((600, 1200, 3), np.uint8)
    samples = [
        make_sample(tmp_path / f"{name}.png", image, [(0, 0, 600, 600)], [0]) for name in "abc"
    ]
    times = {
        (segment, batch): Quantiles(0.002, 0.003, 0.004)
        for segment in segments.unit_segments(CATALOG.num_exits)
        for batch in (1, 4)
    }
    profile = LatencyProfile("fake", "m", "d", 1, times)
    entry = ModelEntry((replace(CATALOG, profiles={"quick": profile}),))
    monkeypatch.setattr(report, "exit_macs", lambda *_: (10, 20, 30, 40, 50))

    def facts(runtime: str) -> report.ModelSummary:
        (summary,) = gather(
            Oracle(FakeClock()),
            runtime,
            tmp_path,
            entry,
            Dataset(("x",), tuple(samples)),
            lambda data, model_input, inputs=(): (
                np.zeros((model_input.height, model_input.width, 3), np.uint8),
                model_input.place(1200, 600),
            ),
            2,
        )
        return summary

    found = facts("quick")
    assert [of_exit.macs for of_exit in found.exits] == [10, 20, 30, 40, 50]
    assert [round(of_exit.accuracy.ap, 6) for of_exit in found.exits] == [0, 1, 1, 1, 1]
    assert [of_exit.p50_ms for of_exit in found.exits] == pytest.approx([6, 8, 10, 12, 14])
    assert found.num_of_class == {"x": 3}
    assert found.num_of_size == {"small": 0, "medium": 0, "large": 3}
    assert [image.name for image in found.images] == ["a", "c"]
    shown = found.images[0]
    assert shown.size == (600, 1200)
    assert Image.open(io.BytesIO(shown.jpeg)).size == (480, 240)
    assert [len(rows.scores) for rows in shown.found.values()] == [0, 1, 1, 1, 1]
    assert shown.found[5].boxes_xyxy.tolist() == [[0, 0, 600, 600]]

    assert facts("slow").exits[0].p50_ms is None
