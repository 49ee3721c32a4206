"""The whole way of a model, by the commands a user types, from train to report and profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.artifacts.model_folders import find_model, read_catalog, version_folder
from serving.core.catalog import Catalog
from tests.builder.cli.commands import build, train


def measured_in_int8_too(repository: Path, bccd: Path, evaluation: list[str], capsys) -> Catalog:
    """The catalogue of the model with figures of int8, which left the others as they were."""
    model, data = evaluation[:7], evaluation[7:]
    folder = version_folder(repository, "toy")
    before = read_catalog(folder)
    build(repository, "--model", "toy", "--calibration-images", str(bccd / "JPEGImages/*.jpg"))
    assert f"for CPUs, {folder / 'int8'}" in capsys.readouterr().out
    int8 = ["--precision", "int8"]
    assert main(["evaluate", *model, *data, *int8]) == 0
    rounds = ["--rounds", "2", "--path-rounds", "2"]
    assert main(["profile", *model, *rounds, *int8, "--against", "f32"]) == 0
    said = capsys.readouterr().out
    assert "in int8" in said
    assert "ms     f32  ratio p50" in said
    both = read_catalog(folder)
    assert replace(both, precisions={}) == before
    accuracy = both.at("int8").evaluation
    assert accuracy is not None
    assert accuracy.split == "val"
    assert set(both.at("int8").profiles) == {"openvino"}
    assert main(["models", *model[:4], *int8]) == 0
    assert "openvino, int8\n" in capsys.readouterr().out
    assert main(["profile", *model[:4], "--runtime", "onnxruntime", *int8]) == 2
    assert "onnxruntime does not run segments in int8" in capsys.readouterr().err
    return both


@pytest.mark.slow
def test_from_images_to_a_model_with_measured_facts(bccd, tmp_path, capsys):
    checkpoint = train(bccd, tmp_path / "run")
    written = checkpoint.read_bytes()
    train(bccd, tmp_path / "run", "--resume")
    assert checkpoint.read_bytes() == written, "nothing is left to do"

    build(tmp_path, "--checkpoint", str(checkpoint), "--model", "toy")
    said = capsys.readouterr().out
    assert "head_2     agrees with torch" in said
    assert "ran all 7 segments once at batch 1, 4" in said
    assert find_model(tmp_path, None) == version_folder(tmp_path, "toy")

    model = ["--model", "toy", "--model-repository", str(tmp_path), "--threads", "1", "--write"]
    data = ["--data", str(bccd), "--split", "val"]
    assert main(["evaluate", *model, *data, "--seed", "7"]) == 0
    assert "Platelets" in capsys.readouterr().out
    assert main(["profile", *model, "--rounds", "2", "--path-rounds", "2"]) == 0
    assert "unit/fused" in capsys.readouterr().out

    folder = version_folder(tmp_path, "toy")
    catalog = read_catalog(folder)
    assert catalog.name == "toy"
    assert catalog.num_exits == 2
    assert catalog.evaluation.split == "val"
    assert catalog.evaluation.seed == 7
    assert all(0 <= entry.ap <= entry.ap50 <= 1 for entry in catalog.exits)
    assert set(catalog.exits[0].ap_by_class) == set(catalog.classes)
    assert all(q.p50_s <= q.p99_s for q in catalog.profiles["openvino"].table.values())

    catalog = measured_in_int8_too(tmp_path, bccd, [*model, *data], capsys)

    # The same weights again keep what was measured and what was compiled.
    plan = tmp_path / "toy_d1/1/model.plan"
    plan.write_bytes(b"")
    build(tmp_path, "--checkpoint", str(checkpoint), "--model", "toy", "--target", "torch")
    assert "torch" in capsys.readouterr().out.splitlines()[-2]
    assert read_catalog(folder) == catalog
    assert plan.exists()
    assert (folder / "torch/stem.pt2").exists()

    # Other weights do not.
    train(bccd, tmp_path / "other", "--seed", "5")
    capsys.readouterr()
    build(tmp_path, "--checkpoint", str(tmp_path / "other/checkpoint.pt"), "--model", "toy")
    assert f"removed {plan}, which belonged to other weights" in capsys.readouterr().out
    assert not plan.exists()
    assert not list((folder / "torch").iterdir())
    assert read_catalog(folder).digest != catalog.digest
    assert read_catalog(folder).evaluation is None
    assert not read_catalog(folder).profiles
