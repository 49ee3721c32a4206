"""Accuracy, latency and cost of models, and comparisons of trainings.

    models, images          what commands ask for, opened
    accuracy, evaluation    boxes found on a data set, and average precision of each exit
    latency, fronts         times of segments, and which exits are worth theirs
    agreement, tiles        accuracy without annotations, and of images looked at in tiles
    ablation, figures, untrained   trainings that differ in one thing
    report, report_page     a model's exits as one HTML page
    onnx_cost               multiply-accumulates of any ONNX file

Depends on ``builder.config``, ``builder.data``, ``builder.exporting``, ``builder.modeling``,
``builder.training``, ``reporting``, ``serving.artifacts``, ``serving.core`` and
``serving.imaging``. Begin with ``accuracy``.
"""
