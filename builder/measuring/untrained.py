"""Times of detectors with random weights, through the runner that serves.

What a convolution takes does not depend on its weights. Rounds are interleaved: each one runs every
detector once, so that a busy moment of the machine falls on all alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from builder.config.detector import DetectorConfig
from builder.exporting.build import open_detector
from builder.exporting.catalog import build_catalog
from builder.exporting.onnx_segments import export_segments
from builder.exporting.repository import write_entry
from builder.measuring.latency import WARM_UP_ROUNDS
from serving.artifacts.serving_tools import ServingTools
from serving.core import segment as segments
from serving.core.model_entry import ModelEntry
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.segment import Segment


def open_untrained(
    config: DetectorConfig,
    tools: ServingTools,
    folder: Path,
    runtime: str,
    threads: int | None,
    wanted: Collection[Segment] | None = None,
) -> SegmentRunner:
    """Return a runner over the segments of a detector, or those ``wanted``.

    They are exported into ``folder``.
    """
    detector, command = open_detector(config, "")
    files = export_segments(detector, folder)
    write_entry(ModelEntry((build_catalog(detector.config, files, command),)), folder)
    return tools.open_runner(runtime, folder, threads, wanted)


def noise(config: DetectorConfig) -> Image:
    """Return an input of the detector, (height, width, 3) uint8, that shows nothing."""
    shape = (*config.input_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def exit_times(
    detectors: Sequence[tuple[DetectorConfig, Collection[int]]],
    tools: ServingTools,
    *,
    runtime: str,
    threads: int | None,
    rounds: int,
    clock: Clock,
) -> list[dict[int, float]]:
    """Return the medians, in milliseconds, of the ways from an image to some exits of detectors.

    Each is one fused segment. Exits are given beside each detector.
    """
    with TemporaryDirectory() as scratch:
        runners = [
            open_untrained(
                config,
                tools,
                Path(scratch) / str(number),
                runtime,
                threads,
                {segments.fused_exit(depth) for depth in exits},
            )
            for number, (config, exits) in enumerate(
                tqdm(detectors, desc="exporting", unit="detector")
            )
        ]
        seconds: list[dict[int, list[float]]] = [
            {depth: [] for depth in exits} for _, exits in detectors
        ]
        images = [noise(config) for config, _ in detectors]
        for round_index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc="measuring", unit="round"):
            for runner, image, of_detector in zip(runners, images, seconds, strict=True):
                for depth, found in of_detector.items():
                    batch = runner.load([image])
                    started_s = clock()
                    output = runner.run(segments.fused_exit(depth), batch)
                    taken_s = clock() - started_s
                    runner.release(batch)
                    runner.release(output)
                    if round_index >= 0:
                        found.append(taken_s)
        for runner in runners:
            runner.close()
    return [
        {depth: 1e3 * float(np.median(found)) for depth, found in of_detector.items()}
        for of_detector in seconds
    ]
