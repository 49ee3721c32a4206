"""The README and the quickstart, followed to the letter in a fresh copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import RunningServer
from loadtest.studies.soak.samples import take_sample
from tests.docs.examples import ROOT, Example, examples, shape

SERVE, TEST = "make serve", "make test"
QUICKSTART = ROOT / "docs/quickstart.md"
MAX_RESIDENT_BYTES = 700 * 10**6
ATTEMPTS = 50
"""At a request for a detection: a machine that is busy may refuse some."""
REFUSED = "urn:punctual:problem:"

pytestmark = pytest.mark.slow


def _environment(**given: str) -> dict[str, str]:
    """The caller's, without what would make a copy anything but fresh."""
    foreign = ("PUNCTUAL_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS", "ARGS")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | given


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of this working tree that git has or would take; with what ``make serve`` installs,
    too large to be left behind."""
    folder = tmp_path_factory.mktemp("fresh") / "punctual"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def ready(fresh: Path) -> Iterator[tuple[str, str, int]]:
    """Where ``make serve`` says that it is ready, the command that it says can be tried, and its
    process group; ended as Ctrl-C in its terminal ends it."""
    port = free_port()
    with subprocess.Popen(
        SERVE.split(),
        cwd=fresh,
        env=_environment(PUNCTUAL_PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if found := re.match(r"Punctual is ready: (http://\S+)$", line):
                    break
            else:
                raise AssertionError(f"{SERVE} ended with {process.wait()}:\n{said}")
            assert found[0].replace(str(port), "8000") in QUICKSTART.read_text()
            yield found[1], process.stdout.readline(), process.pid
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate()


@pytest.fixture
def url(ready: tuple[str, str, int]) -> str:
    return ready[0]


def _run(command: str, folder: Path) -> str:
    return subprocess.check_output(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=_environment(), text=True
    )


@pytest.mark.parametrize(
    "example",
    [e for page in (ROOT / "README.md", QUICKSTART) for e in examples(page)],
    ids=lambda example: example.command.partition("\n")[0],
)
def test_every_command_does_what_the_page_says(example: Example, fresh: Path, url: str) -> None:
    if example.command == SERVE:
        return  # it is what the others ask: ``url``
    if example.command == TEST:
        # With the environment that is here, which would take minutes to make, and few of the tests.
        stamp = f"-o {sys.prefix}/.installed"
        passed = _run(f"{TEST} {stamp} DEV_ENV={sys.prefix} ARGS='-n 1 tests/reporting'", fresh)
        assert re.search(r"\d+ passed", passed)
        return
    command = example.command.replace("http://127.0.0.1:8000", url)
    expected = None if example.reply is None else shape(example.reply)
    for _ in range(ATTEMPTS):
        output = _run(command, fresh)
        if REFUSED not in output or REFUSED in (example.reply or ""):
            break
    if expected is not None:
        assert shape(json.loads(output)) == expected
    elif "text/event-stream" in command:
        assert output.startswith("event: detections\n")
        assert "\nevent: done\n" in output
    else:
        assert json.loads(output)["models"][0]["exits"][0]["min_budget_ms"] > 0


def test_the_command_that_the_server_prints_finds_the_cup(
    fresh: Path, ready: tuple[str, str, int]
) -> None:
    _, command, _ = ready
    for _ in range(ATTEMPTS):
        output = _run(command, fresh)
        if "urn:punctual:problem:" not in output:
            break
    best, *_ = json.loads(output)["detections"]
    assert best["label"] == "cup"


def test_the_server_that_has_done_all_this_is_small(ready: tuple[str, str, int]) -> None:
    """The default model with all of its operating points."""
    url, _, group = ready
    assert take_sample(RunningServer(url, group), 0.0, 0).resident_bytes < MAX_RESIDENT_BYTES
