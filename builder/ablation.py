"""Ways to train exits, compared: options by seeds, one run after the other.

OUT/OPTION/seed_S/           a run, as ``builder.train`` writes it; its checkpoint says how far
OUT/OPTION/depth_K/seed_S/   it is and what it scored
OUT/ablation.json, .md       the runs that have ended, rewritten after each
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.config import Config, DetectorConfig, TrainConfig, replace
from builder.measure import machine
from builder.modeling.checkpoint import read_checkpoint
from builder.train import CHECKPOINT, train

SEPARATE = "separate"
"""A model for each depth, trained at its last exit alone: what an exit could reach by itself."""

PLAIN: Mapping[str, Any] = {
    "exit_weights": "uniform",
    "exits_per_step": None,
    "gradient_equilibrium": False,
    "distillation_weight": 0.0,
    "teacher": "deepest",
}
"""Every exit at every step, all alike, each by itself."""

OPTIONS: dict[str, Mapping[str, Any]] = {
    "uniform": PLAIN,
    "rising": {**PLAIN, "exit_weights": "rising"},
    "last": {**PLAIN, "exit_weights": "last"},
    "random": {**PLAIN, "exits_per_step": 2},
    "equilibrium": {**PLAIN, "gradient_equilibrium": True},
    "distillation": {**PLAIN, "distillation_weight": 1.0},
    "ensemble": {**PLAIN, "distillation_weight": 1.0, "teacher": "ensemble"},
    SEPARATE: {**PLAIN, "exits_per_step": 1},
}
"""Name -> fields of the recipe."""

FIGURES = ("ap", "ap50")


class OtherRun(ValueError):
    """A run where this one should go on was made by another recipe."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, and the exits of it that count."""

    option: str
    seed: int
    config: Config
    folder: Path
    """Relative to the folder of the comparison."""
    exits: tuple[int, ...]


def trials(config: Config, options: Iterable[str], seeds: Iterable[int]) -> list[Trial]:
    """All runs of a comparison, seed by seed, so that every option has a result early on."""
    options = list(options)
    return [
        trial for seed in seeds for option in options for trial in _trials(config, option, seed)
    ]


def _trials(config: Config, option: str, seed: int) -> Iterator[Trial]:
    recipe = replace(config.train, **OPTIONS[option], seed=seed)
    num_exits = config.detector.num_exits
    if option != SEPARATE:
        folder = Path(option) / f"seed_{seed}"
        exits = tuple(range(1, num_exits + 1))
        yield Trial(option, seed, replace(config, train=recipe), folder, exits)
        return
    stacks_per_exit = config.detector.num_stacks // num_exits
    for depth in range(1, num_exits + 1):
        detector = replace(config.detector, num_stacks=depth * stacks_per_exit)
        folder = Path(option) / f"depth_{depth}" / f"seed_{seed}"
        yield Trial(option, seed, Config(detector, recipe), folder, (depth,))


def ablate(
    planned: Sequence[Trial], data: Path, out: Path, *, command: str, **options: Any
) -> dict[str, Any]:
    """Train what has not been trained, with the options of ``train``; returns the report. Raises
    what ``train`` raises, and OtherRun before any training."""
    ended = {trial: has_ended(trial, out) for trial in planned}
    for trial, has in ended.items():
        if not has:
            print(f"{trial.folder}: {trial.config.train.epochs} epochs", flush=True)
            folder = out / trial.folder
            train(trial.config, data, folder, resume=True, command=command, **options)
            _write(_report(planned, out, command), out)
    report = _report(planned, out, command)
    _write(report, out)
    return report


def has_ended(trial: Trial, out: Path) -> bool:
    """Whether a run has been trained to its end. Raises OtherRun."""
    path = out / trial.folder / CHECKPOINT
    if not path.exists():
        return False
    data = read_checkpoint(path)
    metadata, expected = data["metadata"], trial.config
    detector = DetectorConfig.from_dict(data["detector"])
    found = Config(
        replace(detector, classes=expected.detector.classes),  # these may be those of the data
        TrainConfig.from_dict(metadata["train"]),
    )
    if found != expected:
        raise OtherRun(f"{path} was made by another recipe: choose another folder, or remove it")
    return bool(metadata["epochs"] == expected.train.epochs)


def _report(planned: Sequence[Trial], out: Path, command: str) -> dict[str, Any]:
    """Of the runs that have ended: by option and seed, the figures of each exit."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for trial in planned:
        if not has_ended(trial, out):
            continue
        metadata = read_checkpoint(out / trial.folder / CHECKPOINT)["metadata"]
        of_option = results.setdefault(trial.option, {})
        of_seed = of_option.setdefault(
            trial.seed, {"seconds": 0.0, **{name: {} for name in FIGURES}}
        )
        of_seed["seconds"] += metadata["seconds"]
        for name in FIGURES:
            values = metadata["validation"]["validation"][name]
            of_seed[name].update({depth: values[depth - 1] for depth in trial.exits})
    recipe = planned[0].config.train
    return {
        "command": command,
        "machine": machine(),
        "dataset": recipe.dataset,
        "split": recipe.validation_split,
        "epochs": recipe.epochs,
        "results": results,
    }


def _write(report: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "ablation.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "ablation.md").write_text(markdown(report))


def markdown(report: Mapping[str, Any]) -> str:
    """Tables of AP and AP50: the mean over seeds and, of two or more, the standard deviation."""
    lines = [
        f"`{report['command']}`",
        "",
        f"{report['dataset']} {report['split']}, {report['epochs']} epochs, {report['machine']}",
    ]
    results = report["results"]
    depths = sorted({d for seeds in results.values() for row in seeds.values() for d in row["ap"]})
    for name in FIGURES:
        head = [name.upper(), "seeds", *(f"exit {depth}" for depth in depths), "minutes"]
        lines += ["", _row(head), _row(["---"] * len(head))]
        for option, seeds in results.items():
            rows = list(seeds.values())
            minutes = statistics.fmean(row["seconds"] for row in rows) / 60
            cells = [
                _spread([row[name][depth] for row in rows if depth in row[name]])
                for depth in depths
            ]
            lines.append(_row([option, str(len(rows)), *cells, f"{minutes:.1f}"]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    """``.612 ± .004``"""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return (
        mean if len(values) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(values):.3f}"
    )
