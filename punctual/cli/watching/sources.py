"""Where frames come from: a folder of images, a video file, an address, or a camera.

A source yields its frames as fast as they are asked for, with the instant at which each was there;
``in_real_time`` holds them back until then. A live source is held back by what films it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punctual.cli.watching.newest import Frame
from punctual.images import SUFFIXES
from serving.core.command_errors import CommandError, CommandFailed

if TYPE_CHECKING:
    from av.container import InputContainer

QUALITY = 85
"""Of the JPEG that a video's frame is sent as."""
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 5.0
"""Between two attempts to open a live source again; twice as long each time."""
FOLDER_HZ = 10.0
OPEN_TIMEOUT_S = 10.0
_LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "udp://", "srt://")
_WEB = ("http://", "https://")
_DEVICES = "/dev/video"


class Source:
    """A source by its name, with at most ``rate_hz`` frames a second.

    Raises CommandError for a name that leads to nothing.
    """

    def __init__(self, name: str, rate_hz: float | None) -> None:
        self._name = f"{_DEVICES}{name}" if name.isdecimal() and len(name) < 3 else name
        self._rate_hz = rate_hz
        path = Path(self._name)
        self.is_live = self._name.startswith((*_LIVE_SCHEMES, _DEVICES))
        if not (self.is_live or self._name.startswith(_WEB) or path.exists()):
            raise CommandError(f"there is no {self._name}")
        self._images = _images(path) if path.is_dir() else None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames. Raises CommandFailed where a live source cannot be read, and
        CommandError for a file that is no video."""
        if self._images is not None:
            return self._files(self._images)
        return self._decoded()

    def _files(self, images: list[Path]) -> Iterator[Frame]:
        for index, path in enumerate(images):
            yield Frame(index + 1, index / (self._rate_hz or FOLDER_HZ), path.read_bytes())

    def _decoded(self) -> Iterator[Frame]:
        import av

        kind = CommandFailed if self.is_live else CommandError
        try:
            with self._open() as container:
                yield from self._thinned(_pictures(container))
        except av.FFmpegError as error:
            raise kind(f"{self._name} cannot be read as video: {error.strerror}") from error

    def _open(self) -> InputContainer:
        import av

        options: dict[str, str] = {}
        if self._name.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # whole pictures, rather than those that came through
        opened: InputContainer = av.open(
            self._name,
            format="v4l2" if self._name.startswith(_DEVICES) else None,
            options=options,
            timeout=OPEN_TIMEOUT_S if self.is_live else None,
        )
        return opened

    def _thinned(self, pictures: Iterable[tuple[float, Any]]) -> Iterator[Frame]:
        """The pictures that are not too soon after the one before, as files."""
        next_s, number = 0.0, 0
        for at_s, picture in pictures:
            if at_s < next_s:
                continue
            if self._rate_hz is not None:
                # What is a little late does not make all that follow later.
                next_s = max(next_s, at_s - 1 / self._rate_hz) + 1 / self._rate_hz
            number += 1
            yield Frame(number, at_s, _encoded(picture))


def _images(folder: Path) -> list[Path]:
    images = sorted(
        each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file()
    )
    if not images:
        raise CommandError(f"there is no image in {folder}")
    return images


def _pictures(container: InputContainer) -> Iterator[tuple[float, Any]]:
    """The pictures of a container's first video, and the seconds at which each is shown."""
    if not container.streams.video:
        return
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = stream.average_rate or Fraction(25)
    first_s: float | None = None
    for index, picture in enumerate(container.decode(stream)):
        shown_s = float(index / rate) if picture.time is None else picture.time
        first_s = shown_s if first_s is None else first_s
        yield shown_s - first_s, picture


def _encoded(picture: Any) -> bytes:
    written = io.BytesIO()
    picture.to_image().save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def as_filmed(
    source: Source, clock: Callable[[], float], sleep: Callable[[float], object], give_up_s: float
) -> Iterator[Frame]:
    """Yield the frames of a live source, which is opened again if it breaks off.

    Raises CommandFailed where there has been none, or none for `give_up_s`.
    """
    started_s = seen_s = clock()
    number, delay_s = 0, FIRST_DELAY_S
    while True:
        why: CommandError = CommandFailed("the source has ended")
        try:
            for frame in source.frames():
                number, seen_s, delay_s = number + 1, clock(), FIRST_DELAY_S
                yield replace(frame, number=number, at_s=seen_s - started_s)
        except CommandFailed as error:
            why = error
        if not number or clock() - seen_s + delay_s > give_up_s:
            raise why
        sleep(delay_s)
        delay_s = min(MAX_DELAY_S, 2 * delay_s)


def in_real_time(
    frames: Iterable[Frame], clock: Callable[[], float], sleep: Callable[[float], object]
) -> Iterator[Frame]:
    """Yield each frame when it is due; the first is due at once."""
    started_s: float | None = None
    for frame in frames:
        if started_s is None:
            started_s = clock() - frame.at_s
        early_s = started_s + frame.at_s - clock()
        if early_s > 0:
            sleep(early_s)
        yield frame
