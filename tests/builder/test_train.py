"""The training loop on a data set of six images."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from builder import train as training
from builder.config import CONFIGS, Config, replace
from builder.data import AveragePrecision, read_bccd
from builder.modeling.checkpoint import load_checkpoint, read_checkpoint
from builder.train import (
    MovingAverage,
    draw_exits,
    learning_rate_at,
    override,
    parameter_groups,
    positives_per_level,
    run_until_signal,
    train,
    validate,
)

BASE = CONFIGS["bccd"]
TINY = Config(
    replace(
        BASE.detector,
        input_size=(128, 128),
        num_stacks=3,
        neck_channels=8,
        head_channels=8,
        max_candidates=20,
        max_detections=20,
    ),
    replace(
        BASE.train,
        epochs=2,
        batch_size=3,
        warmup_steps=1,
        exits_per_step=2,
        split="train",
        validation_split=None,
    ),
)


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / training.LOG).read_text().splitlines()]


def test_learning_rate() -> None:
    config = replace(BASE.train, learning_rate=1.0, warmup_steps=4, final_learning_rate_ratio=0.1)
    rates = [learning_rate_at(step, 14, config) for step in (0, 1, 3, 4, 9, 14, 20)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_only_kernels_decay() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, others = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert (len(others["params"]), others["weight_decay"]) == (3, 0.0)


def test_moving_average() -> None:
    module = torch.nn.BatchNorm2d(1)
    average = MovingAverage(module, decay=0.5)
    with torch.no_grad():
        for _ in range(2):
            module.weight.fill_(11.0)
            module.num_batches_tracked += 1
            average.update(module)
    # decays 1/10 and 2/11
    assert average.model.weight.item() == pytest.approx(11 - 10 * 0.1 * 2 / 11)
    assert average.model.num_batches_tracked.item() == 2
    assert not average.model.training


def test_exits_are_drawn() -> None:
    random = np.random.default_rng(0)
    assert draw_exits(5, None, random) == draw_exits(5, 9, random) == [1, 2, 3, 4, 5]
    drawn = [draw_exits(5, 3, random) for _ in range(50)]
    assert all(len(set(row)) == 3 and row == sorted(row) and row[-1] == 5 for row in drawn)
    assert {depth for row in drawn for depth in row} == {1, 2, 3, 4, 5}


def test_positives_per_level(bccd: Path) -> None:
    counts = positives_per_level(TINY.detector, read_bccd(bccd, "train"))
    assert len(counts) == 5
    assert counts[1] > 0  # squares of 32 pixels, the anchors of P4
    assert counts[4] == 0


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

    original = training._train_epoch

    def interrupted(run: training._Run, *rest: object) -> object:
        if run.epoch == 1:
            raise KeyboardInterrupt
        return original(run, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, bccd, tmp_path / "parts")
    parts = read_checkpoint(train(TINY, bccd, tmp_path / "parts", resume=True))
    for name, value in whole["weights"].items():
        torch.testing.assert_close(parts["weights"][name], value, msg=name)


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


def test_wrong_classes_are_refused(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, detector=replace(TINY.detector, classes=("a", "b", "c")))
    with pytest.raises(ValueError, match="classes"):
        train(config, bccd, tmp_path / "run")


def test_wrong_number_of_weights_is_refused(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, exit_weights=(1.0,)))
    with pytest.raises(ValueError, match="exit_weights"):
        train(config, bccd, tmp_path / "run")


def test_overrides() -> None:
    config = override(TINY, ["train.box_weight=3.0", "detector.octave_scales=[1.0, 1.5]"])
    assert config.train == replace(TINY.train, box_weight=3.0)
    assert config.detector == replace(TINY.detector, octave_scales=(1.0, 1.5))


@pytest.mark.parametrize("assignment", ["seed=1", "train.seeds=1", "train.seed=one"])
def test_bad_overrides_are_refused(assignment: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        override(TINY, [assignment])


def test_run_until_the_end(bccd: Path, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, epochs=1))
    assert run_until_signal(config, bccd, tmp_path / "run", command="punctual train") == 0
    _, _, metadata = load_checkpoint(tmp_path / "run" / training.CHECKPOINT)
    assert metadata["command"] == "punctual train"


def test_sigterm_stops_a_run(bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def killed(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "_train_epoch", killed)
    assert run_until_signal(TINY, bccd, tmp_path / "run") == 130
    assert signal.getsignal(signal.SIGTERM) is before
