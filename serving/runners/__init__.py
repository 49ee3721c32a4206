"""Runtimes that run segments, a module or folder for each, all behind ``core.ports.SegmentRunner``.

    openvino, onnxruntime, torch, tensorrt, triton   a runtime each; its library comes with it
    family          runners of several input sizes or models as one
    process         runners in a process of their own
    compiled_cache  what runtimes have compiled, kept on disk
    checks, gathering, rows   what several of them share

Depends on ``serving.artifacts``, ``serving.core`` and ``serving.triton``. Begin with
``onnxruntime``, the plainest.
"""
