"""Image files for tests: one of each kind, put together by hand where no encoder would, and damaged
in every way with a fixed seed."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from tests.serving.fakes import encode, picture

PNG_START = b"\x89PNG\r\n\x1a\n"
END_OF_IMAGE = b"\xff\xd9"
START_OF_SCAN = 0xDA
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_ADAM7_LAST = (0, 1, 1, 2)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    *chunks: tuple[bytes, bytes],
    depth: int = 8,
    color: int = 2,
    interlace: int = 0,
) -> bytes:
    """A PNG with any header and any further chunks."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return PNG_START + b"".join(chunk(*c) for c in ((b"IHDR", head), *chunks))


def interlaced_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An Adam7 PNG of ``(height, width, 3)``, which Pillow reads and does not write."""
    rows = b""
    for left, top, across, down in (*_ADAM7, _ADAM7_LAST):
        part = pixels[top::down, left::across]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    height, width = pixels.shape[:2]
    return png(width, height, (b"IDAT", zlib.compress(rows)), (b"IEND", b""), interlace=1)


def flat_png(width: int, height: int, *, depth: int = 8, color: int = 2, samples: int = 3) -> bytes:
    """A PNG of zeros, which takes a thousandth of what it unpacks to."""
    row = bytes(1 + -(-width * samples * depth // 8))
    packer = zlib.compressobj(9)
    rows_at_once = max(1, 2**20 // len(row))
    packed = b"".join(
        packer.compress(row * min(rows_at_once, height - first))
        for first in range(0, height, rows_at_once)
    )
    data = packed + packer.flush()
    palette = [(b"PLTE", bytes(3 * 256))] if color == 3 else []
    return png(width, height, *palette, (b"IDAT", data), (b"IEND", b""), depth=depth, color=color)


def flat_webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour, in some forty bytes."""
    return encode(PillowImage.new("RGB", (width, height)), "WEBP", lossless=True)


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """(marker, bytes with all that follows up to the next marker) of all parts of a JPEG."""
    parts: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        marker, end = data[position + 1], position + 2
        if marker not in (0xD8, 0xD9):
            (length,) = struct.unpack_from(">H", data, end)
            end += length
        if marker == START_OF_SCAN:
            while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        parts.append((marker, data[position:end]))
        position = end
    return parts


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG of which the last scan comes again until there are ``count``."""
    parts = jpeg_segments(data)
    scans = [part for marker, part in parts if marker == START_OF_SCAN]
    body = b"".join(part for _, part in parts[:-1])
    return body + scans[-1] * (count - len(scans)) + END_OF_IMAGE


def photograph(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Something with as much to say at every scale as a photograph has, roughly."""
    noise = np.random.default_rng(7)
    image = np.zeros((height, width, 3))
    for size in (4, 16, 64, 256):
        coarse = noise.normal(0, 24, (min(size, height), min(size, width), 3))
        layer = PillowImage.fromarray(np.clip(coarse + 128, 0, 255).astype(np.uint8))
        image += np.asarray(layer.resize((width, height)), dtype=float) - 128
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def samples(
    width: int, height: int, pixels: npt.NDArray[np.uint8] | None = None
) -> dict[str, bytes]:
    """A file of each kind: name, which begins with the format, -> bytes."""
    image = picture(width, height) if pixels is None else pixels
    alpha = PillowImage.fromarray(image).convert("RGBA")
    return {
        "jpeg": encode(image, "JPEG", quality=95),
        "jpeg-progressive": encode(image, "JPEG", quality=95, progressive=True),
        "jpeg-grey": encode(PillowImage.fromarray(image).convert("L"), "JPEG", quality=95),
        "png": encode(image, "PNG"),
        "png-alpha": encode(alpha, "PNG"),
        "png-palette": encode(PillowImage.fromarray(image).quantize(), "PNG", transparency=255),
        "png-interlaced": interlaced_png(image),
        "webp": encode(image, "WEBP", quality=95),
        "webp-lossless": encode(image, "WEBP", lossless=True),
        "webp-extended": encode(alpha, "WEBP", quality=95, exif=b"\0"),
    }


def format_of(name: str) -> str:
    """The format of a sample, by its name."""
    return name.split("-", maxsplit=1)[0]


# ---- damage -----------------------------------------------------------------------------------


def damaged(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """``count`` variants of a file: cut, with bits turned, with another header, with its parts
    taken out, doubled and exchanged. The same for the same seed."""
    chance = random.Random(seed)
    ways = (_cut, _bits, _header, _parts)
    for number in range(count):
        yield ways[number % len(ways)](data, chance)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 16)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _header(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(min(len(changed), 200))] = chance.choice((0, 1, 8, 0x7F, 255))
    if data.startswith(PNG_START):  # or nobody would look any further
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed)


def _parts(data: bytes, chance: random.Random) -> bytes:
    start, parts = _split(data)
    for _ in range(chance.randint(1, 3)):
        index, other = (chance.randrange(len(parts)) for _ in range(2))
        match chance.randrange(3):
            case 0 if len(parts) > 1:
                del parts[index]
            case 1:
                parts.insert(other, parts[index])
            case _:
                parts[index], parts[other] = parts[other], parts[index]
    return start + b"".join(parts)


def _split(data: bytes) -> tuple[bytes, list[bytes]]:
    """The start of a file, and its segments or chunks."""
    if data.startswith(b"\xff\xd8"):
        return b"", [part for _, part in jpeg_segments(data)]
    start, position, parts = (8, 8, []) if data.startswith(PNG_START) else (12, 12, [])
    while position < len(data):
        if start == 8:
            end = position + 12 + struct.unpack_from(">I", data, position)[0]
        else:
            (length,) = struct.unpack_from("<I", data, position + 4)
            end = position + 8 + length + length % 2
        parts.append(data[position:end])
        position = end
    return data[:start], parts
