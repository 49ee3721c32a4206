"""The training loop on a data set of six images."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.config.named import CONFIGS
from builder.data import AveragePrecision, Dataset, DatasetError, read_bccd
from builder.modeling.architectures import make_detector
from builder.modeling.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from builder.modeling.detector import Detector
from builder.training import epoch
from builder.training import loop as training
from builder.training.epoch import Diverged, Run, draw_exits
from builder.training.loop import train
from builder.training.optimization import MovingAverage
from builder.training.recipe_checks import InvalidRecipe
from builder.training.training_log import LOG, TENSORBOARD
from builder.training.validation import validate
from serving.__main__ import main
from serving.artifacts.folder_locks import FolderBusy, only_writer
from tests.builder.tiny import TINY

pytestmark = pytest.mark.slow  # it trains

OF_EXIT = "retina_head.classes.norms.{}.0.0.weight"


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


def test_writes_a_checkpoint_and_a_log(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, validation_split="val"))
    out = tmp_path / "run"
    path = train(config, bccd, out)
    detector, loaded, metadata = load_checkpoint(path)
    assert loaded == config.detector
    assert (metadata["epochs"], metadata["train"]["batch_size"]) == (2, 3)
    assert all(torch.isfinite(value).all() for value in detector.state_dict().values())
    first, second, last = lines(out)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert len(last["validation"]["ap"]) == 3  # type: ignore[index, call-overload]


def test_resumed_run_equals_an_uninterrupted_one(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_checkpoint(train(TINY, bccd, tmp_path / "whole"))

    original = training.train_epoch

    def interrupted(run: Run, *rest: object) -> object:
        if run.epoch == 1:
            raise KeyboardInterrupt
        return original(run, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, bccd, tmp_path / "parts")
    parts = read_checkpoint(train(TINY, bccd, tmp_path / "parts", resume=True))
    assert parts["resume"]["num_updates"] == whole["resume"]["num_updates"] == 4
    for name, value in whole["weights"].items():
        assert torch.equal(parts["weights"][name], value), name
    written = [(tmp_path / run / LOG).read_text() for run in ("whole", "parts")]
    without_times = [re.sub(r', "seconds": [0-9.]+', "", text) for text in written]
    assert without_times[0] == without_times[1]


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": False}, torch.float32)],
)
def test_bfloat16_only_where_it_is_multiplied(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities, dtype
) -> None:
    seen: set[torch.dtype] = set()
    original = epoch.exit_loss

    def exit_loss(logits: torch.Tensor, deltas: torch.Tensor, *rest: object) -> object:
        seen.update((logits.dtype, deltas.dtype))
        return original(logits, deltas, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(epoch, "exit_loss", exit_loss)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    train(replace(TINY, train=replace(TINY.train, epochs=1)), bccd, tmp_path / "run")
    assert seen == {dtype}


def test_exits_are_drawn() -> None:
    random = np.random.default_rng(0)
    assert draw_exits(5, None, random) == draw_exits(5, 9, random) == [1, 2, 3, 4, 5]
    drawn = [draw_exits(5, 3, random) for _ in range(50)]
    assert all(len(set(row)) == 3 and row == sorted(row) and row[-1] == 5 for row in drawn)
    assert {depth for row in drawn for depth in row} == {1, 2, 3, 4, 5}


def test_one_exit_beside_the_last() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_exits(5, 2, random) for _ in range(400)]
    counts = [sum(row[0] == depth for row in drawn) for depth in range(1, 5)]
    assert all(row[1] == 5 for row in drawn)
    assert min(counts) > 70


@pytest.mark.parametrize(("exits_per_step", "trained"), [(None, [1, 2, 3]), (1, [3])])
def test_which_exits_are_trained(
    bccd: Path, tmp_path: Path, exits_per_step: int | None, trained: list[int]
) -> None:
    recipe = replace(TINY.train, epochs=1, exits_per_step=exits_per_step)
    path = train(replace(TINY, train=recipe), bccd, tmp_path / "run")
    (line,) = lines(tmp_path / "run")
    losses: Any = line["class_loss"]
    assert [depth for depth, loss in enumerate(losses, start=1) if loss] == trained
    weights, start = read_checkpoint(path)["weights"], Detector(TINY.detector).state_dict()
    # Convolutions are shared; each exit has normalisations of its own.
    moved = [
        depth
        for depth in (1, 2, 3)
        if not torch.equal(weights[name := OF_EXIT.format(depth - 1)], start[name])
    ]
    assert moved == trained


def test_learns(bccd: Path, tmp_path: Path) -> None:
    recipe = replace(TINY.train, epochs=25, learning_rate=5e-3, autocast=False)
    path = train(replace(TINY, train=recipe), bccd, tmp_path / "run")
    first, *_, last = lines(tmp_path / "run")
    for part in ("class_loss", "box_loss"):
        assert last[part][-1] < first[part][-1]  # type: ignore[index]
    detector, _, _ = load_checkpoint(path)
    results = validate(detector, read_bccd(bccd, "val"))
    assert set(results) == {1, 2, 3}
    assert all(isinstance(result, AveragePrecision) for result in results.values())


def test_steps_are_as_long_as_the_schedule_says(bccd: Path, tmp_path: Path) -> None:
    """At the beginning of a long warm-up weights stay what they are, whatever comes after it."""
    weights = []
    for rate in (1e-3, 1e-1):
        recipe = replace(TINY.train, epochs=1, learning_rate=rate, warmup_steps=10**9)
        path = train(replace(TINY, train=recipe), bccd, tmp_path / str(rate))
        detector, _, _ = load_checkpoint(path)
        weights.append(torch.cat([each.flatten() for each in detector.parameters()]))
    torch.testing.assert_close(*weights, rtol=0.0, atol=1e-6)


def test_wrong_classes_are_refused(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, detector=replace(TINY.detector, classes=("a", "b", "c")))
    with pytest.raises(InvalidRecipe, match="classes"):
        train(config, bccd, tmp_path / "run")


def test_a_validation_split_may_number_the_classes_otherwise(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, box = tmp_path / "coco", [30, 30, 20, 20]
    (root / "annotations").mkdir(parents=True)
    for split, names in (("train", ["cat", "dog", "owl"]), ("val", ["owl", "dog"])):
        shutil.copytree(bccd / "JPEGImages", root / split)
        content = {
            "images": [{"id": n, "file_name": f"image_{n}.jpg"} for n in range(3)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
            "annotations": [{"image_id": 0, "category_id": 0, "bbox": box}],
        }
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    seen: list[Dataset] = []

    def looked_at(_: object, data: Dataset, *__: object) -> dict[int, AveragePrecision]:
        seen.append(data)
        return {}

    monkeypatch.setattr(training, "validate", looked_at)
    recipe = replace(TINY.train, dataset="coco", validation_split="val", epochs=1)
    train(replace(TINY, train=recipe), root, tmp_path / "run", classes_of_data=True)
    (data,) = seen
    assert data.classes == ("cat", "dog", "owl")
    assert data.samples[0].labels.tolist() == [2]


def test_a_detector_for_the_classes_of_the_data(bccd: Path, tmp_path: Path) -> None:
    (bccd / "classes.txt").write_text("Platelets\nRBC\nWBC\nBasophil\n")
    recipe = replace(TINY.train, epochs=1, dataset="voc")
    path = train(replace(TINY, train=recipe), bccd, tmp_path / "run", classes_of_data=True)
    _, config, _ = load_checkpoint(path)
    assert config.classes == ("Platelets", "RBC", "WBC", "Basophil")


def test_bad_annotations_are_refused_on_demand(bccd: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 bad annotations"):
        train(TINY, bccd, tmp_path / "run", bad_annotations="refuse")


def test_divergence_is_an_error(bccd: Path, tmp_path: Path) -> None:
    """No checkpoint is written of weights that are no numbers."""
    recipe = replace(TINY.train, learning_rate=1e30, optimizer="sgd", clip_norm=None)
    with pytest.raises(Diverged, match="epoch 1 is not finite"):
        train(replace(TINY, train=recipe), bccd, tmp_path / "run")
    assert not (tmp_path / "run" / training.CHECKPOINT).exists()


def test_a_step_that_breaks_the_weights_is_seen_after_the_last_one(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is computed from the weights before it."""
    original = MovingAverage.update

    def breaking(average: MovingAverage) -> None:
        original(average)
        with torch.no_grad():
            average._floats[1][0].fill_(math.inf)  # one of the weights themselves

    monkeypatch.setattr(MovingAverage, "update", breaking)
    recipe = replace(TINY.train, epochs=1, batch_size=6)
    with pytest.raises(Diverged, match="a weight of epoch 1 is not finite"):
        train(replace(TINY, train=recipe), bccd, tmp_path / "run")
    assert not (tmp_path / "run" / training.CHECKPOINT).exists()


def test_a_run_is_not_overwritten(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, epochs=1))
    path = train(config, bccd, tmp_path / "run")
    before, log = path.read_bytes(), lines(tmp_path / "run")
    with pytest.raises(InvalidRecipe, match=r"checkpoint\.pt is there: --resume goes on"):
        train(config, bccd, tmp_path / "run")
    assert (path.read_bytes(), lines(tmp_path / "run")) == (before, log)
    with only_writer(tmp_path / "run"), pytest.raises(FolderBusy, match="another process writes"):
        train(config, bccd, tmp_path / "run", resume=True)
    assert (path.read_bytes(), lines(tmp_path / "run")) == (before, log)


def test_a_damaged_run_does_not_go_on(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, epochs=1))
    path = train(config, bccd, tmp_path)
    data = torch.load(path, weights_only=True)
    del data["resume"]["optimizer"]
    torch.save(data, path)
    with pytest.raises(CheckpointError, match="is damaged, it cannot be gone on with: 'optimizer'"):
        train(replace(config, train=replace(config.train, epochs=2)), bccd, tmp_path, resume=True)


def test_a_run_goes_on_as_what_it_was(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, epochs=2))
    path = train(config, bccd, tmp_path / "run")
    before = path.read_bytes()

    def refused(match: str, **changes: dict[str, object]) -> None:
        parts = {part: replace(getattr(config, part), **of) for part, of in changes.items()}
        with pytest.raises(InvalidRecipe, match=match):
            train(replace(config, **parts), bccd, tmp_path / "run", resume=True)

    refused(r"has train\.seed 0, not 9", train={"seed": 9})
    refused(r"has train\.optimizer 'adamw', not 'sgd'", train={"optimizer": "sgd"})
    refused(r"has detector\.anchor_scale 2\.0, not 8\.0", detector={"anchor_scale": 8.0})
    refused(r"has detector\.neck_channels 8, not 12", detector={"neck_channels": 12})
    refused("has 2 epochs already, 1 were asked for", train={"epochs": 1})
    names = bccd / "ImageSets/Main/train.txt"
    names.write_text("".join(names.read_text().splitlines(keepends=True)[1:]))
    refused("is of other images or annotations")
    assert path.read_bytes() == before


def test_a_resumed_run_keeps_every_point_of_its_curves(bccd: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (1, 2):
        config = replace(TINY, train=replace(TINY.train, epochs=epochs))
        train(config, bccd, tmp_path, resume=True, tensorboard=True)
    events = EventAccumulator(str(tmp_path / TENSORBOARD))
    events.Reload()
    steps = 6 // config.train.batch_size
    points = [point.step for point in events.Scalars("class_loss/exit_3")]
    assert points == [steps - 1, 2 * steps - 1]


def test_a_run_of_another_version_does_not_go_on(bccd: Path, tmp_path: Path) -> None:
    path = tmp_path / training.CHECKPOINT
    weights = Detector(TINY.detector).state_dict()
    for metadata in ({}, {"train": TINY.train.to_dict()}, {"train": {"exit_weights": "rising"}}):
        save_checkpoint(path, TINY.detector, weights, metadata, {"epoch": 1})
        with pytest.raises(InvalidRecipe, match="is of another version"):
            train(TINY, bccd, tmp_path, resume=True)


def test_imported_weights_are_no_run(bccd: Path, tmp_path: Path) -> None:
    path = tmp_path / training.CHECKPOINT
    save_checkpoint(path, TINY.detector, Detector(TINY.detector).state_dict(), {})
    with pytest.raises(InvalidRecipe, match="start from it with --init"):
        train(TINY, bccd, tmp_path, resume=True)


def test_images_without_objects_train_nothing(bccd: Path, tmp_path: Path) -> None:
    for path in (bccd / "Annotations").iterdir():
        path.write_text(re.sub(r"<object>.*</object>", "", path.read_text(), flags=re.DOTALL))
    with pytest.raises(InvalidRecipe, match="no object in the split 'train'"):
        train(TINY, bccd, tmp_path / "run")


def arguments(bccd: Path, out: Path) -> list[str]:
    """Of ``punctual train`` for one epoch of a small detector."""
    changes = [
        "detector.input_size=[128,128]",
        "detector.num_stacks=1",
        "detector.neck_channels=8",
        "detector.head_channels=8",
        'train.split="train"',
    ]
    fields = [text for change in changes for text in ("--set", change)]
    where = ["--data", str(bccd), "--out", str(out)]
    return ["train", "--config", "bccd", "--epochs", "1", *where, *fields]


def test_a_run_to_its_end_says_by_which_command(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = arguments(bccd, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["punctual", *asked])
    assert main(asked) == 0
    _, _, metadata = load_checkpoint(tmp_path / "run" / training.CHECKPOINT)
    assert metadata["command"].startswith("punctual train --config bccd")


def test_sigterm_stops_a_run(
    bccd: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def killed(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "train_epoch", killed)
    assert main(arguments(bccd, tmp_path / "run")) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "punctual: stopped; --resume continues after the last whole epoch"


def test_a_run_that_diverges_has_failed(
    bccd: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverges(*_: object) -> None:
        raise Diverged("the loss of epoch 1 is not finite")

    monkeypatch.setattr(training, "train_epoch", diverges)
    assert main(arguments(bccd, tmp_path / "run")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "punctual: the loss of epoch 1 is not finite"


EVERYDAY = replace(
    CONFIGS["everyday"],
    detector=replace(
        CONFIGS["everyday"].detector,
        classes=("RBC", "WBC", "Platelets"),
        input_size=(76, 76),
        neck_channels=8,
        num_stacks=2,
        plain_exit=False,
        max_candidates=20,
        max_detections=20,
    ),
    train=replace(
        CONFIGS["everyday"].train,
        dataset="bccd",
        validation_split="val",
        epochs=1,
        batch_size=2,
        images_per_epoch=4,
        input_sizes=(44, 76),
        validation_sizes=(44, 76),
    ),
)


def test_transfer_at_several_sizes(bccd: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    torch.manual_seed(0)
    model = make_detector(EVERYDAY.detector)
    save_checkpoint(start, EVERYDAY.detector, model.state_dict(), {})
    path = train(EVERYDAY, bccd, tmp_path / "run", initial=start)
    trained, _, _ = load_checkpoint(path)
    changed = {
        name
        for name, value in trained.state_dict().items()
        if not torch.equal(value, model.state_dict()[name])
    }
    frozen = ("backbone.stem.", "backbone.blocks.0.", "backbone.blocks.1.", "backbone.blocks.2.")
    assert not any(name.startswith(frozen) for name in changed)
    assert {
        "backbone.blocks.3.project.weight",
        "backbone.heads.0.classes.pointwise.weight",
    } <= changed
    assert {"neck_input.0.0.weight", "stacks.1.refinements.5.predict.weight"} <= changed
    last = lines(tmp_path / "run")[-1]
    assert set(last["by_size"]) == {"44", "76"}  # type: ignore[call-overload]
    assert last["by_size"]["76"] == last["validation"]  # type: ignore[call-overload, index]
    assert len(last["validation"]["ap50"]) == 2  # type: ignore[call-overload, index]


def test_stacks_alone_are_trained(bccd: Path, tmp_path: Path) -> None:
    """What they refine stays bit by bit as it was."""
    recipe = replace(EVERYDAY.train, backbone_learning_rate_ratio=0.0, validation_split=None)
    config = replace(EVERYDAY, train=recipe)
    start = tmp_path / "start.pt"
    torch.manual_seed(0)
    model = make_detector(config.detector)
    save_checkpoint(start, config.detector, model.state_dict(), {})
    weights = read_checkpoint(train(config, bccd, tmp_path / "run", initial=start))["weights"]
    same = {name for name, value in model.state_dict().items() if torch.equal(weights[name], value)}
    assert same >= {name for name in weights if name.startswith("backbone.")}
    assert "stacks.0.refinements.0.predict.weight" not in same


def test_a_growing_run_goes_on_with_more_images(bccd: Path, tmp_path: Path) -> None:
    recipe = replace(TINY.train, images_per_epoch=3)
    train(replace(TINY, train=recipe), bccd, tmp_path / "run")
    names = bccd / "ImageSets/Main/train.txt"
    names.write_text(names.read_text() * 2)
    more = replace(TINY, train=replace(recipe, epochs=3))
    with pytest.raises(InvalidRecipe, match="other images"):
        train(more, bccd, tmp_path / "run", resume=True)
    growing = replace(more, train=replace(more.train, growing=True))
    data = read_checkpoint(train(growing, bccd, tmp_path / "run", resume=True))
    assert data["metadata"]["epochs"] == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"frozen_stages": 6}, "5 parts"), ({"input_sizes": (100,)}, "multiples of 128")],
)
def test_what_the_structure_cannot_is_refused(
    bccd: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    config = replace(TINY, train=replace(TINY.train, **change))
    with pytest.raises(InvalidRecipe, match=sentence):
        train(config, bccd, tmp_path / "run")


def test_one_image_at_once_needs_an_input_with_more_than_one_cell(
    bccd: Path, tmp_path: Path
) -> None:
    alone = replace(TINY.train, batch_size=1)
    with pytest.raises(InvalidRecipe, match="one image at once at 128x128 is too little"):
        train(replace(TINY, train=alone), bccd, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    sizes = replace(alone, input_sizes=(256, 128))
    with pytest.raises(InvalidRecipe, match="at 128x128"):
        train(replace(TINY, train=sizes), bccd, tmp_path / "run")
