"""The executor of one model. Written by ``punctual build``."""

from serving.triton.anytime import TritonPythonModel

__all__ = ["TritonPythonModel"]
