"""The winner of a search, from its journal to the server: each command as it is typed."""

from __future__ import annotations

from pathlib import Path

from serving.__main__ import main
from serving.artifacts.model_folders import read_catalog, version_folder
from tests.e2e.process import Server
from tests.trained import DATA, IMAGE

MODEL = "winner"
TINY = (
    f'detector.name="{MODEL}"',
    "detector.input_size=[128,128]",
    "detector.num_stacks=2",
    "detector.neck_channels=8",
    "detector.head_channels=8",
    'train.split="test"',
    "train.validation_split=null",
    "train.batch_size=4",
)


def punctual(*arguments: object) -> None:
    assert main([*map(str, arguments)]) == 0


def test_the_winner_of_a_search_is_trained_built_measured_and_served(tmp_path: Path) -> None:
    out, report = tmp_path / "search", tmp_path / "report"
    punctual("search", "run", "--evaluator", "analytic", "--children", 12, "--out", out)
    punctual("search", "report", out / "journal.jsonl", "--out", report)
    neck = report / "best.json"

    changes = [word for assignment in TINY for word in ("--set", assignment)]
    recipe = ("--config", "bccd_proxy", "--neck", neck, *changes)
    trained = tmp_path / "trained"
    punctual("train", *recipe, "--data", DATA, "--epochs", 1, "--out", trained)
    repository = ("--model-repository", tmp_path / "repository")
    punctual("build", *repository, "--checkpoint", trained / "checkpoint.pt", "--threads", 1)
    model = (*repository, "--model", MODEL, "--threads", 1)
    punctual("evaluate", *model, "--data", DATA, "--split", "test", "--write")
    punctual("profile", *model, "--rounds", 2, "--path-rounds", 0, "--write")
    catalog = read_catalog(version_folder(tmp_path / "repository", MODEL))
    assert len(catalog.exits) == 2
    assert f" {neck.stem} " in catalog.description

    arguments = ("serving", "serve", "--model-repository", str(tmp_path / "repository"))
    with Server(*arguments, "--model", MODEL, "--num-threads", "1") as server:
        reply = server.detect(IMAGE.read_bytes(), headers={"X-Deadline-Ms": "9000"})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == MODEL
        assert reply.json()["max_depth"] == 2
