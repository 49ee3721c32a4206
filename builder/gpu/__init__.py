"""What an NVIDIA GPU makes of the models: measuring it, and the report.

Depends on ``builder.config``, ``builder.data``, ``builder.exporting``, ``builder.measuring``,
``builder.modeling``, ``builder.training``, ``reporting``, ``serving.artifacts`` and
``serving.core``. Begin with ``measure``.
"""
