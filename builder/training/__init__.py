"""The training loop and its parts: batches, losses, optimization, log, processes.

    loop -> recipe_checks  whether a recipe can train this detector, or go on with a run
         -> epoch          one epoch: a step for each batch
    views, batch, frozen_features   what it sees of the images
    losses, optimization, precision what a step does
    validation, training_log        what is found out meanwhile
    distributed   several processes as one training

Depends on ``builder.config``, ``builder.data``, ``builder.modeling``, ``serving.artifacts`` and
``serving.core``. Begin with ``loop``.
"""
