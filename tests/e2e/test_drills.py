"""The drills as commands, over real servers, in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.servers.prometheus import ProgramMissing, find_program
from tests.e2e.backends import RUNTIME, noise
from tests.e2e.process import ROOT


def test_no_request_fails_while_gateways_are_restarted(
    small_repository: Path, tmp_path: Path
) -> None:
    try:
        find_program("haproxy")
    except ProgramMissing as error:
        pytest.skip(str(error))
    (tmp_path / "noise.png").write_bytes(noise())
    command = [sys.executable, "-m", "serving", "study", "restart", "--rate", "40"]
    command += ["--seconds", "8", "--drain-delays", "3", "--budgets", "10000"]
    command += ["--model-repository", str(small_repository), "--runtime", RUNTIME]
    command += ["--images", str(tmp_path / "noise.png"), "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("restart-*.json")
    runs = json.loads(path.read_text())["runs"]
    assert [run["proxy"] for run in runs] == ["haproxy, http", "haproxy, tcp"]
    for run in runs:
        assert run["restarts"] >= 2
        assert run["failed"] == {}
        assert run["in_time"] > 0.9 * run["sent"]
        assert run["in_time"] + run["late"] + sum(run["refused"].values()) == run["sent"]
