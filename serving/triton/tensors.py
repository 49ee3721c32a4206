"""Arrays in and out of Triton's Python backend, whichever numpy is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

_BY_DLPACK = int(np.__version__.partition(".")[0]) >= 2
"""Backends built for numpy 1 misread arrays of numpy 2, without an error: they send nothing of an
output, and repeat an input's first element."""
_CAPSULE_COMPLAINT = "PyCapsule_GetPointer called with incorrect name"


def quieten_capsules() -> None:
    """Keep a harmless complaint out of the log. The backend marks a DLPack capsule as used by
    another name than numpy expects, which numpy reports for each tensor, to no consequence: the
    backend frees the memory itself."""
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if _CAPSULE_COMPLAINT not in str(unraisable.exc_value):
            report(unraisable)

    sys.unraisablehook = hook


def to_tensor(name: str, array: npt.NDArray[Any]) -> Any:
    """``array`` as an output called ``name``."""
    whole = np.ascontiguousarray(array)
    if _BY_DLPACK:
        return pb_utils.Tensor.from_dlpack(name, whole)
    return pb_utils.Tensor(name, whole)


def to_array(tensor: Any) -> npt.NDArray[Any]:
    """The input ``tensor`` in its own memory, which goes with the request."""
    array: npt.NDArray[Any] = np.from_dlpack(tensor) if _BY_DLPACK else tensor.as_numpy()
    return array


def parameters(model_config: str) -> Mapping[str, str]:
    """The ``parameters`` of a model's configuration."""
    entries = json.loads(model_config)["parameters"]
    return {name: value["string_value"] for name, value in entries.items()}
