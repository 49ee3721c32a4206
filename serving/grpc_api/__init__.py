"""The gateway's service over gRPC: KServe's ``GRPCInferenceService``, as Triton has it.

    service             every method; ``call`` makes of each call a request of ``serving.api``,
                        which is served as if it had come by HTTP
    messages, status    what is read and written; ``outline`` is looked at before
    server, sockets     the port, and the connections that it accepts
    arriving            the bytes of messages that are not whole yet
    callers, turns      bounds for each address, and turns at sending a message
    questions           what clients ask beside boxes: whether it lives, and what it serves

Depends on ``serving.access``, ``serving.api``, ``serving.core``, ``serving.observability`` and
``serving.triton``. Begin with ``service``.
"""
