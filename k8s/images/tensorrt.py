"""``tensorrt`` in an image that has TensorRT's libraries: its bindings, under the usual name.

Run as ``python3 -m tensorrt VERSION``, it fails unless bindings and libraries are of that version.
"""

import ctypes
import sys

import tensorrt_bindings


def library_version(bindings: str) -> str:
    """Version of the library that ``bindings`` of version 10 or later load, such as 10.13.3."""
    major, _, _ = bindings.partition(".")
    number = ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


if __name__ == "__main__":
    bindings = tensorrt_bindings.__version__
    library = library_version(bindings)
    if bindings != sys.argv[1] or not bindings.startswith(f"{library}."):
        sys.exit(f"TensorRT {sys.argv[1]} is wanted; bindings: {bindings}, library: {library}")
else:
    sys.modules[__name__] = tensorrt_bindings
