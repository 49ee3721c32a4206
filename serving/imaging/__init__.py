"""Encoded images to pixels, with limits; training shares what a pixel is.

    probing      what an image is, by its first bytes; ``decode_cost`` says what it will take
    decode_pool  decoding in time and fair to all who ask, on the threads of each ``decode_lane``
    decoding     an image as the model's input; ``pixels``, ``resizing`` and ``cropping`` are steps
    malloc       how freed memory is treated in between

Depends on ``serving.core``. Begin with ``decoding``.
"""
