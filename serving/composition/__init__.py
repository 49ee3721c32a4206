"""The composition root: the only package that knows every other.

    settings -> backend      catalogue -> where the segments run
             -> application  routes, and what they share, behind the Middleware
             -> process      the server around it, and the process around that

Depends on ``serving.access``, ``serving.api``, ``serving.artifacts``, ``serving.backends``,
``serving.core``, ``serving.execution``, ``serving.grpc_api``, ``serving.imaging``,
``serving.models``, ``serving.observability`` and ``serving.runners``. Begin with ``application``.
"""
