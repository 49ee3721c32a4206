"""Where frames come from, and when."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from punctual.cli.watching.ledger import Ended
from punctual.cli.watching.newest import Frame
from punctual.cli.watching.sources import FOLDER_HZ, Source, as_filmed, in_real_time
from punctual.reply import ANSWERED, read_reply
from serving.core.command_errors import CommandError, CommandFailed
from tests.punctual.test_clients import ANSWER
from tests.serving.fakes import JPEG, FakeClock


class Sleeper(FakeClock):
    """A clock that only sleeping moves, and that remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_folder_is_a_film(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere")
    source = Source(str(tmp_path), None)
    assert not source.is_live
    frames = list(source.frames())
    assert [frame.data for frame in frames] == [b"a.PNG", b"b.jpg"]
    assert [frame.at_s for frame in frames] == [0, 1 / FOLDER_HZ]
    assert [frame.at_s for frame in Source(str(tmp_path), 4).frames()] == [0, 0.25]


@pytest.mark.parametrize("name", ["nowhere.mp4", "empty", "ftp://x/a.mp4"])
def test_a_source_that_is_not_there_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(CommandError, match=name):
        Source(name, None)


@pytest.mark.parametrize(
    ("name", "is_live"),
    [
        ("rtsp://camera/1", True),
        ("RTSP://camera/1", True),
        ("/dev/video0", True),
        ("0", True),
        (__file__, False),
    ],
)
def test_what_films_by_itself_is_live(name: str, is_live: bool) -> None:
    assert Source(name, None).is_live == is_live


def test_frames_are_held_back_until_they_are_due() -> None:
    clock = Sleeper()

    def slow() -> Iterator[Frame]:
        for number, (at_s, takes_s) in enumerate(((0.0, 3.0), (0.5, 0.1), (1.0, 0.9), (1.5, 0)), 1):
            clock.now += takes_s
            yield Frame(number, at_s, b"")

    shown = [clock.now for _ in in_real_time(slow(), clock, clock.sleep)]
    start_s = shown[0]
    assert [round(at_s - start_s, 6) for at_s in shown] == [0, 0.5, 1.4, 1.5]


def frames(count: int, error: Exception | None = None) -> Iterator[Frame]:
    yield from (Frame(number, float(number), b"") for number in range(1, count + 1))
    if error is not None:
        raise error


def live_source(open_it: Callable[[], Iterator[Frame]]) -> Any:
    return SimpleNamespace(live_frames=open_it, shown="cam")


def test_the_frames_of_all_openings_are_numbered_through() -> None:
    clock = Sleeper()
    opened = iter([frames(2), frames(0, CommandFailed("lost")), frames(1)])
    source = live_source(lambda: next(opened, frames(0)))
    said: list[str] = []
    live = as_filmed(source, clock, clock.sleep, 20, said.append)
    seen = [next(live) for _ in range(3)]
    assert [frame.number for frame in seen] == [1, 2, 3]
    assert [frame.at_s for frame in seen] == [0, 0, sum(clock.slept)]
    assert clock.slept == [0.5, 1.0]
    assert said == ["cam has ended; trying again for 20 s", "cam is back after 2 s"]
    with pytest.raises(CommandFailed, match="ended"):
        next(live)
    assert clock.now - seen[-1].at_s - 1000.0 <= 20
    assert len(said) == 3, "each time that it breaks off once"


def test_a_live_source_that_never_was_there_fails_at_once() -> None:
    clock = Sleeper()
    source = live_source(lambda: frames(0, CommandFailed("no such camera")))
    with pytest.raises(CommandFailed, match="no such camera"):
        next(as_filmed(source, clock, clock.sleep, 20, print))
    assert not clock.slept


class TestFilms:
    """Read and written by PyAV."""

    @pytest.fixture(autouse=True)
    def av(self) -> None:
        pytest.importorskip("av", reason="the extra watch is not installed")

    @pytest.fixture
    def film(self, tmp_path: Path) -> Path:
        from tests.punctual.cli.watching.films import write_film

        return write_film(tmp_path / "film.mp4", num_frames=10, rate_hz=20)

    def test_every_frame_comes_at_its_time(self, film: Path) -> None:
        frames = list(Source(str(film), None).frames())
        assert [frame.number for frame in frames] == [*range(1, 11)]
        assert [frame.at_s for frame in frames] == pytest.approx([n / 20 for n in range(10)])
        brightness = [np.asarray(Image.open(io.BytesIO(f.data))).mean() for f in frames]
        assert brightness[::3] == sorted(brightness[::3], reverse=True)

    def test_a_rate_leaves_frames_out(self, film: Path) -> None:
        frames = list(Source(str(film), 7).frames())
        assert [frame.at_s for frame in frames] == pytest.approx([0, 0.15, 0.3, 0.45])

    def test_what_is_no_film_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_text("text")
        with pytest.raises(CommandError, match=r"a\.mp4 cannot be read as video"):
            list(Source(str(tmp_path / "a.mp4"), None).frames())

    def test_an_annotated_film_has_every_frame_at_its_time(self, tmp_path: Path) -> None:
        from punctual.cli.watching.records import AnnotatedVideo

        video = AnnotatedVideo(tmp_path / "out.mp4")
        reply = read_reply(ANSWER, round_trip_s=0)
        for number, at_s in ((1, 0.0), (2, 0.1), (3, 0.5)):
            known = reply if number != 2 else None
            video.ended(
                Ended(Frame(number, at_s, JPEG), ANSWERED if known else "lost", 0.0, 0.0, known)
            )
        video.skipped(range(4, 6))
        video.close()
        frames = list(Source(str(tmp_path / "out.mp4"), None).frames())
        assert [frame.at_s for frame in frames] == pytest.approx([0, 0.1, 0.5], abs=0.002)

    def test_a_name_that_is_no_video_is_told(self, tmp_path: Path) -> None:
        from punctual.cli.watching.records import AnnotatedVideo

        with pytest.raises(CommandError, match="cannot be written as video"):
            AnnotatedVideo(tmp_path / "out.txt")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rtsp://me:secret@cam:554/1?x=y", "rtsp://cam:554/1?x=y"),
        ("rtsp://me:s%40cret@[::1]/1", "rtsp://[::1]/1"),
        ("rtsp://cam/a@b", "rtsp://cam/a@b"),
        ("rtsp://[x", "rtsp://[x"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_a_password_is_shown_to_nobody(name: str, shown: str) -> None:
    assert Source(name, None).shown == shown
