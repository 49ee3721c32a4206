"""``punctual sweep``: an idle server at every budget."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, natural


def add_parser(commands: Any) -> None:
    """Add the command ``sweep`` to the subparsers ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="Measure an idle server at many budgets.",
        description=(
            "Measure an idle server at many budgets, from infeasible to twice what full depth "
            "takes: share answered in time, accuracy reached, and where the gateway's time goes."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--image", type=Path, required=True, nargs="+", help="JPEG files")
    parser.add_argument("--requests", type=count, default=200, help="of each budget")
    parser.add_argument("--budgets", type=count, default=20, help="how many, evenly spaced")
    parser.add_argument("--seed", type=natural, default=0)
    parser.set_defaults(run=_sweep)


@files_of_the_user()
def _sweep(options: argparse.Namespace) -> None:
    from loadtest.load import sweep
    from loadtest.load.target import wait_ready
    from loadtest.workload.images import read_images

    images = [image.data for image in read_images(options.image)]
    with contextlib.closing(sweep.SweepClient(options.url)) as client:
        wait_ready(options.url)
        model = client.models()
        for _ in range(20):
            client.detect(images[0], 10_000)  # let connections, caches and clocks settle
        low_ms = sweep.min_budget_ms(client, images[0])
        high_ms = 2 * model["exits"][-1]["min_budget_ms"]
        step_ms = (high_ms - low_ms / 2) / (options.budgets - 1)
        budgets = [low_ms / 2 + step_ms * i for i in range(options.budgets)]
        rows = sweep.sweep(
            client, images, sorted([*budgets, low_ms]), options.requests, options.seed
        )
    print(f"{model['name']}, {options.requests} requests of each budget, seed {options.seed}")
    print(f"the server's own min_budget_ms is {low_ms:.1f}")
    print(sweep.swept_table(rows))
    print(sweep.overhead(rows))
    accepted = [row for row in rows if len(row.accepted) > len(row.answers) / 2]
    worst = min(accepted, key=lambda row: len(row.in_time) / len(row.accepted))
    share = len(worst.in_time) / len(worst.accepted)
    print(f"fewest in time: {share:.1%}, at {worst.budget_ms:.1f} ms")
    inversions = sweep.inversions(rows)
    for small, large in inversions:
        print(f"median AP falls between {small:.1f} and {large:.1f} ms")
    if not inversions:
        print("median AP never falls as the budget grows")
