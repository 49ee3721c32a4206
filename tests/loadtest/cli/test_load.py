"""The commands, from their arguments to their files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.cli.load import add_parser
from loadtest.servers.free_ports import free_port
from tests.commands import run_command
from tests.loadtest.load.answering import answers, replies, serving

BCCD = Path("tests/data/bccd")
IMAGE = BCCD / "JPEGImages/BloodImage_00031.jpg"
MODEL = {
    "name": "cells",
    "version": "1",
    "classes": ["RBC", "WBC", "Platelets"],
    "exits": [{"depth": 1, "predicted_ms": 1e4}, {"depth": 3, "predicted_ms": 3e4}],
    "reserve_ms": 5.0,
}


class Everything(dict):
    """Any body gets the same answer."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __getitem__(self, body: bytes):
        return self.answer


def run(*arguments: object) -> int:
    return run_command(add_parser, *arguments)


def loadtest(url: str, out: Path, *further: object) -> int:
    return run("loadtest", "--url", url, "--rate", 500, "--duration", 0.1, "--out", out, *further)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A client is not kept waiting here for the sake of a measurement."""
    monkeypatch.setattr("loadtest.load.summary.MAX_LAG_S", 60.0)


def test_a_run_with_annotated_images(tmp_path, capsys):
    with serving(Everything(answers()), MODEL) as server:
        assert loadtest(server.url, tmp_path, "--data", BCCD, "--budgets", "2x") == 0
    shown = capsys.readouterr().out
    assert "cells 1 at http://127.0.0.1" in shown
    assert "served AP" in shown
    summary = json.loads((tmp_path / "load.json").read_text())["summary"]
    assert summary["full_depth_ms"] == 3e4 + 5.0
    assert summary["outcomes"]["in time"] == summary["count"]
    assert summary["served_in_time"]["num_requests"] == summary["count"]
    assert str(tmp_path / "load.html") in shown


def test_a_peer_on_a_path_of_its_own(tmp_path):
    with serving(Everything(answers(ap=None))) as server:
        arguments = ("--image", IMAGE, "--target", "peer", "--path", "/x", "--header", "K: v:w")
        catalog = ("--catalog", "model_repo/bccd_anytime/1", "--budgets", "60000")
        assert loadtest(server.url, tmp_path, *arguments, *catalog) == 0
        assert {(path, headers["K"]) for path, headers, _ in server.seen} == {("/x", "v:w")}
    summary = json.loads((tmp_path / "load.json").read_text())["summary"]
    assert summary["target"] == "peer"
    assert summary["expected_ap"] == pytest.approx(0.62, abs=0.05)  # of exit 3, by the catalogue


def test_a_run_that_is_not_valid_says_so_to_scripts(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.load.summary.MAX_LAG_S", -1.0)
    with serving(Everything(replies(503, {})), MODEL) as server:
        assert loadtest(server.url, tmp_path, "--image", IMAGE) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--image", IMAGE), "does not answer GET /v1/models: is a server running there?"),
        (("--data", BCCD), "--catalog FOLDER says which classes it finds"),
        (("--data", "nowhere"), "the data set nowhere cannot be read"),
        (("--image", IMAGE, "--arrivals", "x"), "arrivals 'x'"),
        (("--image", IMAGE, "--budgets", "x"), "budgets 'x'"),
        (("--image", IMAGE, "--path", "/a b"), "--path '/a b' is not a path"),
        (("--image", IMAGE, "--header", "x"), "--header 'x' is not NAME:VALUE"),
        (("--image", IMAGE, "--catalog", "nowhere"), "nowhere/catalog.json cannot be used"),
    ],
)
def test_what_can_be_put_right_is_told_in_a_sentence(tmp_path, capsys, arguments, problem):
    assert loadtest(f"http://127.0.0.1:{free_port()}", tmp_path, *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("punctual: ")
    assert problem in told
    assert told.count("\n") == 1


def test_a_server_that_is_not_there_is_a_failure(tmp_path, capsys):
    url = f"http://127.0.0.1:{free_port()}"
    assert loadtest(url, tmp_path, "--image", IMAGE, "--budgets", "40") == 1
    told = capsys.readouterr().err
    assert told.startswith("punctual: ")
    assert "does not answer: connection-refused" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_rates_are_positive(value, capsys):
    with pytest.raises(SystemExit):
        run("loadtest", "--image", IMAGE, "--rate", value)
    assert "no number above 0" in capsys.readouterr().err


def test_seeds_count_from_zero(capsys):
    with pytest.raises(SystemExit):
        run("loadtest", "--image", IMAGE, "--seed", "-1")
    assert "-1 is less than 0" in capsys.readouterr().err
