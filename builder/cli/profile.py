"""``punctual profile``: how long every segment takes here."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    PRECISIONS,
    add_command,
    add_model,
    add_precision,
    add_write,
    today,
)
from serving.core.command_errors import CommandError, files_of_the_user, invalid_arguments
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.family import Family
    from serving.core.latency_profile import LatencyProfile
    from serving.core.model_entry import ModelEntry
    from serving.core.ports import SegmentRunner


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``profile`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "profile",
        "Measure the latency of every segment.",
        "Interleaved rounds over all segments, models, input sizes and batch sizes, then unit "
        "segments against the fused one at every operating point, as a ratio within each round.",
    )
    add_model(parser, several=True)
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
    from builder.exporting.repository import update_entry
    from builder.measuring.models import open_model, open_runner
    from serving.core.family import Family

    if options.against and not options.path_rounds:
        raise CommandError("--against compares paths: --path-rounds is to be at least 1")
    names = dict.fromkeys(options.model)
    found = [open_model(options.model_repository, name) for name in names]
    folders = [folder for folder, _ in found]
    with invalid_arguments():
        family = Family(tuple(entry.at(options.precision) for _, entry in found))
    if options.depths and max(options.depths) > family.num_exits:
        raise CommandError(f"--depths are 1 to {family.num_exits}, not {max(options.depths)}")
    # All before the first is measured: the other may not be there.
    runners = [
        open_runner(tools, options.runtime, folders, options.threads, precision)
        for precision in (options.precision, *filter(None, [options.against]))
    ]
    profiles = _measure(options, family, *runners)
    for runner in runners:
        runner.close()
    if options.write and profiles:
        of_sizes = iter(profiles)
        for folder, entry in found:
            measured = {catalog.size: next(of_sizes) for catalog in entry.catalogs}
            update_entry(folder, entry, partial(_with_profiles, options=options, of_sizes=measured))


def _with_profiles(
    entry: ModelEntry, options: argparse.Namespace, of_sizes: Mapping[str, LatencyProfile]
) -> ModelEntry:
    """Return ``entry`` with profiles of its input sizes, in the precision that was asked for."""
    for size, profile in of_sizes.items():
        catalog = entry.size(size).at(options.precision)
        profiles = {**catalog.profiles, options.runtime: profile}
        entry = entry.with_figures(replace(catalog, profiles=profiles))
    return entry


def _measure(
    options: argparse.Namespace,
    family: Family,
    runner: SegmentRunner,
    other: SegmentRunner | None = None,
) -> tuple[LatencyProfile, ...]:
    """Measure and print what was asked for; the profile of each input size, if it was."""
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
    from serving.core.latency_profile import LatencyProfile

    threads = options.threads or len(os.sched_getaffinity(0))
    asked = f" in {options.precision}" if options.precision else ""
    print(f"{runner.runtime}{asked}, {machine()}, {threads} threads, {today()}")
    profiles: tuple[LatencyProfile, ...] = ()
    if options.rounds:
        profiles = measure_segments(
            runner, family, options.rounds, time.perf_counter, today(), threads
        )
        whole = LatencyProfile.merged(enumerate(profiles))
        decision_s = measure_decision(family, whole, DECISIONS, time.perf_counter)
        print(f"one decision with {WAITING} waiting takes {1e6 * decision_s:.0f} us")
        for size, profile in zip(family.ladder.sizes, profiles, strict=True):
            print(f"{size:10} batch   p50 ms   p90 ms   p99 ms")
            for (segment, batch), q in sorted(profile.table.items()):
                times = "".join(f"{1e3 * seconds:9.2f}" for seconds in (q.p50_s, q.p90_s, q.p99_s))
                print(f"{segment.name:10} {batch:5}{times}")
    points = [
        (model, depth)
        for model, catalog in enumerate(family.catalogs)
        for depth in options.depths or range(1, catalog.num_exits + 1)
        if depth <= catalog.num_exits
    ]
    paths = {
        segment.of(model)
        for model, depth in points
        for segment in (segments.fused_exit(depth), *segments.unit_path(depth))
    }
    if options.path_rounds and paths <= runner.segments:
        print("point          unit ms  fused ms   unit/fused p50  (p10 .. p90)")
        for row in compare_paths(runner, family, points, options.path_rounds, time.perf_counter):
            print(
                f"{family.label(*row.point):12} {1e3 * row.unit_s:9.2f} {1e3 * row.fused_s:9.2f}"
                f"{row.ratio_p50:17.3f}  ({row.ratio_p10:.3f} .. {row.ratio_p90:.3f})"
            )
    if other is not None:
        print(f"point         batch  path      ms  {options.against:>6}  ratio p50  (p10 .. p90)")
        for each in compare_runners(
            runner, other, family, points, options.path_rounds, time.perf_counter
        ):
            path = "fused" if each.fused else "unit"
            print(
                f"{family.label(*each.point):12} {each.size:6}  {path:5}"
                f"{1e3 * each.this_s:7.2f} {1e3 * each.other_s:7.2f}"
                f"{each.ratio_p50:11.3f}  ({each.ratio_p10:.3f} .. {each.ratio_p90:.3f})"
            )
    return profiles
