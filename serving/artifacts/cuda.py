"""Calls of the CUDA runtime's Python bindings, checked; the bindings themselves are an argument.

Every call of ``cuda.bindings.runtime`` returns a tuple whose first item is an error code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.core.command_errors import CommandError


class CudaError(RuntimeError):
    """An error for a call of the CUDA runtime that failed, or for the lack of a driver to call."""


class GpuError(CommandError, CudaError):
    """There is no NVIDIA GPU here that a command could use."""


def checked(returned: tuple[Any, ...]) -> Any:
    """Return what a call returned beside its error code: nothing, one value, or a tuple.

    Raises CudaError, named as CUDA names it.
    """
    error, *values = returned
    if int(error) != 0:
        raise CudaError(f"CUDA reports {error.name} ({int(error)})")
    return values[0] if len(values) == 1 else tuple(values) or None


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, as far as a compiled plan is tied to it."""

    name: str
    """Name as the driver reports it, such as ``NVIDIA H200``."""
    compute_capability: str
    """Compute capability, such as ``9.0``."""

    @classmethod
    def current(cls, cudart: Any) -> Gpu:
        """Return the device that ``cudart`` works on.

        That is ``cuda.bindings.runtime``. Raises GpuError.
        """
        try:
            properties = checked(cudart.cudaGetDeviceProperties(checked(cudart.cudaGetDevice())))
        except RuntimeError as error:  # older bindings raise one when libcuda is not there
            raise GpuError(f"there is no usable NVIDIA GPU here: {error}") from error
        name = properties.name.decode().rstrip("\0")
        return cls(name, f"{properties.major}.{properties.minor}")

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"
