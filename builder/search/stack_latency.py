"""Times of the stacks of several graphs, measured through the runner that serves.

Rounds are interleaved: each one runs every graph once, beginning with another one each time, so
that a busy moment of the machine falls on all alike. Weights are random. Each graph is compiled
several times, since where a compiled network lies in memory may make it faster or slower than
another one that is the same: by how much bounds how well anything can foretell a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import Graph
from builder.measuring.latency import WARM_UP_ROUNDS
from builder.measuring.untrained import noise, open_untrained
from builder.search.stack_rounds import NUM_EXITS, StackRounds
from serving.artifacts.serving_tools import ServingTools
from serving.core import segment as segments
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.segment import Segment


def measure_stacks(
    config: DetectorConfig,
    graphs: Sequence[Graph],
    tools: ServingTools,
    folder: Path,
    *,
    runtime: str,
    threads: int | None,
    instances: int,
    rounds: int,
    clock: Clock,
    made_of: Mapping[str, Any],
) -> StackRounds:
    """Return the times of a detector's parts with each graph, each compiled ``instances`` times.

    Segments are exported into ``folder``, those of the first ``NUM_EXITS`` exits.
    """
    depth = NUM_EXITS * config.stacks_per_exit
    runners = []
    for number, graph in enumerate(tqdm(graphs, desc="exporting", unit="graph")):
        of_graph = replace(config, num_stacks=depth, neck="measured", graph=graph.rows)
        runners.append(
            [
                open_untrained(of_graph, tools, folder / f"{number}-{copy}", runtime, threads)
                for copy in range(instances)
            ]
        )
    image = noise(config)
    ms = np.zeros((len(graphs), instances, rounds, 3))
    for index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc="measuring", unit="round"):
        for copy in range(instances):
            # Whoever is first in a round may find the machine otherwise than those that follow.
            for place in np.roll(np.arange(len(graphs)), index):
                times = _time_parts(runners[place][copy], image, clock)
                if index >= 0:
                    ms[place, copy, index] = times
    for runner in (runner for copies in runners for runner in copies):
        runner.close()
    return StackRounds(tuple(graphs), ms, made_of)


def _time_parts(runner: SegmentRunner, image: Image, clock: Clock) -> NDArray[np.float64]:
    """Return the milliseconds of stem, of a stack on average, and of the last head."""
    batch = runner.load([image])

    def step(segment: Segment) -> float:
        nonlocal batch
        started_s = clock()
        output = runner.run(segment, batch)
        taken_s = clock() - started_s
        runner.release(batch)
        batch = output
        return 1e3 * taken_s

    stem = step(segments.STEM)
    stack = sum(step(segments.stack(depth)) for depth in range(1, NUM_EXITS + 1)) / NUM_EXITS
    head = step(segments.head(NUM_EXITS))
    runner.release(batch)
    return np.array([stem, stack, head])
