"""Offline tools: train a detector, export its segments, measure them and write the repository.

    cli                              the commands, which import the rest as they need it
    config -> data, modeling -> training -> exporting -> measuring     a model of one's own
    importing, onnx_import           models and weights of others
    search                           a better pyramid for the neck
    gpu                              what an NVIDIA GPU makes of the models

Depends on ``serving.core``, ``serving.artifacts`` and ``serving.imaging.pixels``, and on
``reporting``. Begin with ``cli.train`` and ``cli.build``, which are short and call everything else.
"""
