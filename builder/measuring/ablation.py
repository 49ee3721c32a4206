"""Ablation of training: exits trained jointly or as separate models, and necks, compared by seeds.

OUT/OPTION/seed_S/           a run, as ``training.loop`` writes it; its checkpoint says how far
OUT/OPTION/depth_K/seed_S/   it is and what it scored
OUT/NECK/OPTION/...          the same with another neck of equal cost
OUT/ablation.json, .md       those asked for that have ended, rewritten after each
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.modeling.checkpoint import read_checkpoint
from builder.modeling.cost import exit_costs, with_neck_of_equal_cost
from builder.training.loop import CHECKPOINT, digests, read_split, train
from builder.training.recipe_checks import config_of
from reporting.files import write_whole
from reporting.machine import machine
from reporting.markdown import table_of_cells
from serving.core.command_errors import InvalidArgument

SEPARATE = "separate"
"""Name of the option of a model for each depth, trained at its last exit alone.

It tells what an exit could reach by itself.
"""

OPTIONS: dict[str, Mapping[str, Any]] = {
    "joint": {"exits_per_step": None},
    "random": {"exits_per_step": 2},
    SEPARATE: {"exits_per_step": 1},
}
"""Options of training: name -> fields of the recipe."""

FIGURES = ("ap", "ap50")

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Results of an ablation: option -> seed -> figure -> exit -> value.

The seconds of a seed's runs stand beside its figures.
"""

Values = Mapping[tuple[str, int, int], float]
"""Values of one figure: (option, seed, exit) -> value."""

Table = dict[str, dict[int, dict[str, Any]]]
"""Table of one figure: option -> exit -> mean, std (None of one seed) and num_seeds."""


class OtherRun(InvalidArgument):
    """Error of an earlier run by another recipe where this one should go on."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of an ablation, and the exits of it that count."""

    option: str
    """Option of the run: a key of OPTIONS, or NECK/KEY."""
    seed: int
    config: Config
    folder: Path
    """Folder of the run, relative to that of the comparison."""
    exits: tuple[int, ...]


def trials(
    config: Config,
    options: Iterable[str],
    seeds: Iterable[int],
    depths: Sequence[int] | None = None,
) -> list[Trial]:
    """Return all runs of a comparison, seed by seed, so that every option has a result early on.

    ``depths`` are those of the separate models (None: all). Raises ValueError for a depth that the
    detector does not have or a neck that cannot be made to cost the same.
    """
    options = list(options)
    num_exits = config.detector.num_exits
    wrong = [depth for depth in depths or () if not 1 <= depth <= num_exits]
    if wrong:
        raise ValueError(f"depths are 1 to {num_exits}, not {wrong[0]}")
    depths = depths or range(1, num_exits + 1)
    return [
        trial
        for seed in seeds
        for option in options
        for trial in _trials(config, option, seed, depths)
    ]


def _trials(config: Config, option: str, seed: int, depths: Sequence[int]) -> Iterator[Trial]:
    neck, _, name = option.rpartition("/")
    recipe = replace(config.train, **OPTIONS[name], seed=seed)
    detector = with_neck_of_equal_cost(config.detector, neck) if neck else config.detector
    if name != SEPARATE:
        folder = Path(option) / f"seed_{seed}"
        exits = tuple(range(1, detector.num_exits + 1))
        yield Trial(option, seed, Config(detector, recipe), folder, exits)
        return
    for depth in depths:
        shallow = replace(detector, num_stacks=depth * detector.stacks_per_exit)
        folder = Path(option) / f"depth_{depth}" / f"seed_{seed}"
        yield Trial(option, seed, Config(shallow, recipe), folder, (depth,))


def ablate(
    planned: Sequence[Trial],
    data: Path,
    out: Path,
    *,
    command: str,
    start: Callable[[Trial], Path | None] = lambda _: None,
    **options: Any,
) -> dict[str, Any]:
    """Train what has not been trained, with the options of ``train``; return the report.

    ``start`` makes the checkpoint whose weights a run starts from, or None for random ones. Raises
    what ``train`` raises, and OtherRun before any training.
    """
    ended = {trial: has_ended(trial, out) for trial in planned}
    if any(ended.values()):
        _check_data(planned, data, out, options.get("bad_annotations", "skip"))
    for trial, has in ended.items():
        if not has:
            print(f"{trial.folder}: {trial.config.train.epochs} epochs", flush=True)
            folder = out / trial.folder
            train(
                trial.config,
                data,
                folder,
                resume=True,
                initial=start(trial),
                command=command,
                **options,
            )
            _write(_report(planned, out, command), out)
    report = _report(planned, out, command)
    _write(report, out)
    return report


def _check_data(planned: Sequence[Trial], data: Path, out: Path, bad_annotations: str) -> None:
    """Raise OtherRun unless the runs that have ended were trained and measured on these images."""
    recipe = planned[0].config.train
    splits = (recipe.split, str(recipe.validation_split))
    now = digests(*(read_split(recipe, data, split, bad_annotations) for split in splits))
    for trial in planned:
        checkpoint = _checkpoint(trial, out)
        if checkpoint is not None and checkpoint["metadata"].get("data") != now:
            raise OtherRun(
                f"{out / trial.folder} is of other images or annotations: choose another folder, "
                "or remove it"
            )


def has_ended(trial: Trial, out: Path) -> bool:
    """Return whether a run has been trained to its end. Raises OtherRun."""
    return _checkpoint(trial, out) is not None


def _checkpoint(trial: Trial, out: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a run that has been trained to its end, or None. Raises OtherRun."""
    path = out / trial.folder / CHECKPOINT
    if not path.exists():
        return None
    expected = trial.config
    try:
        data = read_checkpoint(path)
        found, epochs = config_of(data), data["metadata"]["epochs"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OtherRun(f"{path} is no run of this version ({error}): remove it") from error
    # The classes may be those of the data.
    detector = replace(found.detector, classes=expected.detector.classes)
    if replace(found, detector=detector) != expected:
        raise OtherRun(f"{path} was made by another recipe: choose another folder, or remove it")
    return data if epochs == expected.train.epochs else None


def _report(planned: Sequence[Trial], out: Path, command: str) -> dict[str, Any]:
    """Return the report of the runs that have ended.

    It has the figures of each exit by option and seed, and what each exit costs.
    """
    results: dict[str, dict[int, dict[str, Any]]] = {}
    structures: dict[str, dict[str, Any]] = {}
    for trial in planned:
        if (checkpoint := _checkpoint(trial, out)) is None:
            continue
        metadata = checkpoint["metadata"]
        of_seed = results.setdefault(trial.option, {}).setdefault(
            trial.seed, {"seconds": 0.0, **{name: {} for name in FIGURES}}
        )
        of_seed["seconds"] += metadata["seconds"]
        for name in FIGURES:
            values = metadata["validation"]["validation"][name]
            of_seed[name].update({depth: values[depth - 1] for depth in trial.exits})
        detector = DetectorConfig.from_dict(checkpoint["detector"])
        structure = structures.setdefault(
            trial.option,
            {"neck": detector.neck, "neck_channels": detector.neck_channels, "gmac": {}},
        )
        costs = exit_costs(detector)
        structure["gmac"].update({depth: costs[depth - 1].macs / 1e9 for depth in trial.exits})
    recipe = planned[0].config.train
    return {
        "command": command,
        "machine": machine(),
        "dataset": recipe.dataset,
        "split": recipe.validation_split,
        "epochs": recipe.epochs,
        "structures": structures,
        "results": results,
        "tables": tables(results, planned[0].option),
    }


def tables(results: Results, base: str) -> dict[str, Table]:
    """Return the tables of each figure: title -> table.

    There is one of the figure by itself, one of it less that of the option ``base`` at the same
    seed and exit, and one of it less that of exit 1 of the same option and seed.
    """
    found: dict[str, Table] = {}
    for name in FIGURES:
        title = name.upper()
        values = {
            (option, seed, depth): value
            for option, seeds in results.items()
            for seed, row in seeds.items()
            for depth, value in row[name].items()
        }
        found[title] = _table(values)
        found[f"{title} less that of {base}"] = _table(
            _differences(values, lambda option, seed, depth: (base, seed, depth))
        )
        found[f"{title} less that of exit 1"] = _table(
            _differences(values, lambda option, seed, depth: (option, seed, 1))
        )
    return found


def _differences(
    values: Values, partner: Callable[[str, int, int], tuple[str, int, int]]
) -> dict[tuple[str, int, int], float]:
    """Return the difference between each value and its partner, where that is another one."""
    pairs = ((key, partner(*key)) for key in values)
    return {a: values[a] - values[b] for a, b in pairs if a != b and b in values}


def _table(values: Values) -> Table:
    """Return the mean and standard deviation over seeds."""
    grouped: dict[str, dict[int, list[float]]] = {}
    for (option, _, depth), value in values.items():
        grouped.setdefault(option, {}).setdefault(depth, []).append(value)
    return {
        option: {
            depth: {
                "mean": statistics.fmean(row),
                "std": statistics.stdev(row) if len(row) > 1 else None,
                "num_seeds": len(row),
            }
            for depth, row in depths.items()
        }
        for option, depths in grouped.items()
    }


def _write(report: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "ablation.json", json.dumps(report, indent=2) + "\n")
    write_whole(out / "ablation.md", markdown(report))


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: what each option is and costs, then the tables.

    A table has the mean over seeds and, of two or more, the standard deviation; of differences,
    theirs.
    """
    lines = [
        f"`{report['command']}`",
        "",
        f"{report['dataset']} {report['split']}, {report['epochs']} epochs, {report['machine']}. "
        "Differences are paired by seed.",
    ]
    structures, results = report["structures"], report["results"]
    depths = sorted({depth for row in structures.values() for depth in row["gmac"]})
    exits = [f"exit {depth}" for depth in depths]
    rows = [
        [
            option,
            row["neck"],
            str(row["neck_channels"]),
            *(f"{row['gmac'][depth]:.3f}" if depth in row["gmac"] else "-" for depth in depths),
            str(len(results[option])),
            f"{statistics.fmean(seed['seconds'] for seed in results[option].values()) / 60:.1f}",
        ]
        for option, row in structures.items()
    ]
    lines += table_of_cells(["GMAC", "neck", "channels", *exits, "seeds", "minutes"], rows)
    for title, table in report["tables"].items():
        if not table:
            continue
        sign = "+z" if "less" in title else ""
        lines += table_of_cells(
            [title, *exits],
            [
                [option, *(_spread(row.get(depth), sign) for depth in depths)]
                for option, row in table.items()
            ],
        )
    return "\n".join(lines) + "\n"


def _spread(cell: Mapping[str, Any] | None, sign: str) -> str:
    """Return the mean as text, with the standard deviation of two or more."""
    if cell is None:
        return "-"
    mean = f"{cell['mean']:{sign}.3f}"
    return mean if cell["std"] is None else f"{mean} \N{PLUS-MINUS SIGN} {cell['std']:.3f}"
