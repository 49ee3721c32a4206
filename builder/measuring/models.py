"""The models that commands are asked for, opened; what is wrong with one is said in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli_errors import CommandError
from builder.exporting.repository import CATALOG, read_catalog, version_folder

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.catalog import Catalog
    from serving.core.ports import SegmentRunner


class ModelError(CommandError):
    """A model is not there, or cannot be used."""


def open_model(repository: Path, name: str) -> tuple[Path, Catalog]:
    """The folder of model ``name`` and its catalogue. Raises ModelError."""
    folder = version_folder(repository, name)
    try:
        return folder, read_catalog(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            f"there is no model {name!r} in {repository} (no {folder / CATALOG})"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CATALOG} cannot be used: {error}") from error


def open_runner(
    tools: ServingTools,
    runtime: str,
    folder: Path,
    num_threads: int | None,
    precision: str | None = None,
) -> SegmentRunner:
    """The runner called ``runtime`` over all segments in ``folder``. Raises ModelError where they
    are not there or cannot be used."""
    try:
        return tools.open_runner(runtime, folder, num_threads, precision=precision)
    except FileNotFoundError as error:
        raise ModelError(
            f"there is no {error.filename}: make it with punctual build --target {runtime}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be run on {runtime}: {error}") from error
