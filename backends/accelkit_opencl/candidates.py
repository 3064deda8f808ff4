"""Which choices the tuner tries for a product: those that a simple model cannot tell apart."""

from __future__ import annotations

from dataclasses import replace

from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import ceil_div
from accelkit_opencl.kernels.tile import MOST_VECTORS, Tile, tiled_cost
from accelkit_opencl.lowering import Choice, Profile
from accelkit_opencl.products import weight_gradient_shares
from accelkit_opencl.products_winograd import transforms
from accelkit_opencl.shares import heights

__all__ = ["candidates"]

_UNSURE = 1.15  # times the least estimate: what is above that does not win
_MOST_OTHERS = 4  # that are tried beside the default


def candidates(kind: str, product: Matmul | Convolution, profile: Profile) -> list[Choice]:
    """Choices worth trying for a product: the default, then the likeliest first.

    A convolution that both algorithms can compute is tried with the other one second.
    """
    found = _direct_candidates(kind, product, profile)
    if isinstance(product, Matmul):
        return found
    other = Choice(algorithm="winograd")
    if transforms(kind, product, profile, other) is None:
        return found
    if transforms(kind, product, profile, Choice()) is None:
        return [Choice(), other, *found[1:]]
    return [Choice(), *(replace(choice, algorithm="direct") for choice in found)]


def _direct_candidates(kind: str, product: Matmul | Convolution, profile: Profile) -> list[Choice]:
    rows, columns = _extents(kind, product)
    found = []
    for vectors in range(1, MOST_VECTORS + 1):
        most = profile.most_rows(vectors)
        if most < 1 or (vectors > 1 and columns <= (vectors - 1) * profile.width(product.dtype)):
            continue
        tall = {ceil_div(rows, ceil_div(rows, most)), min(most, rows)}
        if kind == "weight gradient":
            tall = heights(rows, most, product.dtype)
        found += [Choice(height, vectors) for height in sorted(tall)]
    times = {choice: _estimate(kind, product, profile, choice) for choice in found}
    likely = [c for c in found if times[c] <= _UNSURE * min(times.values())]
    return [Choice(), *sorted(likely, key=lambda c: times[c])[: _MOST_OTHERS + 1]]


def _extents(kind: str, product: Matmul | Convolution) -> tuple[int, int]:
    """Rows and columns that the register tiles of a product must cut."""
    if isinstance(product, Matmul):
        return product.m, product.n
    if kind == "weight gradient":
        return product.forward().runs[1], product.group_features
    if kind == "forward":
        return product.out_width, product.group_features
    return ceil_div(product.width, product.stride[1]), product.group_channels


def _estimate(kind: str, product: Matmul | Convolution, profile: Profile, choice: Choice) -> float:
    """Time by the model, in units that depend on the product."""
    if isinstance(product, Convolution) and kind == "weight gradient":
        return weight_gradient_shares(product, profile, choice)[2].time
    tile = Tile(choice.rows, choice.vectors, profile.width(product.dtype), product.dtype)
    return tiled_cost(*_extents(kind, product), tile)
