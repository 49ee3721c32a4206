"""Arrays in and out of Triton's Python backend, whichever numpy is installed."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

_BY_DLPACK = int(np.__version__.partition(".")[0]) >= 2
"""True if arrays must go by DLPack: backends built for numpy 1 misread arrays of numpy 2, without
an error; they send nothing of an output, and repeat an input's first element."""

_USED = b"used_dltensor"
"""Name that the standard gives to a capsule whose memory has been taken over."""
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = (ctypes.py_object, ctypes.c_char_p)


class _Exported:
    """An array that is handed over by DLPack.

    The backend marks the capsule as used by another name than the standard's, over which numpy
    would complain; so it is renamed afterwards.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self._capsules: list[Any] = []

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._array.__dlpack__(**options)
        self._capsules.append(capsule)
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self._array.__dlpack_device__()
        return int(kind), int(number)

    def used(self) -> None:
        """Mark the memory as taken over by the backend, which will free it."""
        for capsule in self._capsules:
            _set_name(capsule, _USED)


def to_tensor(name: str, array: npt.NDArray[Any]) -> Any:
    """Return ``array`` as an output called ``name``."""
    whole = np.ascontiguousarray(array)
    if not _BY_DLPACK:
        return pb_utils.Tensor(name, whole)
    exported = _Exported(whole)
    tensor = pb_utils.Tensor.from_dlpack(name, exported)
    exported.used()
    return tensor


def to_array(tensor: Any) -> npt.NDArray[Any]:
    """Return the input ``tensor`` in its own memory, which goes with the request."""
    array: npt.NDArray[Any] = np.from_dlpack(tensor) if _BY_DLPACK else tensor.as_numpy()
    return array
