"""Where frames come from: a folder of images, a video file, an address, or a camera.

A source yields its frames as fast as they are asked for, with the instant at which each was there;
``in_real_time`` holds them back until then. A live source is held back by what films it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from punctual.cli.watching.newest import Frame
from punctual.images import SUFFIXES
from serving.core.command_errors import CommandError, CommandFailed

FIRST_DELAY_S, MAX_DELAY_S = 0.5, 5.0
"""Between two attempts to open a live source again; twice as long each time."""
FOLDER_HZ = 10.0
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt")
_WEB = ("http", "https")
_DEVICES = "/dev/video"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Source:
    """A source by its name, with at most ``rate_hz`` frames a second.

    Raises CommandError for a name that leads to nothing.
    """

    def __init__(
        self, name: str, rate_hz: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = f"{_DEVICES}{name}" if name.isdecimal() and len(name) < 3 else name
        self._rate_hz = rate_hz
        self._clock = clock
        self.shown = without_password(self._name)
        """Its name as it may be shown to anybody."""
        scheme = _SCHEME.match(self._name)
        self._scheme = "" if scheme is None else scheme[1].lower()
        self._is_device = self._name.startswith(_DEVICES)
        path = Path(self._name)
        if scheme is not None and self._scheme not in (*_LIVE, *_WEB):
            raise CommandError(
                f"{self.shown}: a source's address begins with one of "
                f"{', '.join(f'{each}://' for each in (*_LIVE, *_WEB))}"
            )
        if not (self._scheme or self._is_device or path.exists()):
            raise CommandError(f"there is no {self._name}")
        self._images = _images(path) if path.is_dir() else None

    @property
    def is_live(self) -> bool:
        """Whether it has pictures as they are filmed, and none that are held back.

        What the web has is asked whether it ends: a camera's pictures do not. Raises CommandFailed
        where it does not answer, and MissingExtra without PyAV.
        """
        if self._scheme in _WEB:
            from punctual.cli.watching.videos import is_endless

            return is_endless(self._name, self.shown)
        return bool(self._scheme) or self._is_device

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of what is not live.

        Raises CommandError for a file that is no video, and CommandFailed for an address that
        cannot be read.
        """
        if self._images is not None:
            return self._files(self._images)
        from punctual.cli.watching.videos import pictures_as_shown

        kind = CommandFailed if self._scheme else CommandError
        return _thinned(pictures_as_shown(self._name, self.shown, kind), self._rate_hz)

    def live_frames(self) -> Iterator[Frame]:
        """Yield the frames of what is live, at the instants at which they come, until it ends.
        Raises CommandFailed where it cannot be read."""
        from punctual.cli.watching.videos import pictures_as_filmed

        pictures = pictures_as_filmed(self._name, self.shown, self._clock)
        return _thinned(pictures, self._rate_hz)

    def _files(self, images: list[Path]) -> Iterator[Frame]:
        for index, path in enumerate(images):
            yield Frame(index + 1, index / (self._rate_hz or FOLDER_HZ), path.read_bytes())


def without_password(name: str) -> str:
    """Return an address as it may be shown: whoever may watch it is left out."""
    try:
        parts = urlsplit(name)
        if "@" not in parts.netloc:
            return name
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:  # none that can be taken apart, and nobody's then
        return name


def _thinned(
    pictures: Iterable[tuple[float, Callable[[], bytes]]], rate_hz: float | None
) -> Iterator[Frame]:
    """Yield the pictures that are not too soon after the one before, as files."""
    next_s, number = 0.0, 0
    for at_s, encode in pictures:
        if at_s < next_s:
            continue
        if rate_hz is not None:
            # What is a little late does not make all that follow later.
            next_s = max(next_s, at_s - 1 / rate_hz) + 1 / rate_hz
        number += 1
        yield Frame(number, at_s, encode())


def _images(folder: Path) -> list[Path]:
    images = sorted(
        each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file()
    )
    if not images:
        raise CommandError(f"there is no image in {folder}")
    return images


def as_filmed(
    source: Source,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    give_up_s: float,
    say: Callable[[str], None],
) -> Iterator[Frame]:
    """Yield the frames of a live source, which is opened again if it breaks off.

    ``say`` is told when it does and when it is back. Raises CommandFailed where there has been no
    frame, or none for ``give_up_s``.
    """
    started_s = seen_s = clock()
    number, delay_s = 0, FIRST_DELAY_S
    is_broken = False
    while True:
        why: CommandError = CommandFailed(f"{source.shown} has ended")
        try:
            for frame in source.live_frames():
                if is_broken:
                    say(f"{source.shown} is back after {clock() - seen_s:.0f} s")
                is_broken = False
                number, seen_s, delay_s = number + 1, clock(), FIRST_DELAY_S
                yield replace(frame, number=number, at_s=seen_s - started_s)
        except CommandFailed as error:
            why = error
        if not number or clock() - seen_s + delay_s > give_up_s:
            raise why
        if not is_broken:
            say(f"{why}; trying again for {give_up_s:g} s")
        is_broken = True
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
