"""The places where the gateway sends its images: embedded, triton, triton-depth.

    in_process     an executor in this process; ``embedded`` and ``triton_depth`` are two of these
    triton         an executor inside Triton, over one gRPC stream
    versions       several versions of one model as one backend; ``model_changes`` changes them,
                   ``shadow`` compares them
    answers, threads   what these share

Each is a ``Backend`` of ``serving.core.ports``. Depends on ``serving.artifacts``, ``serving.core``,
``serving.execution``, ``serving.imaging``, ``serving.runners`` and ``serving.triton``. Begin with
``in_process``.
"""
