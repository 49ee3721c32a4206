"""The builder's commands of ``punctual``, one file each; heavy imports wait for the command.

Depends on ``builder.config``, ``builder.data``, ``builder.exporting``, ``builder.gpu``,
``builder.importing``, ``builder.measuring``, ``builder.modeling``, ``builder.onnx_import``,
``builder.training``, ``reporting``, ``serving.artifacts`` and ``serving.core``.
Begin with ``registry``.
"""
