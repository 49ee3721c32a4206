"""Videos and cameras, as PyAV reads them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from serving.core.command_errors import CommandError, CommandFailed

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

QUALITY = 85
"""Of the JPEG that a video's frame is sent as."""
SILENCE_S = 10.0
"""Seconds in which an address or a camera is to answer, and to have its next picture."""
_DEVICES = "/dev/video"
_FILE_HZ = Fraction(25)
"""Rate of a video that does not say its own."""

Picture = tuple[float, Callable[[], bytes]]
"""Seconds at which a picture is there, and the function to its file."""


def is_endless(name: str, shown: str) -> bool:
    """Return whether what an address has is without a length. Raises CommandFailed."""
    with _told(shown, CommandFailed), _open(name) as container:
        return container.duration is None


def pictures_as_shown(name: str, shown: str, error: type[CommandError]) -> Iterator[Picture]:
    """Yield the pictures of a video with the instants at which they are to be shown, from 0 s on.

    ``shown`` is what it is called in errors, which are of the class ``error``.
    """
    with _told(shown, error), _open(name) as container:
        stream = _video(container, shown, error)
        stream.thread_type = "AUTO"
        rate = stream.average_rate or _FILE_HZ
        first_s: float | None = None
        for index, picture in enumerate(_decodable(container, stream)):
            at_s = float(index / rate) if picture.time is None else picture.time
            first_s = at_s if first_s is None else first_s
            yield at_s - first_s, _encoder(picture)
        if first_s is None:
            raise error(f"there is no picture in {shown} that can be decoded")


def pictures_as_filmed(name: str, shown: str, clock: Callable[[], float]) -> Iterator[Picture]:
    """Yield the pictures of a live video with the instants at which they come, from 0 s on.

    Their own times are not heeded: a camera's clock may be set while it films. Raises CommandFailed
    where none comes for ``SILENCE_S``.
    """
    # A rate that is not asked for would be looked for in its first seconds.
    with _told(shown, CommandFailed), _open(name, fpsprobesize="0") as container:
        stream = _video(container, shown, CommandFailed)
        # Threads that decode a picture each would be as many pictures late.
        stream.thread_type = "SLICE"
        started_s = seen_s = clock()
        for picture in _decoded(container, stream):
            now_s = clock()
            if picture is not None:
                seen_s = now_s
                yield now_s - started_s, _encoder(picture)
            elif now_s - seen_s > SILENCE_S:
                raise CommandFailed(
                    f"{shown} has sent nothing that can be decoded for {SILENCE_S:g} s"
                )


def _open(name: str, **options: str) -> InputContainer:
    is_device, is_file = name.startswith(_DEVICES), "://" not in name
    if name.lower().startswith("rtsp"):
        # Whole pictures, rather than those that came through; where it is not to be had, UDP.
        options["rtsp_flags"] = "prefer_tcp"
    opened: InputContainer = av.open(
        name,
        format="v4l2" if is_device else None,
        options=options,
        timeout=None if is_file and not is_device else SILENCE_S,
    )
    return opened


def _video(container: InputContainer, shown: str, error: type[CommandError]) -> VideoStream:
    """Return the first video in a container. Raises ``error`` where none can be decoded."""
    if not container.streams.video:
        raise error(f"there is no video in {shown}")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise error(f"the video in {shown} is of a kind that cannot be decoded")
    return stream


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[Any]:
    """Yield the pictures, and None for what is damaged or is none yet."""
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            decoded = []
        yield from decoded or (None,)


def _decodable(container: InputContainer, stream: VideoStream) -> Iterator[Any]:
    return (each for each in _decoded(container, stream) if each is not None)


def _encoder(picture: Any) -> Callable[[], bytes]:
    def encode() -> bytes:
        written = io.BytesIO()
        picture.to_image().save(written, "JPEG", quality=QUALITY)
        return written.getvalue()

    return encode


@contextmanager
def _told(shown: str, kind: type[CommandError]) -> Iterator[None]:
    """Turn what PyAV raises into errors of the class ``kind``."""
    try:
        yield
    except av.error.ExitError as error:  # by the timeout
        raise kind(f"nothing came from {shown} for {SILENCE_S:g} s") from error
    except (av.error.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise kind(f"{shown} cannot be read as video: {why}") from error
