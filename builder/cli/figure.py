"""``punctual figure``: detectors that differ in one thing, what each costs and how good it is."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    add_command,
    add_cpu_runtime,
    command_line,
    today,
)
from builder.cli.train import add_recipe, add_seeds, measured_recipe_of, train_arguments
from serving.core.command_errors import (
    CommandError,
    InvalidArgument,
    files_of_the_user,
    invalid_arguments,
    stoppable,
)
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from builder.config.detector import DetectorConfig
    from builder.measuring.ablation import Trial
    from builder.measuring.figures import Ratio
    from builder.measuring.kept_times import Times
    from serving.artifacts.serving_tools import ServingTools

    Measure = Callable[[Sequence[tuple[DetectorConfig, Sequence[int]]]], Times]
    """Detectors, each with the exits of interest -> milliseconds."""

CONFIG_OF = {
    "stacking": "bccd_small",
    "backbones": "bccd_small",
    "widths": "bccd_small",
    "lite": "bccd_lite",
}
"""Figure of ``builder.measuring.figures`` -> configuration that its variants are of."""
SHOWS = {
    "stacking": "every number of stacks, of the pyramid and of FPN",
    "backbones": "three backbones, exit by exit",
    "widths": "two widths of neck and head, without and with DropBlock",
    "lite": "the pyramid, FPNLite and SSDLite at equal costs, twice",
}
"""Figure -> what there is in it."""
EQUAL = ("macs", "ms")
TIMES = "times.json"
"""File with the times that were measured, in OUT: a figure that goes on goes by them."""


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``figure`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "figure",
        "Train detectors that differ in one thing, and draw what comes of it.",
        "Figures: " + "; ".join(f"{name}, {text}" for name, text in SHOWS.items()) + ". Every "
        "detector is trained by the same recipe and over the same seeds, one run after the other; "
        "a stopped figure goes on when it is started again. Writes OUT/figure.html, .md and .json: "
        "AP on the validation split against what the figure is of, multiply-accumulates, "
        "parameters and, with --rounds, milliseconds. These are kept in OUT/times.json, so that "
        "they can be measured beforehand, when nothing else runs. With --count nothing is trained.",
    )
    parser.add_argument("figure", choices=sorted(CONFIG_OF), help="which one")
    add_recipe(parser, "what it is made of [one of a proxy's size]")
    add_seeds(parser)
    parser.add_argument("--count", action="store_true", help="what each costs; train nothing")
    parser.add_argument(
        "--equal",
        choices=EQUAL,
        default=EQUAL[0],
        help="what is to be equal in the figure lite: multiply-accumulates, or measured "
        "milliseconds",
    )
    parser.add_argument(
        "--backbone",
        type=Path,
        metavar="FILE",
        help="weights of MobileNetV2, of torchvision or timm, that all detectors on it start with",
    )
    parser.add_argument(
        "--rounds",
        type=at_least(0),
        default=0,
        help="interleaved rounds in which the time to each exit is measured; 0: it is not",
    )
    add_cpu_runtime(parser)
    parser.add_argument("--out", type=Path, required=True, help="runs, and the figure")
    parser.set_defaults(run=lambda options: _figure(options, tools))


@files_of_the_user()
def _figure(options: argparse.Namespace, tools: ServingTools) -> None:
    from serving.artifacts.folder_locks import only_writer

    is_new = not options.out.exists()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with only_writer(options.out):
            _make_figure(options, tools)
    except BaseException:
        if is_new:
            with suppress(OSError):  # there is something in it
                options.out.rmdir()
        raise


def _make_figure(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.measuring.ablation import ablate
    from builder.measuring.figures import (
        FIGURES,
        as_html,
        as_json,
        as_markdown,
        macs_ratio,
        points_of,
        trials,
    )
    from reporting.files import write_whole
    from reporting.machine import machine

    for assignment in options.assignments:
        if assignment.startswith("train.seed="):
            raise CommandError(f"--set {assignment}: --seeds say that")
    if options.equal == "ms" and not options.rounds:
        raise CommandError("--equal ms needs --rounds")
    options.config = options.config or CONFIG_OF[options.figure]
    config, data = measured_recipe_of(options)
    figure = FIGURES[options.figure]
    measure = _kept_times(options, tools) if options.rounds else None
    with invalid_arguments():
        ratio = _ms_ratio(measure) if measure and options.equal == "ms" else macs_ratio
        variants = list(figure.variants(config, ratio))
        planned = trials(variants, dict.fromkeys(options.seeds), _folder(options.backbone))
    _check_backbone(options.backbone, planned[: len(variants)])
    about = {
        "command": command_line(),
        "figure": options.figure,
        "machine": machine(),
        "date": today(),
        "dataset": config.train.dataset,
        "split": config.train.validation_split,
        "epochs": config.train.epochs,
        "backbone": options.backbone and options.backbone.name,
        "equal": options.equal,
        "runtime": options.runtime if options.rounds else None,
        "rounds": options.rounds,
        "threads": options.threads,
    }
    times = measure and measure(
        [(each.config.detector, [e for e, _ in each.points]) for each in variants]
    )
    results: Any = {}
    if not options.count:
        with TemporaryDirectory() as scratch, stoppable():
            results = ablate(
                planned,
                data,
                options.out,
                **train_arguments(options),
                start=lambda trial: _start(trial, options.backbone, Path(scratch)),
            )["results"]
    points = points_of(variants, times, results)
    text = json.dumps(as_json(about, points), indent=1)
    write_whole(options.out / "figure.json", text + "\n")
    write_whole(options.out / "figure.md", as_markdown(figure, about, points))
    write_whole(options.out / "figure.html", as_html(figure, about, points))
    print(as_markdown(figure, about, points), end="")


def _kept_times(options: argparse.Namespace, tools: ServingTools) -> Measure:
    """Return what gives milliseconds as they were first measured, and measures them once."""
    from builder.measuring.kept_times import KeptTimes
    from builder.measuring.untrained import exit_times
    from reporting.machine import machine

    how = {"runtime": options.runtime, "threads": options.threads, "rounds": options.rounds}
    kept = KeptTimes(options.out / TIMES, {**how, "machine": machine()})
    return lambda wanted: kept.of(
        wanted, lambda: exit_times(wanted, tools, **how, clock=time.perf_counter)
    )


def _ms_ratio(measure: Measure) -> Ratio:
    """Return what compares the times to the last exits of two detectors."""

    def ratio(detector: DetectorConfig, reference: DetectorConfig) -> float:
        this, other = measure([(each, [each.num_exits]) for each in (detector, reference)])
        return this[detector.num_exits] / other[reference.num_exits]

    return ratio


def _folder(backbone: Path | None) -> Path:
    """Return where runs from given weights are: they are others than those from random ones."""
    if backbone is None:
        return Path()
    return Path(f"from_{hashlib.sha256(backbone.read_bytes()).hexdigest()[:12]}")


def _check_backbone(backbone: Path | None, trials: Sequence[Trial]) -> None:
    """Raise InvalidArgument for weights that do not fit, before hours of training."""
    if backbone is None:
        return
    with TemporaryDirectory() as scratch:
        starts = [_start(trial, backbone, Path(scratch)) for trial in trials]
    if not any(starts):
        raise InvalidArgument(f"--backbone {backbone}: none of these is on mobilenet_v2")


def _start(trial: Trial, backbone: Path | None, folder: Path) -> Path | None:
    """Return a checkpoint with random weights but for those of ``backbone``; None for another."""
    import torch

    from builder.importing import WeightsError, load_backbone, load_folded_backbone, read_state_dict
    from builder.modeling.architectures import make_detector
    from builder.modeling.checkpoint import save_checkpoint

    config = trial.config.detector
    if backbone is None or config.backbone != "mobilenet_v2":
        return None
    torch.manual_seed(trial.seed)
    detector: Any = make_detector(config)
    load = load_folded_backbone if config.architecture == "ssdlite" else load_backbone
    try:
        state, _ = read_state_dict(backbone)
        load(detector.backbone, state)
    except WeightsError as error:
        raise InvalidArgument(f"--backbone {backbone}: {error}") from error
    path = folder / "start.pt"
    save_checkpoint(path, config, detector.state_dict(), {})
    return path
