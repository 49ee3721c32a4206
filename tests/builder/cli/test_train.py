"""``punctual train``."""

from __future__ import annotations

import pytest

from builder.modeling.checkpoint import load_checkpoint
from serving.__main__ import main
from tests.builder.cli.commands import SMALL, refused, train, usage_shown

TRAIN = ["train", "--config", "bccd", "--out", "x"]


@pytest.mark.slow
def test_data_of_ones_own(bccd, tmp_path):
    (bccd / "classes.txt").write_text("WBC\nRBC\nPlatelets\n")
    path = train(bccd, tmp_path / "run", "--dataset", "voc", "--validation-split", "val")
    _, config, metadata = load_checkpoint(path)
    assert config.classes == ("WBC", "RBC", "Platelets")
    assert metadata["validation"]["split"] == "val"


def test_bad_annotations_are_refused(bccd, tmp_path, capsys):
    data = ["--data", str(bccd), "--bad-annotations", "refuse"]
    changes = [text for change in SMALL for text in ("--set", change)]
    where = ["--out", str(tmp_path / "run"), *changes]
    assert main(["train", "--config", "bccd", *data, *where]) == 2
    refusal = "1 bad annotations\n  Annotations/image_0.xml:1: box (30.0, 30.0, 30.0, 40.0)"
    assert refusal in capsys.readouterr().err


def test_a_split_that_is_not_there(bccd, tmp_path, capsys):
    data = ["--data", str(bccd), "--split", "test", "--out", str(tmp_path / "run")]
    assert main(["train", "--config", "bccd", *data]) == 2
    assert "has no split 'test'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--config", "nothing", "--out", "x"], "invalid choice"),
    ],
)
def test_options_that_are_none(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in usage_shown(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*TRAIN, "--set", "train.epochs=many"], "train.epochs=many is not FIELD=JSON"),
        ([*TRAIN, "--set", "detector.input_size=[1,2]"], "must be multiples of 128"),
        ([*TRAIN, "--set", "detector.input_size=5"], "input_size is 5, it must be a list of 2"),
    ],
)
def test_misuse_is_explained_before_any_work(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())
