"""A trained detector into the model repository: segments, their other forms, Triton's files.

    build             the whole of it, for a detector at its input sizes
    onnx_segments     the segments, as ONNX; ``shared_weights`` keeps their weights once
    int8_segments, integer_kernels, half_precision, tensorrt_plans, torch_programs   other forms
    catalog, repository, triton_config, installation   what is written beside them, and how

Depends on ``builder.config``, ``builder.modeling``, ``reporting``, ``serving.artifacts`` and
``serving.core``. Begin with ``build``.
"""
