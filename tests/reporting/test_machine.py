from __future__ import annotations

import pytest

from reporting.machine import machine


@pytest.mark.parametrize(
    ("script", "described"),
    [
        (
            "echo 'NVIDIA H200, 570.124.06'; echo 'NVIDIA L4, 570.124.06'",
            "NVIDIA H200 (driver 570.124.06)",
        ),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "cores"),
        (None, "cores"),
    ],
)
def test_the_machine_is_described_with_its_gpu(script, described, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    assert machine().endswith(described)
    assert " cores" in machine()
