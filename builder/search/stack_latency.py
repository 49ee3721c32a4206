"""Times of the stacks of several graphs, measured through the runner that serves.

Rounds are interleaved: each one runs every graph once, so that a busy moment of the machine falls
on all alike. Weights are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import Graph
from builder.measuring.untrained import WARM_UP_ROUNDS, noise, open_untrained
from builder.search.latency_table import MeasuredStack
from serving.artifacts.serving_tools import ServingTools
from serving.core import segment as segments
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.segment import Segment

QUANTILE = 0.05
"""Quantile of a part's times that stands for it: about what it takes while the machine does nothing
else. Graphs differ by a few percent, and neighbours move a median by more."""


def measure_stacks(
    config: DetectorConfig,
    graphs: Sequence[Graph],
    tools: ServingTools,
    folder: Path,
    *,
    runtime: str,
    threads: int | None,
    rounds: int,
    clock: Clock,
) -> list[MeasuredStack]:
    """Return the ``QUANTILE`` of the times, in milliseconds, of a detector's parts with each graph.

    Segments are exported into ``folder``.
    """
    runners = []
    for number, graph in enumerate(tqdm(graphs, desc="exporting", unit="graph")):
        of_graph = replace(config, neck="measured", graph=graph.rows)
        where = folder / str(number)
        runners.append(open_untrained(of_graph, tools, where, runtime, threads))
    image = noise(config)
    # [graph][round] -> stem, mean stack, head
    seconds: list[list[tuple[float, float, float]]] = [[] for _ in runners]
    for round_index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc="measuring", unit="round"):
        for found, runner in zip(seconds, runners, strict=True):
            times = _time_parts(runner, image, config.num_exits, clock)
            if round_index >= 0:
                found.append(times)
    for runner in runners:
        runner.close()
    parts_ms = 1e3 * np.quantile(seconds, QUANTILE, axis=1)  # [graph][stem, stack, head]
    return [
        MeasuredStack(graph, *row) for graph, row in zip(graphs, parts_ms.tolist(), strict=True)
    ]


def _time_parts(
    runner: SegmentRunner, image: Image, num_exits: int, clock: Clock
) -> tuple[float, float, float]:
    """Return the seconds of stem, of a stack on average, and of the last head."""
    batch = runner.load([image])

    def step(segment: Segment) -> float:
        nonlocal batch
        started_s = clock()
        output = runner.run(segment, batch)
        taken_s = clock() - started_s
        runner.release(batch)
        batch = output
        return taken_s

    stem_s = step(segments.STEM)
    stack_s = sum(step(segments.stack(depth)) for depth in range(1, num_exits + 1)) / num_exits
    head_s = step(segments.head(num_exits))
    runner.release(batch)
    return stem_s, stack_s, head_s
