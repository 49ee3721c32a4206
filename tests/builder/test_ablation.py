"""A comparison of options: planned, trained, stopped, resumed, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import ablation
from builder.ablation import OPTIONS, OtherRun, ablate, has_ended, markdown, trials
from builder.config import Config, replace
from builder.train_cli import OPTIONS as NAMES
from tests.builder.tiny import TINY

CONFIG = Config(
    replace(TINY.detector, num_stacks=2),
    replace(TINY.train, epochs=1, validation_split="val", exit_weights="last"),
)


def test_every_option_can_be_named() -> None:
    assert tuple(OPTIONS) == NAMES


def test_options_differ_from_plain_training_alone() -> None:
    """The recipe's own way to train exits is none of them."""
    for option in OPTIONS:
        for trial in trials(CONFIG, [option], [3]):
            recipe = replace(CONFIG.train, **ablation.PLAIN, seed=3)
            changed = {
                name
                for name, value in recipe.to_dict().items()
                if value != trial.config.train.to_dict()[name]
            }
            assert len(changed) == {"uniform": 0, "ensemble": 2}.get(option, 1)


def test_trials_go_seed_by_seed() -> None:
    planned = trials(CONFIG, ["uniform", "separate"], [0, 1])
    assert [(str(trial.folder), trial.exits) for trial in planned] == [
        ("uniform/seed_0", (1, 2)),
        ("separate/depth_1/seed_0", (1,)),
        ("separate/depth_2/seed_0", (2,)),
        ("uniform/seed_1", (1, 2)),
        ("separate/depth_1/seed_1", (1,)),
        ("separate/depth_2/seed_1", (2,)),
    ]
    assert [trial.config.detector.num_stacks for trial in planned[:3]] == [2, 1, 2]
    assert [trial.config.train.exits_per_step for trial in planned[:3]] == [None, 1, 1]


def test_a_stopped_comparison_goes_on(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = trials(CONFIG, ["equilibrium", "separate"], [0])
    trained: list[Path] = []
    original = ablation.train

    def train(config: Config, data: Path, out: Path, **options: object) -> Path:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(out.relative_to(tmp_path))
        return original(config, data, out, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "train", train)
        with pytest.raises(KeyboardInterrupt):
            ablate(planned, bccd, tmp_path, command="c")
    assert [has_ended(trial, tmp_path) for trial in planned] == [True, True, False]
    results = json.loads((tmp_path / "ablation.json").read_text())["results"]
    assert list(results["separate"]["0"]["ap"]) == ["1"]

    trained.clear()
    monkeypatch.setattr(ablation, "train", train)
    report = ablate(planned, bccd, tmp_path, command="c")
    assert trained == [Path("separate/depth_2/seed_0")]
    assert set(report["results"]["equilibrium"][0]["ap"]) == {1, 2}
    assert set(report["results"]["separate"][0]["ap50"]) == {1, 2}
    assert report["split"] == "val"
    assert (tmp_path / "ablation.md").read_text() == markdown(report)


def test_other_recipes_are_not_mixed(bccd: Path, tmp_path: Path) -> None:
    ablate(trials(CONFIG, ["uniform"], [0]), bccd, tmp_path, command="c")
    longer = replace(CONFIG, train=replace(CONFIG.train, epochs=2))
    with pytest.raises(OtherRun, match="another recipe"):
        ablate(trials(longer, ["uniform"], [0]), bccd, tmp_path, command="c")
    wider = replace(CONFIG, detector=replace(CONFIG.detector, neck_channels=16))
    with pytest.raises(OtherRun, match="another recipe"):
        ablate(trials(wider, ["uniform"], [0]), bccd, tmp_path, command="c")


def test_tables() -> None:
    def row(*aps: float) -> dict[str, object]:
        figures = {depth: ap for depth, ap in enumerate(aps, start=1) if ap}
        return {"ap": figures, "ap50": figures, "seconds": 90.0}

    report = {
        "command": "punctual ablate",
        "machine": "m",
        "dataset": "bccd",
        "split": "test",
        "epochs": 5,
        "results": {"uniform": {0: row(0.5, 0.6), 1: row(0.52, 0.6)}, "separate": {0: row(0, 0.7)}},
    }
    table = markdown(report).splitlines()
    assert table[2] == "bccd test, 5 epochs, m"
    assert table[4:8] == [
        "| AP | seeds | exit 1 | exit 2 | minutes |",
        "| --- | --- | --- | --- | --- |",
        "| uniform | 2 | 0.510 ± 0.014 | 0.600 ± 0.000 | 1.5 |",
        "| separate | 1 | - | 0.700 | 1.5 |",
    ]
