from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.triton.shared_memory import SharedImages, sweep

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


@pytest.fixture
def shared(tmp_path: Path):
    opened = SharedImages(2 * IMAGE.nbytes, 2, tmp_path)
    yield opened
    opened.close()


def content(shared: SharedImages, folder: Path, offset: int, size: int) -> bytes:
    return (folder / shared.name).read_bytes()[offset : offset + size]


def test_a_batch_lies_in_its_slot(shared, tmp_path):
    slot = shared.put([IMAGE, IMAGE + 1])
    assert slot is not None
    expected = IMAGE.tobytes() + (IMAGE + 1).tobytes()
    assert content(shared, tmp_path, slot.offset, slot.size) == expected
    assert slot.offset + slot.size <= shared.size


def test_slots_do_not_overlap_and_run_out(shared, tmp_path):
    first, second = shared.put([IMAGE]), shared.put([IMAGE + 1])
    assert content(shared, tmp_path, first.offset, first.size) == IMAGE.tobytes()
    assert content(shared, tmp_path, second.offset, second.size) == (IMAGE + 1).tobytes()
    assert shared.put([IMAGE]) is None


def test_a_slot_that_was_freed_is_the_next_one_used(shared):
    first = shared.put([IMAGE])
    shared.free(first)
    assert shared.put([IMAGE]).index == first.index


def test_closing_removes_the_file(tmp_path):
    SharedImages(10, 1, tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_owner_is_left_alone(shared, tmp_path):
    """Locks belong to open files, so even this process's own file is another's here."""
    assert sweep(tmp_path) == []
    assert (tmp_path / shared.name).exists()


def test_what_a_killed_owner_left_is_removed(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from serving.triton.shared_memory import SharedImages; "
        "SharedImages(10, 1, Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode < 0
    (left,) = tmp_path.iterdir()
    (tmp_path / "something-else").touch()
    assert sweep(tmp_path) == [left.name]
    assert [path.name for path in tmp_path.iterdir()] == ["something-else"]


def test_no_room_is_an_error_that_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space left"):
        SharedImages(10, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []
