"""The commands about a model before it is trained: what it costs, and weights of others."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from builder.config import CONFIGS, Config, DetectorConfig, replace, with_neck

MMDET, BACKBONE = "mmdet-nas-fpn", "imagenet-backbone"


def add_neck(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The option of every command that takes a configuration."""
    parser.add_argument(
        "--neck",
        type=Path,
        metavar="GRAPH.json",
        help="the pyramid's table, instead of the configuration's: levels, and cells with level, "
        "op (sum, attention), inputs and output",
    )


def apply_neck(config: Config, neck: Path | None, refuse: Callable[[str], NoReturn]) -> Config:
    """``config`` with the pyramid in the file ``neck``, if one was given."""
    if neck is None:
        return config
    try:
        return replace(config, detector=with_neck(config.detector, neck))
    except (OSError, ValueError) as error:
        refuse(f"--neck: {error}")


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
    cost.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="detector.FIELD=JSON",
        dest="assignments",
        help="override one field; may be repeated",
    )
    cost.set_defaults(run=lambda options: _cost(options, cost.error))

    parser = commands.add_parser(
        "import",
        help="Make a checkpoint of weights that others trained.",
        description="Make a checkpoint for build or train --init of a torch file with a state "
        f"dict. {MMDET}: a whole detector of MMDetection, current or 1.x; its structure is read "
        f"off the weights. {BACKBONE}: the backbone of --config, from torchvision or timm; the "
        "rest of the detector is random. A file in which any key or shape differs is refused.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="what torch.save wrote")
    parser.add_argument("--layout", choices=(MMDET, BACKBONE), required=True, help="what it holds")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    whole = parser.add_argument_group(f"of the layout {MMDET}")
    whole.add_argument("--name", default="nas_fpn", help="what to call the model")
    whole.add_argument("--classes", type=Path, help="class names, one a line [those in the file]")
    whole.add_argument(
        "--input-size", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH")
    )
    whole.add_argument(
        "--every-exit",
        action="store_true",
        help="an exit after every stack, to be trained, not only the one that was",
    )
    part = parser.add_argument_group(f"of the layout {BACKBONE}")
    part.add_argument("--config", choices=names, help="the detector whose backbone it is")
    add_neck(part)
    parser.set_defaults(run=lambda options: _import(options, parser.error))


def _cost(options: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    from builder.modeling.cost import exit_costs
    from builder.train import override

    print("| model | exit | backbone | neck | head | GMAC | parameters, M |")
    print("|---|---|---|---|---|---|---|")
    for name in options.config:
        try:
            config = apply_neck(CONFIGS[name], options.neck, refuse)
            config = override(config, options.assignments)
            costs = exit_costs(config.detector)
        except ValueError as error:
            refuse(str(error))
        for depth, cost in enumerate(costs, start=1):
            parts = (cost.backbone_macs, cost.neck_macs, cost.head_macs, cost.macs)
            columns = " | ".join(f"{macs / 1e9:.2f}" for macs in parts)
            print(f"| {name} | {depth} | {columns} | {cost.parameters / 1e6:.2f} |")
    return 0


def _import(options: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    import torch

    from builder.importing import (
        WeightsError,
        class_names,
        load_backbone,
        load_nas_fpn,
        read_state_dict,
    )
    from builder.modeling.checkpoint import save_checkpoint
    from builder.modeling.detector import Detector

    if options.layout == BACKBONE and not options.config:
        refuse(f"{BACKBONE} needs a --config")
    try:
        state, beside = read_state_dict(options.file)
        if options.layout == MMDET:
            classes = _lines(options.classes) if options.classes else class_names(beside)
            detector = load_nas_fpn(
                state,
                name=options.name,
                classes=classes,
                input_size=tuple(options.input_size),
                every_exit=options.every_exit,
            )
        else:
            config = apply_neck(CONFIGS[options.config], options.neck, refuse)
            torch.manual_seed(config.train.seed)
            detector = Detector(config.detector)
            load_backbone(detector.backbone, state)
    except (OSError, WeightsError) as error:
        print(f"punctual: {options.file}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # an input size that the levels do not divide
        refuse(str(error))
    metadata = {"command": "punctual " + shlex.join(sys.argv[1:]), "imported": options.layout}
    save_checkpoint(options.out, detector.config, detector.state_dict(), metadata)
    print(f"wrote {options.out}: {_summary(detector.config)}, {len(state)} keys accounted for")
    return 0


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())


def _summary(config: DetectorConfig) -> str:
    height, width = config.input_size
    return (
        f"{config.backbone}, {config.num_stacks} stacks of {config.neck} "
        f"({config.flavour} flavour) with {config.neck_channels} channels, {config.num_exits} "
        f"exits, {len(config.classes)} classes, {height}x{width}"
    )
