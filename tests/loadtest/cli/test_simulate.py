"""``punctual simulate``: from arguments to tables, files and clear complaints."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from loadtest.cli import simulate as simulate_cli
from loadtest.policies.named import POLICIES
from loadtest.simulation.fleet import BALANCERS
from loadtest.simulation.simulator import Outliers, SlowPeriods
from tests.commands import run_command

QUICK = ("--requests", "60", "--seeds", "2", "--jobs", "1", "--load", "0.5")


def run(*arguments: str) -> int:
    return run_command(simulate_cli.add_parser, "simulate", *arguments)


def test_a_table_of_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "0.9", "--policy", "deadline", "--policy", "fixed:2") == 0
    out, _ = capsys.readouterr()
    assert "**cpu-lite, poisson**" in out
    assert "| load | 0.5 | 0.9 |" in out
    assert {line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")} == {
        "| load",
        "| deadline",
        "| fixed:2",
        "| oracle's bound",
        "| deadline, % of the bound",
        "| stability score, deadline",
    }


def test_files_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new"
    arguments = (*QUICK, "0.9", "--policy", "fixed:1", "--profile", "gpu-like", "--no-oracle")
    assert run(*arguments, "--jitter", "0.1", "--out", str(folder)) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"simulation.json", "simulation.md", "gpu-like_poisson.png"}
    data = json.loads((folder / "simulation.json").read_text())
    assert data["conditions"]["jitter"] == 0.1
    assert [point["load"] for point in data["points"]] == [0.5, 0.9]
    assert (folder / "simulation.md").read_text() in capsys.readouterr().out


def test_what_plots_need_is_missed_before_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*QUICK, "--policy", "fixed:1", "--out", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "pip install 'punctual[loadtest]'" in err


def test_every_condition_arrives(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    simulate_cli.add_parser(parser.add_subparsers(required=True))
    text = "simulate --slowdown 1:2:3 --stall 9:0.5 --slow-periods 8:2:1.5 --outliers 0.02:7 "
    text += "--executors 4 --balancer power-of-two"
    options = parser.parse_args([*text.split(), "--rate", "100", "--duration", "3"])
    conditions = simulate_cli._conditions(options)
    (slow,) = conditions.slowdowns
    assert (slow.start_s, slow.length_s, slow.factor) == (1, 2, 3)
    assert conditions.stalls is not None
    assert (conditions.stalls.every_s, conditions.stalls.length_s) == (9, 0.5)
    assert conditions.slow_periods == SlowPeriods(8, 2, 1.5)
    assert conditions.outliers == Outliers(0.02, 7)
    assert (conditions.executors, conditions.balancer) == (4, "power-of-two")
    (point,) = simulate_cli._points(options, conditions)
    assert point.rate_hz(conditions) == pytest.approx(100)
    assert point.duration_s(conditions) == 3


def test_a_decision_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "decisions.log"
    assert run(*QUICK, "--policy", "deadline", "--decision-log", str(path)) == 0
    lines = path.read_text().splitlines()
    assert f"{len(lines)} decisions" in capsys.readouterr().out
    assert " | run " in lines[0]


def test_a_log_is_of_one_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "decisions.log"
    assert run(*QUICK, "0.9", "--policy", "deadline", "--decision-log", str(path)) == 2
    assert "not 1 policies at 2 points" in capsys.readouterr().err
    assert not path.exists()


def test_names_of_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--policy", "list") == 0
    assert capsys.readouterr().out.splitlines() == [*POLICIES, "hindsight"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--policy", "magic"), "magic"),
        (("--policy", "fixed:9"), "9"),
        (("--arrivals", "poison"), "not one of poisson"),
        (("--budgets", "fast"), "budgets 'fast'"),
        (("--profile", "tpu"), "profile 'tpu'"),
        (("--rate", "10"), "either --rate or --load"),
        (("--load", "0"), "positive and finite"),
        (("--executors", "2000"), "at most 1,000"),
        (("--duration", "-1"), "--duration must be positive"),
    ],
)
def test_what_cannot_be_simulated(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*QUICK, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("punctual: ")
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--slowdown", "1:2"),
        ("--slowdown", "1:2:0.5"),
        ("--slowdown", "a:b:c"),
        ("--stall", "1:2"),
        ("--seeds", "0"),
        ("--jitter", "-1"),
        ("--balancer", "random"),
    ],
)
def test_arguments_that_are_none(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)


def test_the_names_of_balancers_are_those_that_there_are() -> None:
    assert tuple(BALANCERS) == simulate_cli.BALANCERS
