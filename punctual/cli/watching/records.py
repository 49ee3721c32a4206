"""What becomes of frames, written down: as lines of JSON, or as a video with the boxes in it."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from PIL import Image

from punctual.cli.drawing import as_seen, draw_caption, draw_detections
from punctual.cli.watching.ledger import SKIPPED, Ended
from punctual.reply import Detection
from serving.core.command_errors import CommandError, CommandFailed

_TICKS_HZ = 1000
"""Of a video's time: frames are shown when they were there, not at a rate."""
_NOMINAL_HZ = 25
ON_TIME_COLOR, MISSED_COLOR = (10, 127, 120), (179, 54, 31)


class JsonLines:
    """A line for every frame of the source, in a file that is the caller's."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def ended(self, ended: Ended) -> None:
        """Write what became of a frame that was sent."""
        said: dict[str, Any] = {}
        if ended.reply is not None:
            said = dict(ended.reply.raw)
        elif ended.problem is not None:
            said = {"title": ended.problem.title, "detail": ended.problem.detail}
        self._write(
            {
                **said,
                "frame": ended.frame.number,
                "at_s": round(ended.frame.at_s, 3),
                "outcome": ended.outcome,
                "age_ms": round(ended.age_s * 1e3, 3),
            }
        )

    def skipped(self, frames: range) -> None:
        """Write the numbers of frames that were not sent."""
        for number in frames:
            self._write({"frame": number, "outcome": SKIPPED})

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


class AnnotatedVideo:
    """A video of the frames that were sent, each with its boxes.

    One that was not answered has the boxes that were known then, and says what became of it.
    Raises CommandError for a name that is not one of a kind of video that can hold H.264, and in a
    folder that is not there.
    """

    def __init__(self, path: Path) -> None:
        import av

        self._path = path
        if not path.parent.is_dir():  # which is found out by the first frame otherwise
            raise CommandError(f"{path} cannot be written: there is no folder {path.parent}")
        try:
            self._container = av.open(str(path), "w")
            self._stream: Any = self._container.add_stream("libx264", rate=_NOMINAL_HZ)
        except (av.FFmpegError, ValueError) as error:
            why = f"{path} cannot be written as video: {error}"
            raise CommandError(f"{why}; a name that ends in .mp4 or .mkv can") from error
        self._is_begun = self._has_failed = False
        self._known: tuple[Detection, ...] = ()
        self._last_tick = -1

    def ended(self, ended: Ended) -> None:
        """Write a frame that was sent.

        Raises CommandFailed where it cannot be encoded; nothing follows it then.
        """
        picture = _decoded(ended.frame.data)
        if picture is None:  # it is no image; the one before stays for longer
            return
        if ended.reply is not None:
            self._known = ended.reply.detections
            timings = ended.reply.timings
            used = f"{timings.elapsed_ms:.0f} of {timings.budget_ms:g} ms"
            caption = f"{ended.reply.operating_point}  {used}"
        else:
            caption = ended.outcome
        draw_detections(picture, self._known)
        draw_caption(picture, caption, MISSED_COLOR if ended.reply is None else ON_TIME_COLOR)
        if not self._has_failed:
            self._write(picture, ended.frame.at_s)

    def skipped(self, frames: range) -> None:
        """Leave out frames that were not sent: the one before stays for longer."""

    def _write(self, picture: Image.Image, at_s: float) -> None:
        import av

        if not self._is_begun:
            # The chroma of two pixels by two is one: sides are even.
            self._stream.width = picture.width + picture.width % 2
            self._stream.height = picture.height + picture.height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS_HZ)
        size = (self._stream.width, self._stream.height)
        frame = av.VideoFrame.from_image(picture if picture.size == size else picture.resize(size))
        self._last_tick = frame.pts = max(self._last_tick + 1, round(at_s * _TICKS_HZ))
        frame.time_base = Fraction(1, _TICKS_HZ)
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            self._has_failed = True
            width, height = size
            raise CommandFailed(
                f"{self._path}: a frame of {width}x{height} cannot be written: {error.strerror}"
            ) from error
        self._is_begun = True

    def close(self) -> None:
        """Finish the file."""
        if self._is_begun and not self._has_failed:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def _decoded(data: bytes) -> Image.Image | None:
    """Return the picture in the bytes of a file, None if they are damaged or are none."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return as_seen(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
