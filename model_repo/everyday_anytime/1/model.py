"""The executor of one model. Written by ``punctual build``."""

from serving.triton_backend.anytime import TritonPythonModel

__all__ = ["TritonPythonModel"]
