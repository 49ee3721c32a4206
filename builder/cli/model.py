"""The commands about a model before it is trained: what it costs, and weights of others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import command_line
from builder.config.configuration import Config, override
from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import InvalidGraph
from serving.core.command_errors import (
    CommandError,
    InvalidArgument,
    error_text,
    files_of_the_user,
    invalid_arguments,
)

if TYPE_CHECKING:
    from builder.modeling.architectures import AnyDetector

MMDET, BACKBONE, SSDLITE = "mmdet-nas-fpn", "imagenet-backbone", "ssdlite-arrays"
PART = {"config": "--config", "neck": "--neck", "assignments": "--set"}
OPTIONS_OF = {
    MMDET: {
        "name": "--name",
        "classes": "--classes",
        "input_size": "--input-size",
        "every_exit": "--every-exit",
    },
    BACKBONE: PART,
    SSDLITE: PART,
}
"""Options of import that not every layout has, by layout and by where they are kept."""

NAME, INPUT_SIZE = "nas_fpn", (640, 640)
"""Of an imported detector."""


def add_neck(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option of every command that takes a configuration."""
    parser.add_argument(
        "--neck",
        type=Path,
        metavar="GRAPH.json",
        help="the pyramid's table, instead of the configuration's: levels, and cells with level, "
        "op (sum, attention), inputs and output",
    )


def add_assignments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, metavar: str = "detector.FIELD=JSON"
) -> None:
    """Add the option that sets single fields of a configuration."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar=metavar,
        dest="assignments",
        help="override one field of the configuration; may be repeated",
    )


def changed(config: DetectorConfig, assignments: Sequence[str]) -> DetectorConfig:
    """Return a detector's configuration with fields assigned. Raises InvalidArgument."""
    with invalid_arguments():
        return override(Config(config), assignments).detector


def configured(name: str, neck: Path | None, assignments: Sequence[str]) -> Config:
    """Return the configuration ``name`` with what these options change. Raises InvalidArgument."""
    try:
        with invalid_arguments():
            return override(CONFIGS[name], assignments, neck)
    except InvalidGraph as error:
        raise InvalidGraph(f"--neck: {error}" if neck else str(error)) from error
    except OSError as error:
        raise InvalidArgument(f"--neck: {error_text(error)}") from error


def add_parsers(commands: Any) -> None:
    """Add cost and import to the subparsers ``commands``."""
    cost = commands.add_parser(
        "cost",
        help="Count what each exit costs.",
        description="Count the multiply-accumulates of the convolutions and the parameters of "
        "every exit, as a Markdown table. A path that ends at an exit runs one head; its "
        "parameters are those of a model that ends there.",
    )
    names = sorted(CONFIGS)
    cost.add_argument("--config", choices=names, nargs="+", required=True, help="what to count")
    add_neck(cost)
    add_assignments(cost)
    cost.set_defaults(run=_cost)

    parser = commands.add_parser(
        "import",
        help="Make a checkpoint of weights that others trained.",
        description="Make a checkpoint for build or train --init of a torch file with a state "
        f"dict. {MMDET}: a whole detector of MMDetection, current or 1.x; its structure is read "
        f"off the weights. {BACKBONE}: the backbone of --config, from torchvision or timm; the "
        f"rest of the detector is random. {SSDLITE}: the same of SSDLite-MobileNetV2 with its "
        "heads, in an npz file. A file in which any key or shape differs is refused.",
    )
    parser.add_argument("file", type=Path, help="what torch.save wrote")
    parser.add_argument(
        "--layout", choices=(MMDET, BACKBONE, SSDLITE), required=True, help="what it holds"
    )
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument(
        "--license", default="unknown", help="of the weights, for the catalogue [unknown]"
    )
    whole = parser.add_argument_group(f"of the layout {MMDET}")
    whole.add_argument("--name", help=f"what to call the model [{NAME}]")
    whole.add_argument("--classes", type=Path, help="class names, one a line [those in the file]")
    whole.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="what it will be run at [{} {}]".format(*INPUT_SIZE),
    )
    whole.add_argument(
        "--every-exit",
        action="store_true",
        help="an exit after every stack, to be trained, not only the one that was",
    )
    part = parser.add_argument_group(f"of the layouts {BACKBONE} and {SSDLITE}")
    part.add_argument("--config", choices=names, help="the detector whose backbone it is")
    add_neck(part)
    add_assignments(part)
    parser.set_defaults(run=_import)


def _cost(options: argparse.Namespace) -> None:
    from builder.modeling.cost import exit_costs

    lines = []
    for name in options.config:
        config = configured(name, options.neck, options.assignments)
        with invalid_arguments():
            costs = exit_costs(config.detector)
        for depth, cost in enumerate(costs, start=1):
            parts = (cost.backbone_macs, cost.neck_macs, cost.head_macs, cost.macs)
            columns = " | ".join(f"{macs / 1e9:.2f}" for macs in parts)
            lines.append(f"| {name} | {depth} | {columns} | {cost.parameters / 1e6:.2f} |")
    print("| model | exit | backbone | neck | head | GMAC | parameters, M |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def _import(options: argparse.Namespace) -> None:
    from builder.importing import WeightsError
    from builder.modeling.checkpoint import save_checkpoint

    for layout, names in OPTIONS_OF.items():
        given = [flag for name, flag in names.items() if getattr(options, name)]
        if given and not set(names) <= set(OPTIONS_OF[options.layout]):
            raise CommandError(f"{', '.join(given)}: only for the layout {layout}")
    if OPTIONS_OF[options.layout] is PART and not options.config:
        raise CommandError(f"{options.layout} needs a --config")
    try:
        # A ValueError is of a name, classes or an input size that no detector can have.
        with files_of_the_user(), invalid_arguments():
            detector, num_keys = LAYOUTS[options.layout](options)
    except WeightsError as error:
        raise WeightsError(f"{options.file}: {error}") from error
    metadata = {"command": command_line(), "imported": options.layout}
    try:
        save_checkpoint(options.out, detector.config, detector.state_dict(), metadata)
    except (OSError, RuntimeError) as error:  # torch raises the latter for a folder
        raise CommandError(f"--out {options.out}: {error}") from error
    print(f"wrote {options.out}: {_summary(detector.config)}, {num_keys} keys accounted for")


def _mmdet(options: argparse.Namespace) -> tuple[AnyDetector, int]:
    """Return the detector in the file, and of how many keys."""
    from builder.importing import class_names, load_nas_fpn, read_state_dict

    state, beside = read_state_dict(options.file)
    detector = load_nas_fpn(
        state,
        name=options.name or NAME,
        classes=_lines(options.classes) if options.classes else class_names(beside),
        input_size=tuple(options.input_size or INPUT_SIZE),
        every_exit=options.every_exit,
        license=options.license,
    )
    return detector, len(state)


def _backbone(options: argparse.Namespace) -> tuple[AnyDetector, int]:
    """Return a random detector with the backbone in the file, and of how many keys."""
    import torch

    from builder.importing import load_backbone, read_state_dict
    from builder.modeling.detector import Detector

    config = configured(options.config, options.neck, options.assignments)
    state, _ = read_state_dict(options.file)
    torch.manual_seed(config.train.seed)
    detector = Detector(replace(config.detector, license=options.license))
    load_backbone(detector.backbone, state)
    return detector, len(state)


def _ssdlite(options: argparse.Namespace) -> tuple[AnyDetector, int]:
    """Return a detector that finds what the SSDLite in the file does, and its number of arrays."""
    import torch

    from builder.importing import load_ssdlite, read_arrays
    from builder.modeling.anytime_ssd import AnytimeSSD

    config = configured(options.config, options.neck, options.assignments)
    if config.detector.architecture != "ssdlite":
        raise CommandError(
            f"--config {options.config} is no ssdlite, but {config.detector.architecture}"
        )
    arrays = read_arrays(options.file)
    torch.manual_seed(config.train.seed)
    detector = AnytimeSSD(replace(config.detector, license=options.license))
    load_ssdlite(detector.backbone, arrays)
    return detector, len(arrays)


LAYOUTS = {MMDET: _mmdet, BACKBONE: _backbone, SSDLITE: _ssdlite}


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise CommandError(f"--classes {path}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _summary(config: DetectorConfig) -> str:
    height, width = config.input_size
    return (
        f"{config.backbone}, {config.num_stacks} stacks of {config.neck} "
        f"({config.flavour} flavour) with {config.neck_channels} channels, {config.num_exits} "
        f"exits, {len(config.classes)} classes, {height}x{width}"
    )
