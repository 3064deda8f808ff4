"""Which choices the tuner tries for a product."""

from __future__ import annotations

from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import ceil_div
from accelkit_opencl.lowering import Choice, Profile

__all__ = ["candidates"]


def candidates(kind: str, product: Matmul | Convolution, profile: Profile) -> list[Choice]:
    """Choices worth trying for a product; the default is the first."""
    if isinstance(product, Matmul):
        rows, columns = product.m, product.n
    elif kind == "weight gradient":
        rows, columns = product.forward().runs[1], product.group_features
    else:
        rows = product.out_width if kind == "forward" else product.width
        columns = product.group_features if kind == "forward" else product.group_channels
    width = profile.width(product.dtype)
    found = [Choice()]
    for vectors in (2, 3, 4):
        if vectors > 2 and columns < vectors * width:
            continue
        limit = (profile.registers - 1 - vectors) // vectors
        even = ceil_div(rows, ceil_div(rows, limit))
        for height in dict.fromkeys((even, min(limit, rows))):
            found.append(Choice(height, vectors))
    return found
