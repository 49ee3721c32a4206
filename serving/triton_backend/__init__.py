"""Models that Triton's Python backend hosts.

Each ``model.py`` in the repository names a class of here; ``triton_python_backend_utils`` exists
only inside Triton's stub process. Depends on ``serving.artifacts``, ``serving.core``,
``serving.execution``, ``serving.imaging``, ``serving.models``, ``serving.system`` and
``serving.triton``. Begin with ``anytime``.
"""
