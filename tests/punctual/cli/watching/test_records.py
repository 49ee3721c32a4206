"""What is written of frames, and that nothing is written over what is watched."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from punctual.cli.registry import register
from punctual.cli.watching.ledger import Ended
from punctual.cli.watching.newest import Frame
from punctual.cli.watching.records import AnnotatedVideo
from serving.core.command_errors import MISTAKE, CommandError
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


def test_a_video_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no folder"):
        AnnotatedVideo(tmp_path / "nowhere" / "x.mp4")


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
