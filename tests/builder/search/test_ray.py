"""Searches on Ray: the journal is the one that this machine's processes would have written."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.training import TrainingEvaluator
from builder.search.journal import (
    FAILED,
    JOURNAL,
    OK,
    REPEATED,
    Child,
    read_journal,
)
from builder.search.pool import DIED
from builder.search.run import run
from loadtest.servers.free_ports import free_port
from tests.builder.search.children import PROXY, analytic_search, same_but_for_machine
from tests.builder.search.ray_searches import NUM_CHILDREN, NUM_TRIALS, tuned_search
from tests.e2e.process import PATIENCE_S, ROOT, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: pip install 'punctual[ray]'",
    ),
]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths have to be short. No process may be left in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)
        eventually(lambda: not list(processes_of(name)))


def processes_of(folder: str) -> Iterator[str]:
    """Those whose command names a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if folder in command:
            yield command


def python(temporary: Path, *arguments: object) -> str:
    """What ``python -m`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "HOME": str(temporary / "home"),  # where Ray keeps a token
            "TMPDIR": str(temporary),
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=5 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on_ray(temporary: Path, name: str, folder: Path) -> tuple[Child, ...]:
    """The journal of one of ``ray_searches``."""
    folder.mkdir(exist_ok=True)
    python(temporary, "tests.builder.search.ray_searches", name, folder)
    return read_journal(folder / JOURNAL).children


def test_the_command_writes_the_journal_that_processes_do(temporary: Path, tmp_path: Path) -> None:
    command = ("serving", "search", "run", "--evaluator", "analytic", "--children", 25)
    python(temporary, *command, "--pool", "ray", "--workers", 2, "--out", tmp_path / "ray")
    expected = run(analytic_search(), tmp_path / "processes", 25, workers=2)
    assert same_but_for_machine(read_journal(tmp_path / "ray" / JOURNAL).children, expected)
    assert {path.name for path in temporary.iterdir()} <= {"home"}


def test_a_worker_that_dies_is_replaced(temporary: Path, tmp_path: Path) -> None:
    expected = run(analytic_search("random"), tmp_path / "alone", 4)
    children = on_ray(temporary, "deadly", tmp_path / "ray")
    assert (tmp_path / "ray/marks/1").exists()
    assert same_but_for_machine(children[:3], expected[:3])
    assert (children[3].status, children[3].made_by["problem"]) == (FAILED, DIED)


def test_the_child_of_a_worker_that_was_killed_goes_on_from_its_last_epoch(
    temporary: Path, bccd: Path, tmp_path: Path
) -> None:
    evaluator = TrainingEvaluator(PROXY, bccd, tmp_path / "alone", "a digest")
    expected = run(analytic_search("random", evaluator=evaluator), tmp_path / "alone", 1)
    children = on_ray(temporary, "trained", tmp_path / "ray")
    assert (tmp_path / "ray/epochs").read_text().split() == ["0", "1", "1"]
    assert same_but_for_machine(children, expected)
    assert not list((tmp_path / "ray/children").iterdir())


def test_an_experiment_of_tune_is_interrupted_and_restored(temporary: Path, tmp_path: Path) -> None:
    expected = run(tuned_search(AnalyticEvaluator()), tmp_path / "processes", NUM_CHILDREN)
    folder = tmp_path / "tune"
    begun = on_ray(temporary, "tune", folder)
    assert same_but_for_machine(begun, expected[:3])
    said = python(temporary, "tests.builder.search.ray_searches", "restored", folder)
    assert f"{NUM_TRIALS} trials, 0 errors" in said
    found = read_journal(folder / JOURNAL).children
    assert same_but_for_machine(found, expected)
    assert [child.status for child in found].count(OK) == NUM_TRIALS
    assert [child.status for child in found].count(REPEATED) == NUM_CHILDREN - NUM_TRIALS


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:{port}", "Connection refused"),
        ("ray://127.0.0.1:{port}", "Connection refused"),
        ("a-machine", "neither 'auto' nor HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, address: str, why: str) -> None:
    """At once: Ray would look for it for minutes."""
    at = address.format(port=free_port())
    search = ["-m", "serving", "search", "run", "--evaluator", "analytic", "--children", "2"]
    done = subprocess.run(
        [sys.executable, *search, "--pool", "ray", "--ray-address", at, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=5 * PATIENCE_S,
    )
    assert done.returncode == 2
    assert f"no Ray cluster can be joined at {at}" in done.stderr
    assert why in done.stderr
