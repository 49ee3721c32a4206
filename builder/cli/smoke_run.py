"""A smoke test of segments, on the runner that will serve them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.core.catalog import Catalog
    from serving.core.ports import SegmentRunner


def run_every_segment(runner: SegmentRunner, catalog: Catalog, where: str) -> str:
    """Run every segment once at every batch size, and close ``runner``.

    Returns a sentence about it, which says ``where``.
    """
    import numpy as np

    from serving.core.timing import time_every_segment

    image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
    times = time_every_segment(runner, image, catalog.num_exits, time.perf_counter)
    ran = {segment for segment, _, _ in times}
    runner.close()
    sizes = ", ".join(map(str, runner.batch_sizes))
    return f"{runner.runtime} ran all {len(ran)} segments{where} once at batch {sizes}"
