"""The choice of a precision where none is asked for, by what the catalogue and this CPU say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.artifacts.model_folders import ModelError, read_entry
from serving.core import segment as segments
from serving.core.ports import Clock
from serving.core.precision_choice import choose_precision
from serving.models.opening import open_runner
from serving.models.repository import check_precision
from serving.models.runtime_options import RuntimeOptions

UNTIMED_ROUNDS, TIMED_ROUNDS = 2, 10
"""Numbers of rounds before times in two precisions are compared, and in which they are."""


def settle_precision(
    folders: Sequence[Path], options: RuntimeOptions, clock: Clock
) -> tuple[RuntimeOptions, str | None]:
    """Return ``options`` with the precision in which to serve the models in ``folders``, and why.

    They are as they were, without a reason, where one is asked for, or where the models have none
    but the runtime's own. Raises as ``open_runner``.
    """
    quicker = replace(options, precision="int8")
    if options.precision is not None:
        return options, None
    try:
        for folder in folders:
            check_precision(folder, quicker)
    except ModelError:
        return options, None
    entries = [read_entry(folder) for folder in folders]
    choice = choose_precision(
        entries, "int8", lambda: _time_ratios(folders[-1], quicker, options, clock)
    )
    return replace(options, precision=choice.precision), choice.reason


def _time_ratios(
    folder: Path, quicker: RuntimeOptions, usual: RuntimeOptions, clock: Clock
) -> list[float]:
    """Return the times with options that are hoped to be ``quicker``, as shares of the ``usual``.

    They are of the deepest exits of the smallest and the largest input size, run in turn.
    """
    entry = read_entry(folder)
    ratios = []
    for catalog in {each.size: each for each in (entry.catalogs[0], entry.catalogs[-1])}.values():
        segment = segments.fused_exit(catalog.num_exits)
        runners = [
            open_runner(folder, options, {segment}, catalog.size) for options in (quicker, usual)
        ]
        image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
        batches = [runner.load([image]) for runner in runners]
        for number in range(-UNTIMED_ROUNDS, TIMED_ROUNDS):
            seconds = []
            for runner, batch in zip(runners, batches, strict=True):
                started_s = clock()
                runner.release(runner.run(segment, batch))
                seconds.append(clock() - started_s)
            if number >= 0:
                ratios.append(seconds[0] / seconds[1])
        for runner in runners:
            runner.close()
    return ratios
