"""``punctual study variants``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtest.cli.options import add_repository, add_results
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, natural, positive


def add_parser(studies: Any) -> None:
    """Add variants to the subparsers ``studies``."""
    summary = "Settings of the gateway against each other: processor time, and under load."
    parser: argparse.ArgumentParser = studies.add_parser(
        "variants",
        help=summary,
        description=f"{summary} Starts a gateway for each variant; all but one are paused at any "
        "time. Processor time is by what it goes to, and hardly changes while the machine is busy; "
        "what load shows needs a machine with nothing else to do. Writes OUT/variants-DATE.json "
        "and .md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument("--model", help="the model's name [the default one]")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("tests/data/bccd"),
        help="annotated images: a folder in the layout of Pascal VOC, or a COCO file",
    )
    parser.add_argument("--split", default="test", help="of a VOC folder")
    parser.add_argument(
        "--variant",
        nargs="+",
        default=["shipped"],
        metavar="NAME:SETTING=VALUE,...",
        help="gateways; the others are compared with the first",
    )
    parser.add_argument(
        "--loads",
        type=positive,
        nargs="*",
        default=[0.3, 0.6],
        help="shares of what the first answers at depth 1; none: processor time only",
    )
    parser.add_argument(
        "--budgets", default="1.2x,2x,4x", help="multiples of the full-depth time, or milliseconds"
    )
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=5.0, help="of each run")
    parser.add_argument("--seed", type=natural, default=0, help="of requests and order")
    add_results(parser)
    parser.set_defaults(run=_variants)


@files_of_the_user()
def _variants(options: argparse.Namespace) -> None:
    from loadtest.studies.variants.report import markdown
    from loadtest.studies.variants.study import Variant, VariantsSettings, study

    settings = VariantsSettings(
        model_repository=options.model_repository,
        model=options.model,
        data=options.data,
        split=options.split,
        variants=tuple(map(Variant.parse, options.variant)),
        loads=tuple(dict.fromkeys(options.loads)),
        budgets=options.budgets,
        rounds=options.rounds,
        seconds=options.seconds,
        seed=options.seed,
    )
    report, path = study(settings, options.out, say_with_time)
    print(markdown(report), end="")
    say_with_time(f"wrote {path.with_suffix('.json')} and {path.with_suffix('.md').name}")
