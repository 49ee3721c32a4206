from __future__ import annotations

import os
from pathlib import Path

from serving.system.memory import available_bytes, resident_bytes

MIB = 2**20


def test_this_process_has_some_memory_and_one_that_is_not_there_has_none() -> None:
    assert resident_bytes(os.getpid()) > MIB
    assert resident_bytes(2**22 + 1) == 0


def test_the_narrower_of_machine_and_container_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8192 kB\nMemAvailable: 4096 kB\n")
    assert available_bytes(tmp_path, tmp_path / "none") == 4 * MIB
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text(f"{3 * MIB}\n")
    (group / "memory.current").write_text(f"{2 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {MIB}\n")
    assert available_bytes(tmp_path, group) == 2 * MIB
    (group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path, group) == 4 * MIB
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
