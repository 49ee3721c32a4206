"""What decoding costs is known before it is done, whatever a file has been made to be."""

from __future__ import annotations

import json
import pickle
import statistics
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import InvalidRequest
from serving.core.letterbox import ModelInput
from serving.imaging.decode_cost import draft_scale, memory_bytes, work_ns
from serving.imaging.pixels import open_stored
from serving.imaging.probing import MAX_JPEG_SCANS, Header, probe
from tests.properties import examples
from tests.serving.fakes import encode
from tests.serving.imaging import measure
from tests.serving.imaging.files import (
    START_OF_SCAN,
    damaged,
    flat_png,
    flat_webp,
    jpeg_segments,
    photograph,
    png,
    samples,
    with_scans,
)

INPUT = measure.INPUT
MAX_UNDERESTIMATE = 3.0
"""How many times the estimate the true cost may be."""


def work_s(data: bytes, *inputs: ModelInput) -> float:
    return work_ns(probe(data), inputs or (INPUT,)) * 1e-9


def unpacked_bytes(data: bytes) -> int:
    """What the pixels of a PNG come to once they are unpacked, by unpacking them."""
    position, packed = 8, b""
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IDAT":
            packed += data[position + 8 : position + 8 + length]
        position += 12 + length
    return len(zlib.decompress(packed))


@examples(100)
@given(*[st.integers(1, 3000)] * 4)
def test_a_jpeg_is_decoded_at_the_scale_that_pillow_chooses(
    width: int, height: int, across: int, down: int
) -> None:
    header = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    stored = open_stored(header + b"\xff\xda" + struct.pack(">HB", 6, 1) + bytes(3))
    stored.draft(None, (across, down))
    scale = draft_scale((width, height), (across, down))
    assert stored.size == (-(-width // scale), -(-height // scale))


PHOTOGRAPH = photograph(640, 480)
FILES = samples(640, 480, PHOTOGRAPH)


@pytest.mark.parametrize("count", [20, 100, MAX_JPEG_SCANS])
def test_every_scan_counts(count: int) -> None:
    data = FILES["jpeg-progressive"]
    scans = [marker for marker, _ in jpeg_segments(data)].count(START_OF_SCAN)
    each_s = (work_s(with_scans(data, count)) - work_s(data)) / (count - scans)
    whole_s = work_s(data)
    assert whole_s / scans / 3 < each_s < whole_s / scans


@pytest.mark.parametrize("name", ["png", "png-alpha", "png-palette", "png-interlaced"])
def test_every_byte_of_a_png_counts(name: str) -> None:
    header = probe(FILES[name])
    num_unpacked = header.num_pixels * header.coding.bytes_per_pixel
    assert num_unpacked <= unpacked_bytes(FILES[name]) <= num_unpacked + 2 * header.height
    coding = replace(header.coding, num_bytes=2 * header.coding.num_bytes)
    double = Header("png", header.width, 2 * header.height, coding)
    assert work_ns(double, (INPUT,)) > 1.5 * work_ns(header, (INPUT,))


def test_rows_count() -> None:
    high, wide = (probe(png(*size)) for size in ((1, 1_000_000), (1_000_000, 1)))
    assert work_ns(high, (INPUT,)) > 2 * work_ns(wide, (INPUT,))
    assert memory_bytes(high, INPUT) > 1.2 * memory_bytes(wide, INPUT)


def test_a_jpeg_is_decoded_for_each_size_that_it_comes_out_in_and_others_once() -> None:
    near, far = ModelInput(428, 428, "letterbox"), ModelInput(100, 100, "letterbox")
    for name, data in FILES.items():
        both_s, one_s = work_s(data, near, far), work_s(data, near)
        if name.startswith("jpeg"):
            assert both_s > one_s + 0.5 * work_s(data, far)
        else:
            assert both_s < 1.7 * one_s


def test_bare_pixels_take_less_than_a_png_of_them() -> None:
    raw, png_header = (Header.typical(name, 640, 480) for name in ("raw", "png"))
    assert work_ns(raw, (INPUT,)) < work_ns(png_header, (INPUT,))
    assert memory_bytes(raw, INPUT) <= memory_bytes(png_header, INPUT)


def measured(files: Sequence[bytes], repeats: int = 0) -> list[dict[str, Any]]:
    """What another process says of these files."""
    process = subprocess.run(
        [sys.executable, "-m", measure.__name__, str(repeats)],
        input=pickle.dumps(list(files)),
        capture_output=True,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(process.stdout)
    assert len(found) == len(files)
    return found


EXTREMES = {
    "many scans": with_scans(encode(photograph(1000, 750), "JPEG", progressive=True), 100),
    "large progressive": encode(photograph(3000, 2000), "JPEG", progressive=True),
    "large jpeg": encode(photograph(4000, 3000), "JPEG"),
    "all samples": encode(photograph(2000, 1500), "JPEG", subsampling="4:4:4", quality=98),
    "large png": encode(photograph(2000, 1500), "PNG", compress_level=1),
    "flat png": flat_png(4000, 3000),
    "flat png with alpha": flat_png(3000, 2000, color=6, samples=4),
    "sixteen bits": flat_png(3000, 2000, depth=16, color=6, samples=4),
    "sixteen bits of grey": flat_png(3000, 2000, depth=16, color=0, samples=1),
    "one bit": flat_png(8000, 3000, depth=1, color=0, samples=1),
    "palette": flat_png(3000, 2000, color=3, samples=1),
    "one column": flat_png(1, 3_000_000),
    "one column of grey": flat_png(1, 3_000_000, color=0, samples=1),
    "one row": flat_png(3_000_000, 1),
    "large webp": encode(photograph(2000, 1500), "WEBP"),
    "lossless webp": encode(photograph(1000, 750), "WEBP", lossless=True, method=0),
    "flat webp": flat_webp(5000, 3000),
}


@pytest.mark.slow
class TestMeasured:
    def test_memory_is_enough_for_whatever_comes(self) -> None:
        corpus = [*EXTREMES.values(), *FILES.values()]
        for seed, data in enumerate(samples(333, 250, photograph(333, 250)).values()):
            corpus += damaged(data, seed, 60)
        for data, found in zip(corpus, measured(corpus), strict=True):
            if "refused" in found:
                with pytest.raises(InvalidRequest):
                    probe(data, measure.MAX_PIXELS)
                continue
            assert found["within_estimate"] == found["without_limit"], found

    def test_time_is_of_the_right_size(self) -> None:
        """By the processor's, of all in one process: this machine may be slower than that of the
        estimates, as long as it is so for everything."""
        files = EXTREMES | FILES
        found = dict(zip(files, measured(list(files.values()), repeats=3), strict=True))
        ratios = {name: each["processor_s"] / each["estimated_s"] for name, each in found.items()}
        usual = statistics.median(ratios.values())
        wrong = {name: ratio / usual for name, ratio in ratios.items()}
        assert max(wrong.values()) < MAX_UNDERESTIMATE, wrong
        assert min(wrong.values()) > 1 / MAX_UNDERESTIMATE, wrong
