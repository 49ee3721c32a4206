"""What a file says of itself, as Ultralytics writes it: names of classes, the task, the size."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

import onnx

from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.sizing import Size

MAX_TEXT = 2**20
"""Most characters of an entry that is read."""
DETECTION = "detect"
"""The task of detectors."""


def entries_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the entries by their keys."""
    return {entry.key: entry.value for entry in model.metadata_props}


def parsed(text: str) -> Any:
    """Return what a text means in JSON or as a literal of Python; None for anything else."""
    if len(text) > MAX_TEXT:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def check_task(model: onnx.ModelProto) -> None:
    """Raise ForeignModelError for a model that says it is for something else than detection."""
    task = entries_of(model).get("task", DETECTION)
    if task != DETECTION:
        raise ForeignModelError(f"its metadata says that its task is {task!r}, not {DETECTION!r}")


def size_of(model: onnx.ModelProto) -> tuple[Size, ...]:
    """Return the input size that a file was made for; nothing if it does not say."""
    stated = parsed(entries_of(model).get("imgsz", ""))
    if isinstance(stated, int):
        stated = [stated, stated]
    if not isinstance(stated, Sequence) or len(stated) != 2:
        return ()
    if not all(isinstance(side, int) and side > 0 for side in stated):
        return ()
    return ((stated[0], stated[1]),)
