"""A tiny data set in BCCD's layout: coloured squares on grey, one class a colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"RBC": (200, 40, 40), "WBC": (40, 40, 200), "Platelets": (40, 200, 40)}
HEIGHT, WIDTH = 96, 128


def _object(name: str, x1: int, y1: int, x2: int, y2: int) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2), strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.fixture
def bccd(tmp_path: Path) -> Path:
    """Six images in train and the same in val; the first has a degenerate box, the last none."""
    root = tmp_path / "bccd"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"image_{index}" for index in range(6)]
    for index, name in enumerate(names):
        image = np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
        objects = [_object("RBC", 30, 30, 30, 40)] if index == 0 else []
        for kind, colour in COLOURS.items() if index < 5 else ():
            x, y = (int(random.integers(0, side - 40)) for side in (WIDTH, HEIGHT))
            image[y : y + 32, x : x + 32] = colour
            objects.append(_object(kind, x, y, x + 32, y + 32))
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        text = f"<annotation>{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split in ("train", "val"):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root
