"""Cameras, as FFmpeg's client of RTSP reads them over real sockets."""

from __future__ import annotations

import base64
import io
import itertools
import time

import pytest
from PIL import Image

pytest.importorskip("av", reason="the extra watch is not installed")

from loadtest.servers.free_ports import free_port
from punctual.cli.watching import videos
from punctual.cli.watching.sources import Source, as_filmed
from serving.core.command_errors import CommandFailed
from tests.punctual.cli.watching.camera import HEIGHT, WIDTH, Camera

PASSWORD = base64.b64encode(b"me:secret").decode()


def seen(url: str, number: int = 3) -> list[bytes]:
    """The first pictures of a camera."""
    frames = Source(url, None).live_frames()
    return [frame.data for frame in itertools.islice(frames, number)]


@pytest.mark.parametrize(
    ("has", "used"), [(("TCP", "UDP"), ["TCP"]), (("UDP",), ["UDP"])], ids=["either", "only UDP"]
)
def test_pictures_come_over_what_a_camera_has(has: tuple[str, ...], used: list[str]) -> None:
    with Camera(transports=has) as camera:
        pictures = seen(camera.url())
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(WIDTH, HEIGHT)] * 3
    assert camera.used == used


def test_a_user_is_let_in() -> None:
    with Camera(password=PASSWORD) as camera:
        assert len(seen(camera.url("me:secret@"))) == 3


@pytest.mark.parametrize(
    ("camera", "user", "path", "told"),
    [
        (Camera(), "", "nothing", "404"),
        (Camera(password=PASSWORD), "", "cam", "401"),
        (Camera(password=PASSWORD), "me:wrong@", "cam", "401"),
        (Camera(media="audio", encoding="PCMA/8000"), "", "cam", "there is no video"),
        pytest.param(
            *(Camera(encoding="X-NEW/90000"), "", "cam", "cannot be decoded"),
            marks=pytest.mark.slow,  # FFmpeg looks for five seconds
        ),
    ],
)
def test_what_is_wrong_is_told_without_the_password(
    camera: Camera, user: str, path: str, told: str
) -> None:
    with camera, pytest.raises(CommandFailed, match=told) as error:
        seen(camera.url(user, path))
    assert camera.url(path=path) in str(error.value)


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:{port}/cam", "/dev/video63"])
def test_nobody_there_is_told(source: str) -> None:
    url = source.format(port=free_port())
    with pytest.raises(CommandFailed, match=f"{url} cannot be read as video"):
        seen(url)


def test_a_camera_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "SILENCE_S", 0.3)
    with Camera(is_mute=True) as camera, pytest.raises(CommandFailed, match=r"for 0\.3 s"):
        seen(camera.url())


def test_a_camera_that_breaks_off_is_opened_again() -> None:
    said: list[str] = []
    with Camera(num_pictures=3) as camera:
        slept: list[float] = []
        frames = as_filmed(
            Source(camera.url(), None), time.monotonic, slept.append, 60.0, said.append
        )
        numbers = [frame.number for frame in itertools.islice(frames, 6)]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert len(slept) == 1
    assert said == [
        f"{camera.url()} has ended; trying again for 60 s",
        f"{camera.url()} is back after 0 s",
    ]
