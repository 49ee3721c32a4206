"""The gateway's service over gRPC: KServe's ``GRPCInferenceService``, as Triton has it.

Each call becomes a request of ``serving.api`` and is served as if it had come by HTTP. Depends on
``serving.api``, ``serving.core``, ``serving.observability`` and ``serving.triton``. Begin with
``service``.
"""
