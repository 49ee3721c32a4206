"""Segments on TensorRT: plans on one NVIDIA GPU.

    load          host image -> pinned memory -> device            one copy for a batch
    run           captured graph: kernels of one segment           one launch, one wait
    run(head)     the same, and boxes back to pinned memory        one copy inside the graph
    detections    pinned memory -> arrays

    runner -> engines  loaded plans
           -> memory   layouts, buffers and the one stream of a device

Features never leave the device. What a CUDA graph has captured is bound to addresses, so there is
one graph for each (segment, input buffer, output buffer), captured when that combination is first
met; a buffer is of one batch size. A batch takes the free buffer with the lowest number: a request
that is alone always meets the same buffers, whose graphs are captured before the first request.

Batches are padded to the next of ``BATCH_SIZES``; rows do not influence each other, so what is in
the rows beyond is of no consequence. All plans compute in one block of device memory, one at a
time. Needs ``tensorrt`` and ``cuda-python``, and nothing newer than Python 3.10.

Depends on ``serving.artifacts`` and ``serving.core``. Begin with ``runner``.
"""
