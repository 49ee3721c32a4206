"""The whole way of a model, by the commands a user types: train, export, evaluate, profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.repository import read_catalog, version_folder
from serving.__main__ import main

SMALL = [
    "detector.input_size=[128,128]",
    "detector.num_stacks=2",
    "detector.neck_channels=16",
    "detector.head_channels=16",
    'train.split="train"',
    "train.batch_size=4",
]


def train(data: Path, out: Path, *more: str) -> Path:
    changes = [text for change in SMALL for text in ("--set", change)]
    arguments = ["train", "--config", "bccd", "--data", str(data), "--out", str(out)]
    assert main([*arguments, "--epochs", "1", *changes, *more]) == 0
    return out / "checkpoint.pt"


def test_from_images_to_a_model_with_measured_facts(bccd, tmp_path, capsys):
    checkpoint = train(bccd, tmp_path / "run")
    written = checkpoint.read_bytes()
    train(bccd, tmp_path / "run", "--resume")
    assert checkpoint.read_bytes() == written, "nothing is left to do"

    repository = ["--model-repository", str(tmp_path)]
    assert main(["export", "--checkpoint", str(checkpoint), "--name", "toy", *repository]) == 0
    assert "head_2     agrees with torch" in capsys.readouterr().out

    model = ["--model", "toy", *repository, "--threads", "1", "--write"]
    data = ["--data", str(bccd), "--split", "val"]
    assert main(["evaluate", *model, *data, "--seed", "7"]) == 0
    assert "Platelets" in capsys.readouterr().out
    assert main(["profile", *model, "--rounds", "2", "--path-rounds", "2"]) == 0
    assert "unit/fused" in capsys.readouterr().out

    catalog = read_catalog(version_folder(tmp_path, "toy"))
    assert catalog.name == "toy"
    assert catalog.num_exits == 2
    assert catalog.evaluation.split == "val"
    assert catalog.evaluation.seed == 7
    assert all(0 <= entry.ap <= entry.ap50 <= 1 for entry in catalog.exits)
    assert set(catalog.exits[0].ap_by_class) == set(catalog.classes)
    assert all(q.p50_s <= q.p99_s for q in catalog.profiles["openvino"].table.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "nothing", "--out", "x"],
        ["export", "--config", "bccd", "--checkpoint", "x"],
        ["export"],
        ["evaluate"],
    ],
)
def test_misuse_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "punctual" in capsys.readouterr().err
