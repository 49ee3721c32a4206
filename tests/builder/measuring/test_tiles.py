"""Accuracy in tiles: what is small in an image is large in a tile of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.data import Dataset, Sample
from builder.measuring.images import UnreadableImage
from builder.measuring.tiles import BOTH, TILES, WHOLE, TileGrid, table, tile_accuracies
from serving.core.family import Family
from serving.core.model_entry import ModelEntry
from serving.core.request import Detections
from serving.imaging.decoding import load_image
from tests.builder.measuring.test_latency import CATALOG
from tests.serving.world import FakeClock, FakeRunner

SIDE = 60
LEAST = 8
"""Pixels of the input below which the detector sees nothing."""
FAMILY = Family(
    (ModelEntry((replace(CATALOG, classes=("x",), input_width=SIDE, input_height=SIDE),)),)
)
SMALL, LARGE = (130, 20, 150, 40), (60, 30, 150, 160)
"""Objects of which the whole image, at a third of its size, and its tiles show one each."""


class Seer(FakeRunner):
    """Finds what is white and as large as it needs to be, exactly."""

    def detections(self, batch):
        found = []
        for pixels in batch.rows:
            rows, columns = (np.flatnonzero((pixels > 200).all(axis=2).any(axis=a)) for a in (1, 0))
            box = np.zeros((0, 4), np.float32)
            if len(rows) >= LEAST and len(columns) >= LEAST:
                ends = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                box = np.array([ends], np.float32)
            ones = np.ones(len(box), np.float32)
            found.append(Detections(box, ones, np.zeros(len(box), np.int32)))
        return found


def sample(folder: Path, box: tuple[int, int, int, int]) -> Sample:
    pixels = np.zeros((180, 180, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    path = folder / f"{x1}.png"
    Image.fromarray(pixels).save(path)
    area = np.array([(x2 - x1) * (y2 - y1)], np.float32)
    return Sample(path.stem, path, (180, 180), np.array([box], np.float32), np.zeros(1, int), area)


def test_small_objects_are_found_in_tiles_and_large_ones_put_together(tmp_path: Path) -> None:
    dataset = Dataset(("x",), (sample(tmp_path, SMALL), sample(tmp_path, LARGE)))
    runner = Seer(FakeClock())
    found = tile_accuracies(runner, FAMILY, dataset, load_image, TileGrid(3, 3, 0.2))
    by_size = {way: found[(0, 1), way].ap_by_size for way in (WHOLE, TILES, BOTH)}
    assert by_size[WHOLE]["small"] == 0.0
    assert by_size[TILES]["small"] > 0.7, "but for a pixel"
    assert by_size[BOTH]["small"] > 0.7
    # An object over all tiles is cut by each: what they put together is about right.
    assert by_size[TILES]["large"] > 0.5
    assert all(batch.released for batch in runner.batches)
    lines = table(FAMILY, found)
    assert len(lines) == 1 + 3 * CATALOG.num_exits
    assert lines[0].split()[-3:] == ["small", "medium", "large"]


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    bad = replace(sample(tmp_path, SMALL), path=tmp_path / "bad")
    bad.path.write_bytes(b"none")
    with pytest.raises(UnreadableImage, match="bad"):
        tile_accuracies(
            Seer(FakeClock()), FAMILY, Dataset(("x",), (bad,)), load_image, TileGrid(2, 2, 0.2)
        )
