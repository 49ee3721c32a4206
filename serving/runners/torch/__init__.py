"""Segments on torch: eager on a CPU, CUDA graphs on an NVIDIA GPU.

    runner -> modes        how programs run on a device: here eagerly
           -> cuda_graphs  the other mode: one graph launch a segment
           -> programs     exported programs, read, checked, and rewritten for a precision

It is the peer that the specialised runtimes are measured against, and what runs where there is none
of them. Convolutions run in half precision, channels last; ``programs`` says what stays in float32.

Depends on ``serving.artifacts`` and ``serving.core``. Begin with ``runner``.
"""
