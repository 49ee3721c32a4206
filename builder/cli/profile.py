"""``punctual profile``: how long every segment takes here."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    PRECISIONS,
    add_command,
    add_model,
    add_precision,
    add_write,
    at_least,
    today,
)
from serving.core.command_errors import CommandError, files_of_the_user

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.catalog import Catalog
    from serving.core.ports import SegmentRunner


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``profile`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "profile",
        "Measure the latency of every segment.",
        "Interleaved rounds over all segments and batch sizes, then unit segments against the "
        "fused one at equal depth, as a ratio within each round.",
    )
    add_model(parser)
    add_precision(parser)
    add_write(parser)
    parser.add_argument(
        "--rounds", type=at_least(0), default=200, help="over all segments; 0: none"
    )
    parser.add_argument(
        "--path-rounds", type=at_least(0), default=200, help="of unit against fused"
    )
    parser.add_argument("--depths", type=at_least(1), nargs="+", help="to compare paths at [all]")
    parser.add_argument(
        "--against",
        choices=PRECISIONS,
        help="compare paths in this precision too, with those in the other, in interleaved rounds",
    )
    parser.set_defaults(run=lambda options: _profile(options, tools))


@files_of_the_user()
def _profile(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.exporting.repository import write_entry
    from builder.measuring.models import only_size, open_model, open_runner

    if options.against and not options.path_rounds:
        raise CommandError("--against compares paths: --path-rounds is to be at least 1")
    folder, entry = open_model(options.model_repository, options.model)
    catalog = only_size(entry)
    if options.depths and max(options.depths) > catalog.num_exits:
        raise CommandError(f"--depths are 1 to {catalog.num_exits}, not {max(options.depths)}")
    # All before the first is measured: the other may not be there.
    runners = [
        open_runner(tools, options.runtime, folder, options.threads, precision)
        for precision in (options.precision, *filter(None, [options.against]))
    ]
    measured = _measure(options, catalog.at(options.precision), *runners)
    for runner in runners:
        runner.close()
    if options.write:
        write_entry(entry.with_figures(measured), folder)


def _measure(
    options: argparse.Namespace,
    catalog: Catalog,
    runner: SegmentRunner,
    other: SegmentRunner | None = None,
) -> Catalog:
    """Measure and print what was asked for; the catalogue with the profile of ``runner``."""
    import os

    from builder.measuring.latency import (
        DECISIONS,
        WAITING,
        compare_paths,
        compare_runners,
        measure_decision,
        measure_segments,
    )
    from reporting.machine import machine
    from serving.core import segment as segments

    threads = options.threads or len(os.sched_getaffinity(0))
    asked = f" in {options.precision}" if options.precision else ""
    print(f"{runner.runtime}{asked}, {machine()}, {threads} threads, {today()}")
    if options.rounds:
        profile = measure_segments(
            runner, catalog, options.rounds, time.perf_counter, today(), threads
        )
        decision_s = measure_decision(catalog, profile, DECISIONS, time.perf_counter)
        print(f"one decision with {WAITING} waiting takes {1e6 * decision_s:.0f} us")
        print("segment    batch   p50 ms   p90 ms   p99 ms")
        for (segment, batch), q in sorted(profile.table.items()):
            times = "".join(f"{1e3 * seconds:9.2f}" for seconds in (q.p50_s, q.p90_s, q.p99_s))
            print(f"{segment.name:10} {batch:5}{times}")
        catalog = replace(catalog, profiles={**catalog.profiles, options.runtime: profile})
    depths = options.depths or range(1, catalog.num_exits + 1)
    if options.path_rounds and all(segments.fused_exit(d) in runner.segments for d in depths):
        print("exit   unit ms  fused ms   unit/fused p50  (p10 .. p90)")
        for row in compare_paths(runner, catalog, depths, options.path_rounds, time.perf_counter):
            print(
                f"{row.depth:4} {1e3 * row.unit_s:9.2f} {1e3 * row.fused_s:9.2f}"
                f"{row.ratio_p50:17.3f}  ({row.ratio_p10:.3f} .. {row.ratio_p90:.3f})"
            )
    if other is not None:
        print(f"exit  batch  path      ms  {options.against:>6}  ratio p50  (p10 .. p90)")
        for each in compare_runners(
            runner, other, catalog, depths, options.path_rounds, time.perf_counter
        ):
            print(
                f"{each.depth:4} {each.size:6}  {'fused' if each.fused else 'unit':5}"
                f"{1e3 * each.this_s:7.2f} {1e3 * each.other_s:7.2f}"
                f"{each.ratio_p50:11.3f}  ({each.ratio_p10:.3f} .. {each.ratio_p90:.3f})"
            )
    return catalog
