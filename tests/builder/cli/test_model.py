"""What a model costs, a neck from a file, and weights of others, by the commands a user types."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS, Graph
from builder.modeling.backbones import make_backbone
from builder.modeling.checkpoint import load_checkpoint, save_checkpoint
from builder.modeling.detector import Detector
from serving.__main__ import main
from serving.artifacts.model_folders import read_catalog, version_folder
from tests.builder.cli.commands import refused
from tests.builder.importing.mmdet_reference import random_state


def graph_file(folder: Path, graph: Graph) -> Path:
    names = ("level", "op", "inputs", "output")
    cells = [dict(zip(names, row, strict=True)) for row in graph.rows]
    path = folder / "mine.json"
    path.write_text(json.dumps({"levels": list(graph.levels), "cells": cells}))
    return path


def rows(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]


def test_cost_is_a_table_of_exits(capsys):
    assert main(["cost", "--config", "coco_r50_5", "coco_mobilenet_lite"]) == 0
    header, _, *body = rows(capsys.readouterr().out)
    assert header[-2:] == ["GMAC", "parameters, M"]
    assert [row[:2] for row in body] == [
        *(["coco_r50_5", str(depth)] for depth in (1, 2, 3, 4, 5)),
        *(["coco_mobilenet_lite", str(depth)] for depth in (1, 2, 3)),
    ]
    assert body[4][2:] == ["33.36", "36.05", "56.84", "126.25", "51.79"]


def test_cost_of_a_neck_from_a_file_and_of_changed_fields(capsys, tmp_path):
    few = ["--set", "detector.num_stacks=1", "--set", "detector.neck_channels=128"]
    assert main(["cost", "--config", "bccd", *few]) == 0
    plain = rows(capsys.readouterr().out)[-1]
    path = graph_file(tmp_path, GRAPHS["fpn"])
    assert main(["cost", "--config", "bccd", *few, "--neck", str(path)]) == 0
    other = rows(capsys.readouterr().out)[-1]
    assert plain[2] == other[2]
    assert float(plain[3]) > float(other[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cost", "--config", "bccd", "--neck", "nowhere.json"], "--neck: .*nowhere.json"),
        (["cost", "--config", "bccd", "--set", "detector.backbone_layers=3"], "in its name"),
        (["cost", "--config", "bccd", "--set", "detector.neck_width=3"], "no field"),
        (["build", "--checkpoint", "x.pt", "--neck", "nowhere.json"], "--neck is for --config"),
        (["train", "--config", "bccd", "--out", "x", "--neck", "nowhere.json"], "nowhere.json"),
        (["train", "--config", "bccd", "--out", "x", "--init", "y.pt"], "--init: .*y.pt"),
        (
            ["train", "--config", "bccd", "--out", "x", "--init", "raw.pt"],
            "--init: .*punctual import",
        ),
        (["train", "--config", "bccd", "--out", "x", "--init", "x.pt"], "--init: x.pt: no torch"),
        (["train", "--config", "bccd", "--out", "x", "--epochs", "0"], "epochs is 0, it must be"),
        (["build", "--checkpoint", "raw.pt"], "raw.pt is no checkpoint of punctual train"),
        (["build", "--checkpoint", "x.pt"], "x.pt: no torch file"),
        (["build", "--checkpoint", "less.pt"], "less.pt holds .*conv1.weight is missing"),
        (["build", "--checkpoint", "path.pt"], "path.pt: name is '../x', it must be"),
        (
            ["import", "x", "--out", "y", "--layout", "mmdet-nas-fpn", "--set", "detector.conv=1"],
            "--set: only for the layout imagenet-backbone",
        ),
        (
            ["train", "--config", "bccd", "--out", "x", "--init", "y.pt", "--neck", "mine.json"],
            "the neck is that of --init",
        ),
        (["import", "x", "--out", "y", "--layout", "imagenet-backbone"], "needs a --config"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "raw.pt")
    detector = CONFIGS["bccd"].detector
    save_checkpoint(tmp_path / "less.pt", detector, {}, {})
    stored = torch.load(tmp_path / "less.pt", weights_only=True)
    stored["detector"]["name"] = "../x"
    torch.save(stored, tmp_path / "path.pt")
    graph_file(tmp_path, GRAPHS["fpn"])
    assert re.search(message, refused(capsys, *arguments))


def test_an_invalid_neck_is_refused_with_its_row(tmp_path, capsys):
    path = tmp_path / "mine.json"
    cell = {"level": 8, "op": "sum", "inputs": [0, 1], "output": False}
    path.write_text(json.dumps({"levels": [3, 4, 5], "cells": [cell]}))
    said = refused(capsys, "build", "--config", "bccd", "--neck", str(path))
    assert "mine.json: cell 3 (row 1) is at level 8, the levels are 3 to 5" in said


@pytest.fixture
def mmdet(tmp_path: Path) -> Path:
    state = random_state(width=8, channels=16, stacks=2, convs=1, classes=2)
    path = tmp_path / "nas_fpn.pth"
    torch.save({"state_dict": state, "meta": {"CLASSES": ("cell", "platelet")}}, path)
    return path


def test_a_checkpoint_of_mmdetection_becomes_a_model(mmdet, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builder.exporting.build.POSTPROCESS_ROUNDS", 1)
    out = tmp_path / "imported.pt"
    arguments = ["import", str(mmdet), "--layout", "mmdet-nas-fpn", "--out", str(out)]
    assert main([*arguments, "--input-size", "128", "128", "--name", "cells"]) == 0
    said = capsys.readouterr().out
    assert "resnet50, 2 stacks of nas_fpn (mmdet flavour) with 16 channels, 1 exits" in said

    where = ["--model-repository", str(tmp_path), "--threads", "1"]
    target = ["--target", "onnxruntime"]
    assert main(["build", "--checkpoint", str(out), *where, *target]) == 0
    folder = version_folder(tmp_path, "cells")
    catalog = read_catalog(folder)
    assert (catalog.flavour, catalog.num_exits) == ("mmdet", 1)
    assert catalog.classes == ("cell", "platelet")
    assert catalog.command.startswith("punctual ")

    # The files compute what the imported detector does, but for kernels in half precision.
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    values = [image]
    for name in ("stem", "stack_1"):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        names = [port.name for port in session.get_inputs()]
        values = session.run(None, dict(zip(names, values, strict=True)))
    detector, _, metadata = load_checkpoint(out)
    assert metadata["imported"] == "mmdet-nas-fpn"
    with torch.no_grad():
        wanted = detector.stack(1, detector.stem(torch.from_numpy(image)))
    for got, want in zip(values, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=0.02 * float(want.abs().max()))


def test_import_says_what_is_missing(mmdet, tmp_path, capsys):
    state = torch.load(mmdet, weights_only=True)["state_dict"]
    torch.save(state, mmdet)
    base = ["import", str(mmdet), "--layout", "mmdet-nas-fpn", "--out", str(tmp_path / "x.pt")]
    assert main(base) == 2
    assert "the names of its 2 classes are not in it" in capsys.readouterr().err
    assert "multiples of 128" in refused(
        capsys, *base, "--input-size", "100", "100", "--classes", str(classes(tmp_path, 2))
    )
    assert main([*base, "--classes", str(classes(tmp_path, 3))]) == 2
    assert "9 anchors of 3 classes" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def classes(folder: Path, count: int) -> Path:
    path = folder / "classes.txt"
    path.write_text("".join(f"class {index}\n" for index in range(count)))
    return path


def test_a_backbone_is_imported_into_a_detector(tmp_path, capsys):
    torch.manual_seed(1)
    trained = Detector(CONFIGS["bccd"].detector).backbone.state_dict()
    torch.save({**trained, "fc.weight": torch.zeros(10, 64)}, tmp_path / "resnet10.pth")
    out = tmp_path / "init.pt"
    base = ["import", str(tmp_path / "resnet10.pth"), "--layout", "imagenet-backbone"]
    neck = ["--neck", str(graph_file(tmp_path, GRAPHS["fpn_p6"]))]
    assert main([*base, "--config", "bccd", "--out", str(out), *neck]) == 0
    detector, config, _ = load_checkpoint(out)
    assert config.neck == "mine"
    for name, value in detector.backbone.state_dict().items():
        assert torch.equal(value, trained[name])

    assert main([*base, "--config", "coco_r50", "--out", str(tmp_path / "other.pt")]) == 2
    assert "'conv1.weight' has shape (8, 3, 7, 7), expected (64, 3" in capsys.readouterr().err


def test_a_backbone_without_a_configuration_of_its_own_is_imported(tmp_path):
    trained = make_backbone("resnet18", 16, 0).state_dict()
    torch.save(trained, tmp_path / "resnet18.pth")
    base = ["import", str(tmp_path / "resnet18.pth"), "--layout", "imagenet-backbone"]
    fields = ['detector.backbone="resnet18"', "detector.backbone_width=16"]
    changes = [text for field in fields for text in ("--set", field)]
    out = tmp_path / "init.pt"
    assert main([*base, "--config", "bccd", *changes, "--license", "MIT", "--out", str(out)]) == 0
    detector, config, _ = load_checkpoint(out)
    assert (config.backbone, config.license) == ("resnet18", "MIT")
    assert all(map(torch.equal, detector.backbone.state_dict().values(), trained.values()))


def test_import_leaves_nothing_where_it_cannot_write(mmdet, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    base = ["import", str(mmdet), "--layout", "mmdet-nas-fpn", "--out", str(tmp_path / "folder")]
    assert main(base) == 2
    assert capsys.readouterr().err.startswith(f"punctual: --out {tmp_path / 'folder'}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", mmdet.name}


@pytest.mark.slow
def test_training_takes_a_neck_from_a_file(bccd, tmp_path):
    changes = ["detector.input_size=[64,64]", "detector.num_stacks=1", 'train.split="train"']
    arguments = [text for change in changes for text in ("--set", change)]
    neck = ["--neck", str(graph_file(tmp_path, GRAPHS["nas_fpn_p6"]))]
    where = ["--data", str(bccd), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main(["train", "--config", "bccd", *arguments, *where, *neck]) == 0
    _, config, _ = load_checkpoint(tmp_path / "run/checkpoint.pt")
    assert (config.neck, config.levels) == ("mine", (3, 4, 5, 6))


def test_blocks_are_dropped_ever_more(bccd, tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(
        "builder.training.epoch.set_drop_rate", lambda model, rate: rates.append(rate)
    )
    changes = ["detector.input_size=[128,128]", "detector.num_stacks=1", 'train.split="train"']
    changes += ["train.drop_block=0.3", "train.batch_size=3"]
    arguments = [text for change in changes for text in ("--set", change)]
    where = ["--data", str(bccd), "--out", str(tmp_path / "run"), "--epochs", "2"]
    assert main(["train", "--config", "bccd", *arguments, *where]) == 0
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.slow
def test_training_starts_from_a_checkpoint(bccd, tmp_path, capsys):
    """Of another structure than the configuration's and with other classes."""
    small: dict[str, Any] = {"input_size": (128, 128), "num_stacks": 2}
    small |= {"neck_channels": 8, "head_channels": 8}
    start = replace(
        CONFIGS["bccd"].detector, **small, classes=("a", "b"), neck="fpn", flavour="mmdet"
    )
    torch.manual_seed(7)
    save_checkpoint(tmp_path / "init.pt", start, Detector(start).state_dict(), {})
    changes = ["detector.input_size=[128,256]", "train.learning_rate=0", "train.drop_block=0.1"]
    changes += ["detector.score_threshold=0.2"]
    arguments = [text for change in changes for text in ("--set", change)]
    where = ["--data", str(bccd), "--out", str(tmp_path / "run"), "--epochs", "1"]
    recipe = ["--config", "bccd", "--set", 'train.split="train"', *arguments]
    assert main(["train", *recipe, *where, "--init", str(tmp_path / "init.pt")]) == 0
    trained, config, _ = load_checkpoint(tmp_path / "run/checkpoint.pt")
    assert (config.neck, config.flavour, config.neck_channels) == ("fpn", "mmdet", 8)
    assert (config.classes, config.input_size) == (CONFIGS["bccd"].detector.classes, (128, 256))
    want = load_checkpoint(tmp_path / "init.pt")[0].state_dict()
    got = trained.state_dict()
    assert config.score_threshold == 0.2
    assert torch.equal(got["backbone.conv1.weight"], want["backbone.conv1.weight"])
    assert got["retina_head.classes.predict.bias"].shape != (
        want["retina_head.classes.predict.bias"].shape
    )

    more = ["--set", "detector.num_stacks=3", "--init", str(tmp_path / "init.pt")]
    where[-3] = str(tmp_path / "other")
    assert main(["train", *recipe, *where, *more]) == 2
    assert "init.pt holds a detector of another structure: " in capsys.readouterr().err
