"""The builder's commands of ``punctual``. Light to import: torch is loaded by the command that
needs it."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder import build_cli, evaluate_cli, gpu, model_cli, train_cli
from builder.options import PRECISIONS, add_command, add_model, add_precision, add_write, today

if TYPE_CHECKING:
    from serving.core.ports import ServingTools


def register(commands: Any, tools: ServingTools) -> None:
    """Add the builder's commands to the subparsers ``commands``."""
    model_cli.add_parsers(commands)
    train_cli.add_parsers(commands)
    build_cli.add_parser(commands, tools)
    evaluate_cli.add_parsers(commands, tools)
    _add_profile(commands, tools)
    gpu.add_parser(commands, tools)


# -- profile -------------------------------------------------------------------------------------


def _add_profile(commands: Any, tools: ServingTools) -> None:
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
    parser.add_argument("--rounds", type=int, default=200, help="over all segments; 0: none")
    parser.add_argument("--path-rounds", type=int, default=200, help="of unit against fused")
    parser.add_argument("--depths", type=int, nargs="+", help="to compare paths at [all]")
    parser.add_argument(
        "--against",
        choices=PRECISIONS,
        help="compare paths in this precision too, with those in the other, in interleaved rounds",
    )
    parser.set_defaults(run=lambda options: _profile(options, tools))


def _profile(options: argparse.Namespace, tools: ServingTools) -> int:
    import os

    from builder.measure import (
        DECISIONS,
        WAITING,
        compare_paths,
        compare_runners,
        machine,
        measure_decision,
        measure_segments,
    )
    from builder.repository import read_catalog, version_folder, write_catalog
    from serving.core import segment as segments

    folder = version_folder(options.model_repository, options.model)
    whole = read_catalog(folder)
    catalog = whole.at(options.precision)
    runner = tools.open_runner(
        options.runtime, folder, options.threads, precision=options.precision
    )
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
    if options.against:
        other = tools.open_runner(
            options.runtime, folder, options.threads, precision=options.against
        )
        print(f"exit  batch  path      ms  {options.against:>6}  ratio p50  (p10 .. p90)")
        for each in compare_runners(
            runner, other, catalog, depths, options.path_rounds, time.perf_counter
        ):
            print(
                f"{each.depth:4} {each.size:6}  {'fused' if each.fused else 'unit':5}"
                f"{1e3 * each.this_s:7.2f} {1e3 * each.other_s:7.2f}"
                f"{each.ratio_p50:11.3f}  ({each.ratio_p10:.3f} .. {each.ratio_p90:.3f})"
            )
        other.close()
    runner.close()
    if options.write:
        write_catalog(whole.with_figures(catalog), folder)
    return 0
