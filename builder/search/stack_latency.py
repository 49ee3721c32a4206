"""Times of the stacks of several graphs, measured through the runner that serves.

Rounds are interleaved: each one runs every graph once, so that a busy moment of the machine falls
on all alike. Weights are random: they do not matter to how long a convolution takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from builder.config.named import DetectorConfig
from builder.config.pyramid_graphs import Graph
from builder.exporting.build import open_detector
from builder.exporting.catalog import build_catalog
from builder.exporting.onnx_segments import export_segments
from builder.exporting.repository import write_entry
from builder.search.latency_table import MeasuredStack
from serving.artifacts.serving_tools import ServingTools
from serving.core import segment as segments
from serving.core.catalog import ModelEntry
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.segment import Segment

WARM_UP_ROUNDS = 5


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
    """Return the medians, in milliseconds, of a detector's parts with each graph.

    Segments are exported into ``folder``.
    """
    runners = []
    for number, graph in enumerate(tqdm(graphs, desc="exporting", unit="graph")):
        detector, command = open_detector(replace(config, neck="measured", graph=graph.rows), "")
        of_graph = folder / str(number)
        files = export_segments(detector, of_graph)
        write_entry(ModelEntry((build_catalog(detector.config, files, command),)), of_graph)
        runners.append(tools.open_runner(runtime, of_graph, threads))
    height, width = config.input_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    # [graph][round] -> stem, mean stack, head
    seconds: list[list[tuple[float, float, float]]] = [[] for _ in runners]
    for round_index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc="measuring", unit="round"):
        for found, runner in zip(seconds, runners, strict=True):
            times = _time_parts(runner, image, config.num_exits, clock)
            if round_index >= 0:
                found.append(times)
    for runner in runners:
        runner.close()
    medians = (1e3 * np.median(found, axis=0) for found in seconds)
    return [
        MeasuredStack(graph, *map(float, row)) for graph, row in zip(graphs, medians, strict=True)
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
