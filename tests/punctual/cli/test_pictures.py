"""Which image files are meant, and where their drawings go."""

from __future__ import annotations

from pathlib import Path

import pytest

from punctual.cli.pictures import drawing_paths, find_pictures
from serving.core.command_errors import CommandError, InvalidArgument


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images at two depths, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/b.JPG",
        "in/a.png",
        "in/deep/a.png",
        "in/notes.txt",
        "in/deep/c.webp",
        "d[1].jpg",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["in"], ["in/a.png", "in/b.JPG", "in/deep/a.png", "in/deep/c.webp"]),
        (["in/**/*.png"], ["in/a.png", "in/deep/a.png"]),
        (["d[1].jpg"], ["d[1].jpg"]),  # a file of that name is no pattern
        (["in/notes.txt"], ["in/notes.txt"]),  # the server may say that it is none
        (["in/deep", "in/deep/c.webp"], ["in/deep/a.png", "in/deep/c.webp"]),
    ],
)
def test_files_folders_and_patterns(names: list[str], paths: list[str]) -> None:
    assert [str(picture.path) for picture in find_pictures(names)] == paths


@pytest.mark.parametrize("name", ["nowhere.jpg", "in/*.gif", "nowhere"])
def test_a_name_that_leads_nowhere_is_told(name: str) -> None:
    with pytest.raises(CommandError, match="there is no image") as raised:
        find_pictures(["in", name])
    assert name in str(raised.value)


def test_one_image_is_drawn_into_a_file_or_a_folder() -> None:
    pictures = find_pictures(["in/a.png"])
    assert drawing_paths(pictures, Path("out.jpg")) == {Path("in/a.png"): Path("out.jpg")}
    assert drawing_paths(pictures, Path("out")) == {Path("in/a.png"): Path("out/a.png")}


def test_a_folder_is_drawn_as_it_is_laid_out() -> None:
    paths = drawing_paths(find_pictures(["in"]), Path("out"))
    assert paths[Path("in/deep/a.png")] == Path("out/deep/a.png")
    assert len(set(paths.values())) == len(paths)


@pytest.mark.parametrize(
    ("names", "out"),
    [(["in/a.png", "in/deep/a.png"], "out"), (["in"], "in"), (["in/a.png"], "in/a.png")],
    ids=["two of a name", "into its own folder", "onto itself"],
)
def test_nothing_is_drawn_over(names: list[str], out: str) -> None:
    with pytest.raises(InvalidArgument, match="would be drawn over"):
        drawing_paths(find_pictures(names), Path(out))
