"""Small films, made as they are needed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.serving.fakes import picture


def write_film(
    path: Path, num_frames: int, rate_hz: int, width: int = 64, height: int = 48
) -> Path:
    """Write a film whose frames grow darker; returns its path."""
    width, height = 64, 48
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            pixels = picture(width, height) * (1 - index / num_frames / 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8))))
        container.mux(stream.encode(None))
    return path
