"""The commands of a live study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.baselines.fixed import FixedPoint
from loadtest.cli import live as live_cli
from loadtest.cli.live import add_parser
from loadtest.studies.live import study as live_study
from serving.core.ladder import Ladder
from serving.core.latency_profile import LatencyProfile
from tests.commands import run_command
from tests.serving.fakes import write_catalogs
from tests.serving.world import FakeClock, FakeRunner


class Tools:
    """``ServingTools`` that notes what it is asked to serve."""

    def __init__(self) -> None:
        self.served: list[Any] = []
        self.runner = FakeRunner(FakeClock())

    def serve(self, arguments, create_policy):
        self.served.append((arguments, create_policy))

    def open_runner(self, runtime, folder, num_threads, wanted=None, precision=None, size=None):
        return self.runner


def run(tools: Tools, *arguments: object) -> int:
    def add_parsers(studies: Any) -> None:
        add_parser(studies, tools)  # type: ignore[arg-type]

    return run_command(add_parsers, *arguments)


def test_parts_are_named_as_they_are() -> None:
    assert tuple(live_study.PARTS) == live_cli.PARTS


def test_another_policy_is_served_with_the_servers_options() -> None:
    tools = Tools()
    assert run(tools, "serve", "--policy", "fixed:2", "--", "--port", 8001, "--model", "m") == 0
    ((arguments, create_policy),) = tools.served
    assert arguments == ["--port", "8001", "--model", "m"]
    ladder = Ladder.of_exits((0.1, 0.2, 0.3, 0.4, 0.5))
    policy = create_policy(tools.runner.segments, ladder, (1, 4), 4)
    assert isinstance(policy, FixedPoint)


def test_a_policy_that_is_not_there(capsys) -> None:
    tools = Tools()
    assert run(tools, "serve", "--policy", "best") == 2
    assert "punctual: not a policy: 'best'" in capsys.readouterr().err
    assert not tools.served


def test_segments_are_printed_as_a_profile(tmp_path: Path, capsys) -> None:
    repository = write_catalogs(tmp_path, "cells")
    folder = next(repository.glob("cells*/1"))
    assert run(Tools(), "segments", folder, "--rounds", 1) == 0
    profile = LatencyProfile.from_json(json.loads(capsys.readouterr().out))
    assert profile.runtime == "fake 1"
    assert run(Tools(), "segments", tmp_path / "nowhere") == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--budgets", "x"), "budgets 'x'"),
        (("--arrivals", "x"), "arrivals 'x'"),
        (("--model", "other"), "there is no model 'other' in model_repo"),
        (("--data", "nowhere"), "the data set nowhere cannot be read"),
    ],
)
def test_what_can_be_put_right_is_told_in_a_sentence(tmp_path, capsys, arguments, problem) -> None:
    pytest.importorskip("matplotlib")
    assert run(Tools(), "live", "--out", tmp_path, *arguments) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
