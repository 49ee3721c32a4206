"""The commands that train: ``punctual train`` and ``punctual ablate``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.cli.model import add_assignments, add_neck, configured
from builder.cli.options import DATASETS, add_command, add_data, command_line
from builder.config.configuration import Config, override
from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS
from serving.core.command_errors import (
    CommandError,
    InvalidArgument,
    error_text,
    files_of_the_user,
    invalid_arguments,
    stoppable,
)

OPTIONS = ("joint", "random", "separate")
"""As in ``builder.measuring.ablation``, which --help need not import."""


def add_parsers(commands: Any) -> None:
    """Add train and ablate to the subparsers ``commands``."""
    _add_train(commands)
    _add_ablate(commands)


def add_recipe(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add what is trained, on what; ``default`` says what is where there is no ``--config``."""
    parser.add_argument(
        "--config",
        choices=sorted(CONFIGS),
        required=default is None,
        help=default or "what to train",
    )
    add_neck(parser)
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        help="train for the classes of other data: how it is laid out [the recipe's]",
    )
    add_data(parser)
    parser.add_argument("--split", help="to train on [the recipe's]")
    parser.add_argument("--validation-split", help="to measure accuracy on [the recipe's]")
    parser.add_argument("--epochs", type=int, help="overrides the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    add_assignments(parser, "{detector,train}.FIELD=JSON")


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the seeds that everything compared is trained with."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])


def recipe_of(options: argparse.Namespace, *more: str) -> tuple[Config, Path]:
    """Return the configuration that the options describe, and where its data is.

    ``more`` are names of options that only some commands have.
    """
    config = configured(options.config, options.neck, options.assignments)
    names = ("dataset", "split", "validation_split", "epochs", *more)
    given = {name: getattr(options, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    with invalid_arguments():
        config = replace(config, train=replace(config.train, **changes))
    return config, options.data or Path("data") / config.train.dataset


def train_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of ``add_recipe`` say to ``builder.training.loop.train``, by keyword.

    It is what is no part of the recipe, and the command, for the record.
    """
    return {
        "device": options.device,
        "bad_annotations": options.bad_annotations,
        "classes_of_data": options.dataset is not None,
        "command": command_line(),
    }


def measured_recipe_of(options: argparse.Namespace) -> tuple[Config, Path]:
    """Return what ``recipe_of`` does, of a detector whose accuracy is measured as well."""
    config, data = recipe_of(options)
    if config.train.validation_split is None:
        raise CommandError("which images to measure accuracy on: give --validation-split")
    return config, data


# -- train ---------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
    parser = add_command(
        commands,
        "train",
        "Train a detector.",
        "Writes OUT/checkpoint.pt after every epoch and OUT/log.jsonl; a stopped run goes on with "
        "--resume as if it had not been stopped. On several GPUs: torchrun --nproc-per-node COUNT "
        "--no-python punctual train ...",
    )
    add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument(
        "--init",
        type=Path,
        help="start from the detector in this checkpoint, its structure and its weights; the "
        "configuration's are then the recipe, the classes and the input size",
    )
    parser.add_argument("--seed", type=int, help="overrides the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUT")
    parser.add_argument("--tensorboard", action="store_true", help="write curves to OUT as well")
    parser.set_defaults(run=_train)


@files_of_the_user()
def _train(options: argparse.Namespace) -> None:
    import logging

    from builder.training.loop import train

    config, data = recipe_of(options, "seed")
    if options.init and options.neck:
        raise CommandError("the neck is that of --init")
    if options.init:
        from builder.modeling.checkpoint import structure_of

        try:
            config = replace(config, detector=structure_of(options.init, config.detector))
            # What does not change the structure can be set; of what does, the weights tell.
            config = override(config, options.assignments)
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"--init: {error_text(error)}") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with stoppable("--resume continues after the last whole epoch"):
        train(
            config,
            data,
            options.out,
            **train_arguments(options),
            resume=options.resume,
            initial=options.init,
            tensorboard=options.tensorboard,
        )


# -- ablate --------------------------------------------------------------------------------------


def _add_ablate(commands: Any) -> None:
    parser = add_command(
        commands,
        "ablate",
        "Compare exits of one model with separate models, and necks.",
        "Trains one recipe with each option and each seed, one run after the other, and prints "
        "what every exit costs and its AP on the validation split, mean and spread over seeds, "
        "also of the differences to the first option and to exit 1. A stopped comparison goes on "
        "when it is started again; runs that have ended are not repeated. "
        "Options: joint, every exit of one model at every step; random, one other exit and the "
        "last; separate, a model for each depth, trained at its last exit alone. NECK/OPTION, as "
        "fpn/joint, is the option with another built-in neck, as wide as makes its exits cost the "
        "same.",
    )
    add_recipe(parser)
    parser.add_argument(
        "--options",
        nargs="+",
        type=_option,
        default=list(OPTIONS),
        metavar="[NECK/]OPTION",
        help="the first is what the others are compared with",
    )
    add_seeds(parser)
    parser.add_argument("--depths", nargs="+", type=int, help="of separate models [all]")
    parser.add_argument("--out", type=Path, required=True, help="runs, OUT/ablation.json and .md")
    parser.set_defaults(run=_ablate)


def _option(text: str) -> str:
    """Return ``text``, ``OPTION`` or ``NECK/OPTION``. Raises ArgumentTypeError."""
    neck, separator, name = text.rpartition("/")
    if name not in OPTIONS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(OPTIONS)}")
    if separator and neck not in GRAPHS:
        raise argparse.ArgumentTypeError(f"{neck!r} is not one of {', '.join(GRAPHS)}")
    return text


@files_of_the_user()
def _ablate(options: argparse.Namespace) -> None:
    from builder.measuring.ablation import ablate, markdown, trials

    for assignment in options.assignments:
        if assignment.startswith(("train.exits_per_step=", "train.seed=")):
            raise CommandError(f"--set {assignment}: --options and --seeds say that")
    config, data = measured_recipe_of(options)
    names, seeds = dict.fromkeys(options.options), dict.fromkeys(options.seeds)
    depths = sorted(set(options.depths)) if options.depths else None
    with invalid_arguments():
        planned = trials(config, names, seeds, depths)
    with stoppable():
        report = ablate(
            planned,
            data,
            options.out,
            **train_arguments(options),
        )
    print(markdown(report), end="")
