from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import InvalidImage, PayloadTooLarge, UnsupportedImage
from serving.imaging.probing import (
    BASELINE,
    LOSSLESS,
    LOSSY,
    MAX_JPEG_SCANS,
    MAX_JPEG_SEGMENTS,
    MAX_PNG_CHUNKS,
    MULTI_SCAN,
    PNG,
    probe,
)
from tests.properties import examples
from tests.serving.fakes import encode, picture
from tests.serving.imaging.files import (
    START_OF_SCAN,
    flat_webp,
    format_of,
    interlaced_png,
    jpeg_segments,
    png,
    samples,
    with_scans,
)

SAMPLES = samples(64, 48)
PROGRESSIVE = SAMPLES["jpeg-progressive"]


@pytest.mark.parametrize("name", SAMPLES)
def test_reads_the_size(name: str) -> None:
    header = probe(SAMPLES[name])
    assert (header.format, header.width, header.height) == (format_of(name), 64, 48)
    assert header.coding.num_bytes == len(SAMPLES[name])


@pytest.mark.parametrize(
    ("name", "kind", "bytes_per_pixel", "bytes_stored", "has_alpha"),
    [
        ("jpeg", BASELINE, 1.5, 4, False),
        ("jpeg-progressive", MULTI_SCAN, 1.5, 4, False),
        ("jpeg-grey", BASELINE, 1, 1, False),
        ("png", PNG, 3, 4, False),
        ("png-alpha", PNG, 4, 4, True),
        ("png-palette", PNG, 0.25, 1, True),
        ("png-interlaced", PNG, 3, 4, False),
        ("webp", LOSSY, 1.5, 4, False),
        ("webp-lossless", LOSSLESS, 4, 4, False),
    ],
)
def test_reads_how_pixels_are_coded(
    name: str, kind: str, bytes_per_pixel: float, bytes_stored: int, has_alpha: bool
) -> None:
    coding = probe(SAMPLES[name]).coding
    assert (coding.kind, coding.has_alpha) == (kind, has_alpha)
    assert (coding.bytes_per_pixel, coding.bytes_stored) == (bytes_per_pixel, bytes_stored)


@pytest.mark.parametrize(
    ("options", "bytes_per_pixel"),
    [({"subsampling": "4:4:4"}, 3), ({"subsampling": "4:2:2"}, 2), ({"subsampling": "4:2:0"}, 1.5)],
)
def test_counts_the_samples_of_a_jpeg(options: dict[str, str], bytes_per_pixel: float) -> None:
    data = encode(picture(64, 48), "JPEG", **options)
    assert probe(data).coding.bytes_per_pixel == bytes_per_pixel


@pytest.mark.parametrize("count", [None, 12, 100, MAX_JPEG_SCANS])
def test_counts_the_scans_of_a_jpeg(count: int | None) -> None:
    data = PROGRESSIVE if count is None else with_scans(PROGRESSIVE, count)
    true_count = [marker for marker, _ in jpeg_segments(data)].count(START_OF_SCAN)
    assert probe(data).coding.num_scans == true_count
    assert probe(SAMPLES["jpeg"]).coding.num_scans == 1


def test_a_thumbnail_in_the_metadata_is_no_scan() -> None:
    thumbnail = SAMPLES["jpeg"]
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    data = PROGRESSIVE[:2] + segment + PROGRESSIVE[2:]
    assert probe(data).coding.num_scans == probe(PROGRESSIVE).coding.num_scans


def test_refuses_more_scans_than_anybody_writes() -> None:
    with pytest.raises(PayloadTooLarge, match=f"at most {MAX_JPEG_SCANS}"):
        probe(with_scans(PROGRESSIVE, MAX_JPEG_SCANS + 1))


def test_counts_the_passes_of_a_png() -> None:
    assert probe(interlaced_png(picture(64, 48))).coding.num_scans == 7
    assert probe(SAMPLES["png"]).coding.num_scans == 1


def test_what_an_extended_webp_has_further_down_counts() -> None:
    extended = SAMPLES["webp-extended"]
    assert probe(extended).coding.kind == (LOSSLESS if b"ALPH" in extended else LOSSY)
    header = extended[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(10)
    assert probe(header + flat_webp(8, 8)[12:]).coding.kind == LOSSLESS


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidImage),
        (b"hello, this is text", UnsupportedImage),
        (b"GIF89a\x01\x00\x01\x00", UnsupportedImage),
        (b"BM" + bytes(60), UnsupportedImage),
        (b"\xff\xd8\xff", InvalidImage),
        (b"\x89PNG\r\n\x1a\n", InvalidImage),
        (b"RIFF\0\0\0\0WEBP", InvalidImage),
        (b"RIFF\0\0\0\0WEBPVP9 " + bytes(30), InvalidImage),
        (png(0, 5), InvalidImage),
    ],
)
def test_refuses(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        probe(data)


def test_refuses_too_many_pixels_whatever_is_behind_the_header() -> None:
    assert probe(png(100, 50), 5000).num_pixels == 5000
    with pytest.raises(PayloadTooLarge, match="40000 x 40000"):
        probe(png(40_000, 40_000), 25_000_000)


def test_refuses_a_second_header_which_pillow_would_believe() -> None:
    again = struct.pack(">IIBBBBB", 8, 8, 16, 6, 0, 0, 0)
    with pytest.raises(InvalidImage):
        probe(png(8, 8, (b"IHDR", again), (b"IDAT", zlib.compress(bytes(1000)))))


def test_bounds_the_walk_that_pillow_would_do() -> None:
    with pytest.raises(InvalidImage):
        probe(png(8, 8, *[(b"tEXt", b"")] * MAX_PNG_CHUNKS))
    comment = b"\xff\xfe\x00\x02"
    with pytest.raises(InvalidImage):
        probe(SAMPLES["jpeg"][:2] + comment * MAX_JPEG_SEGMENTS + SAMPLES["jpeg"][2:])
    with pytest.raises(InvalidImage):
        probe(SAMPLES["jpeg"][:2] + comment + bytes(1000) + SAMPLES["jpeg"][2:])


def test_a_bomb_allocates_nothing() -> None:
    bomb = png(40_000, 40_000, (b"IDAT", zlib.compress(bytes(1 << 20))))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            probe(bomb, 25_000_000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@examples(200)
@given(st.binary(min_size=0, max_size=40), st.integers(0, 2**32 - 1))
def test_no_two_scans_of_a_jpeg_are_overlooked(noise: bytes, seed: int) -> None:
    """Whatever is said between scans: at least as many are counted as the decoder finds."""
    parts = jpeg_segments(PROGRESSIVE)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(noise)) + noise
    index = seed % len(parts)
    mixed = [part for _, part in parts]
    if index:
        mixed.insert(index, comment)
    assert probe(b"".join(mixed)).coding.num_scans >= probe(PROGRESSIVE).coding.num_scans
