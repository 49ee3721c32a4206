"""Memory of a process that decodes images: how the C library treats it."""

from __future__ import annotations

import ctypes

KEEP_BYTES = 256 * 2**20
"""Bytes of freed memory that a heap keeps: what some large images need at once."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_FROM_HEAP = 32 * 2**20
"""Most bytes that glibc lets ``M_MMAP_THRESHOLD`` be; larger pieces are mapped one by one."""


def keep_freed_memory() -> None:
    """Have glibc keep what decoding frees.

    By default each image's buffers are given back to the kernel and faulted in again for the next
    one, which for a 640x480 JPEG is nine hundred page faults and takes longer than decoding it.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
