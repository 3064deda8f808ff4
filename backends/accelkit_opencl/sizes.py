"""Sizes of buffers."""

from __future__ import annotations

from accelkit.passes.arena import ALIGNMENT_BYTES
from accelkit_opencl.kernels.source import round_up

__all__ = ["buffer_bytes"]


def buffer_bytes(size_bytes: int) -> int:
    """What a request takes: a multiple of the alignment, or of an eighth of the power of two below.

    Requests of about the same size then find each other's buffers in the pool.
    """
    step = max(ALIGNMENT_BYTES, (1 << max(size_bytes, 1).bit_length()) // 16)
    return round_up(max(size_bytes, 1), step)
