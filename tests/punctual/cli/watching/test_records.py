"""What is written of frames, and that nothing is written over what is watched."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from punctual.cli.registry import register
from punctual.cli.watching.ledger import Ended
from punctual.cli.watching.newest import Frame
from punctual.cli.watching.records import AnnotatedVideo
from serving.core.command_errors import MISTAKE, CommandError, CommandFailed
from tests.commands import run_command
from tests.serving.fakes import encode, picture


def test_a_frame_that_is_no_image_is_left_out_of_the_video(tmp_path: Path) -> None:
    jpeg = encode(picture(64, 48), "JPEG")
    video = AnnotatedVideo(tmp_path / "x.mp4")
    for number, data in enumerate([jpeg, b"no image", jpeg[: len(jpeg) // 2], b"", jpeg]):
        video.ended(Ended(Frame(number + 1, number / 10, data), "invalid-image", 0.0, 0.0))
    video.close()
    with av.open(str(tmp_path / "x.mp4")) as written:
        assert sum(1 for _ in written.decode(video=0)) == 2


def test_a_frame_stands_upright_in_the_video_as_its_boxes_do(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(64, 48), "JPEG", exif=exif.tobytes())
    video = AnnotatedVideo(tmp_path / "x.mp4")
    video.ended(Ended(Frame(1, 0.0, data), "overloaded", 0.0, 0.0))
    video.close()
    with av.open(str(tmp_path / "x.mp4")) as written:
        shown = next(written.decode(video=0))
        assert (shown.width, shown.height) == (48, 64)


@pytest.mark.parametrize(
    ("name", "told"),
    [("nowhere/x.mp4", "there is no folder"), ("x.gif", "cannot be written as video"), ("x", "x")],
)
def test_a_video_that_cannot_be_is_told_before_the_first_frame(
    name: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=told):
        AnnotatedVideo(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_frame_that_is_too_large_for_a_video_is_told_once(tmp_path: Path) -> None:
    wide = Ended(Frame(1, 0.0, encode(picture(20000, 16), "JPEG")), "overloaded", 0.0, 0.0)
    video = AnnotatedVideo(tmp_path / "x.mp4")
    with pytest.raises(CommandFailed, match="a frame of 20000x16 cannot be written"):
        video.ended(wide)
    video.ended(wide)
    video.close()


def test_a_video_without_a_frame_can_be_closed(tmp_path: Path) -> None:
    AnnotatedVideo(tmp_path / "x.mp4").close()


@pytest.mark.parametrize(
    "options", [("--out", "film.mp4"), ("--json", "./film.mp4"), ("--json", "x", "--out", "x")]
)
def test_nothing_is_written_over_what_is_watched_or_over_another(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("film.mp4").write_bytes(b"a film")
    watch = run_command(lambda commands: register(commands, None), "watch", "film.mp4", *options)
    assert watch == MISTAKE
    assert capsys.readouterr().err.endswith(", too\n")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a film"]
