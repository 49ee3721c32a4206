"""Opening of the models that commands are asked for, and of their runners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.artifacts.model_folders import ModelError, find_model, read_entry

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.model_entry import ModelEntry
    from serving.core.ports import SegmentRunner


def open_model(repository: Path, name: str) -> tuple[Path, ModelEntry]:
    """Return the folder of model ``name`` and its entry. Raises ModelError."""
    folder = find_model(repository, name)
    return folder, read_entry(folder)


def open_runner(
    tools: ServingTools,
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    precision: str | None = None,
) -> SegmentRunner:
    """Open a runner of ``runtime`` over all segments of all input sizes in ``folders``.

    Raises ModelError where they are not there or cannot be used.
    """
    try:
        return tools.open_family(runtime, folders, num_threads, precision)
    except FileNotFoundError as error:
        raise ModelError(
            f"there is no {error.filename}: make it with punctual build --target {runtime}"
        ) from error
    except (OSError, ValueError) as error:
        where = ", ".join(map(str, folders))
        raise ModelError(f"{where} cannot be run on {runtime}: {error}") from error
