"""One exit of a model, on a CPU. Written by ``punctual build``."""

from serving.triton_backend.depth import TritonPythonModel

__all__ = ["TritonPythonModel"]
