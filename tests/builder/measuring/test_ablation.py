"""A comparison of options: planned, trained, stopped, resumed, reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cli.train import OPTIONS as NAMES
from builder.config.configuration import Config
from builder.measuring import ablation
from builder.measuring.ablation import (
    OPTIONS,
    OtherRun,
    ablate,
    has_ended,
    markdown,
    tables,
    trials,
)
from builder.modeling.cost import exit_costs
from tests.builder.tiny import TINY

CONFIG = Config(
    replace(TINY.detector, num_stacks=2),
    replace(TINY.train, epochs=1, validation_split="val"),
)


def test_every_option_can_be_named() -> None:
    assert tuple(OPTIONS) == NAMES


def test_trials_go_seed_by_seed() -> None:
    planned = trials(CONFIG, ["joint", "separate"], [0, 1])
    assert [(str(trial.folder), trial.exits) for trial in planned] == [
        ("joint/seed_0", (1, 2)),
        ("separate/depth_1/seed_0", (1,)),
        ("separate/depth_2/seed_0", (2,)),
        ("joint/seed_1", (1, 2)),
        ("separate/depth_1/seed_1", (1,)),
        ("separate/depth_2/seed_1", (2,)),
    ]
    assert [trial.config.detector.num_stacks for trial in planned[:3]] == [2, 1, 2]
    assert [trial.config.train.exits_per_step for trial in planned[:3]] == [None, 1, 1]


def test_separate_models_of_some_depths() -> None:
    planned = trials(CONFIG, ["joint", "separate"], [0], [2])
    assert [trial.exits for trial in planned] == [(1, 2), (2,)]
    with pytest.raises(ValueError, match="depths are 1 to 2, not 3"):
        trials(CONFIG, ["joint"], [0], [1, 3])


def test_another_neck_is_trained_in_the_same_ways_at_the_same_cost() -> None:
    own = trials(CONFIG, ["joint", "separate"], [4])
    other = trials(CONFIG, ["fpn/joint", "fpn/separate"], [4])
    for ours, theirs in zip(own, other, strict=True):
        assert theirs.option == f"fpn/{ours.option}"
        assert theirs.folder == Path("fpn") / ours.folder
        assert theirs.config.train == ours.config.train
        channels = theirs.config.detector.neck_channels
        expected = replace(ours.config.detector, neck="fpn", neck_channels=channels)
        assert theirs.config.detector == expected
        macs = [[c.macs for c in exit_costs(t.config.detector)] for t in (ours, theirs)]
        assert macs[1] == pytest.approx(macs[0], rel=0.05)
    # One width for all depths: that of the whole ladder.
    assert len({trial.config.detector.neck_channels for trial in other}) == 1


@pytest.mark.slow
def test_a_stopped_comparison_goes_on(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = trials(CONFIG, ["joint", "separate"], [0])
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
    assert set(report["results"]["joint"][0]["ap"]) == {1, 2}
    assert set(report["results"]["separate"][0]["ap50"]) == {1, 2}
    assert report["split"] == "val"
    assert report["structures"]["separate"]["gmac"] == report["structures"]["joint"]["gmac"]
    assert (tmp_path / "ablation.md").read_text() == markdown(report)

    trained.clear()
    assert ablate(planned, bccd, tmp_path, command="c") == report
    assert not trained


@pytest.mark.slow
def test_other_recipes_are_not_mixed(bccd: Path, tmp_path: Path) -> None:
    ablate(trials(CONFIG, ["joint"], [0]), bccd, tmp_path, command="c")
    longer = replace(CONFIG, train=replace(CONFIG.train, epochs=2))
    with pytest.raises(OtherRun, match="another recipe"):
        ablate(trials(longer, ["joint"], [0]), bccd, tmp_path, command="c")
    wider = replace(CONFIG, detector=replace(CONFIG.detector, neck_channels=16))
    with pytest.raises(OtherRun, match="another recipe"):
        ablate(trials(wider, ["joint"], [0]), bccd, tmp_path, command="c")


@pytest.mark.slow
def test_other_data_are_not_mixed(bccd: Path, tmp_path: Path) -> None:
    planned = trials(CONFIG, ["joint"], [0])
    ablate(planned, bccd, tmp_path / "out", command="c")
    assert ablate(planned, bccd, tmp_path / "out", command="c")["results"]
    names = bccd / f"ImageSets/Main/{CONFIG.train.validation_split}.txt"
    names.write_text("".join(names.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(OtherRun, match="other images or annotations"):
        ablate(planned, bccd, tmp_path / "out", command="c")


def row(*aps: float) -> dict[str, object]:
    """What one seed left, by exit; 0: nothing."""
    figures = {depth: ap for depth, ap in enumerate(aps, start=1) if ap}
    return {"ap": figures, "ap50": figures, "seconds": 90.0}


def test_tables() -> None:
    # Seed 1 is .1 better throughout; of seed 2 only one option has been trained.
    results = {
        "joint": {0: row(0.5, 0.6), 1: row(0.6, 0.7)},
        "fpn/joint": {0: row(0.4, 0.61), 1: row(0.5, 0.71), 2: row(0.9, 0.9)},
        "separate": {0: row(0, 0.7)},
    }
    found = tables(results, "joint")
    assert list(found) == [
        *("AP", "AP less that of joint", "AP less that of exit 1"),
        *("AP50", "AP50 less that of joint", "AP50 less that of exit 1"),
    ]
    assert found["AP50"] == found["AP"]
    assert found["AP"]["joint"][1] == pytest.approx(
        {"mean": 0.55, "std": 0.0707, "num_seeds": 2}, abs=1e-4
    )
    assert found["AP"]["separate"] == {2: {"mean": 0.7, "std": None, "num_seeds": 1}}
    paired = found["AP less that of joint"]
    assert set(paired) == {"fpn/joint", "separate"}
    assert paired["fpn/joint"][1] == pytest.approx(
        {"mean": -0.1, "std": 0.0, "num_seeds": 2}, abs=1e-9
    )
    assert paired["fpn/joint"][2]["mean"] == pytest.approx(0.01)
    gained = found["AP less that of exit 1"]
    assert set(gained) == {"joint", "fpn/joint"}
    assert set(gained["fpn/joint"]) == {2}
    assert gained["fpn/joint"][2] == pytest.approx(
        {"mean": 0.14, "std": 0.1212, "num_seeds": 3}, abs=1e-4
    )


def test_report() -> None:
    results = {"joint": {0: row(0.5, 0.6), 1: row(0.52, 0.6)}, "fpn/separate": {0: row(0, 0.7)}}
    report = {
        "command": "punctual ablate",
        "machine": "m",
        "dataset": "bccd",
        "split": "test",
        "epochs": 5,
        "structures": {
            "joint": {"neck": "nas_fpn", "neck_channels": 48, "gmac": {1: 0.2231, 2: 0.3}},
            "fpn/separate": {"neck": "fpn", "neck_channels": 54, "gmac": {2: 0.31}},
        },
        "results": results,
        "tables": tables(results, "joint"),
    }
    lines = markdown(report).splitlines()
    assert lines[2] == "bccd test, 5 epochs, m. Differences are paired by seed."
    assert lines[4:18] == [
        "| GMAC | neck | channels | exit 1 | exit 2 | seeds | minutes |",
        "|---|---|---|---|---|---|---|",
        "| joint | nas_fpn | 48 | 0.223 | 0.300 | 2 | 1.5 |",
        "| fpn/separate | fpn | 54 | - | 0.310 | 1 | 1.5 |",
        "",
        "| AP | exit 1 | exit 2 |",
        "|---|---|---|",
        "| joint | 0.510 ± 0.014 | 0.600 ± 0.000 |",
        "| fpn/separate | - | 0.700 |",
        "",
        "| AP less that of joint | exit 1 | exit 2 |",
        "|---|---|---|",
        "| fpn/separate | - | +0.100 |",
        "",
    ]
    alone = {**report, "tables": tables({"joint": results["joint"]}, "joint")}
    assert "less that of joint" not in markdown(alone)
