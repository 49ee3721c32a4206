"""Detectors that others exported as ONNX, made into models of a repository; without torch.

    importing     the whole of it
    reading       the file, with limits; ``graphs``, ``branches`` and ``boundary`` are pieces of it
    trial, recognising, layouts, classes, metadata   what its outputs mean, by shapes, names, values
    sizing, first_image, cutting, assembling, postprocessing   pixels before it, segments in it,
                  boxes behind it
    checking, comparing   the same boxes as the file itself finds, or nothing is written

Depends on ``builder.config``, ``builder.exporting`` and ``serving.core``. Begin with
``importing``.
"""
