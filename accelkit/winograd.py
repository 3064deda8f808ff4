"""Winograd's minimal convolutions: their transforms, and when they take less time than the sum.

A tile of m x m results of an r x r window depends on n x n images, n = m + r - 1. The direct sum
takes m^2 r^2 multiplications per pair of channels, and

    y = A^T [(G g G^T) * (B^T d B)] A

only the n^2 of the elementwise product ``*``; summed over channels, it is one matrix product for
each of the n^2 positions, over all tiles (Lavin and Gray, "Fast algorithms for convolutional neural
networks", 2015, arXiv:1509.09308). The matrices evaluate polynomials at n - 1 points and at
infinity (Toom and Cook). As the form is trilinear, the same three matrices give the gradients:
by weights ``G^T [(B^T d B) * (A g A^T)] G``, by images another convolution, with the window turned
around.

A transform of both axes is one after the other, or one matrix, the Kronecker product of one axis'
with itself: there are both here.

The points decide the rounding errors (Barabasz and others, "Error analysis and improving the
accuracy of Winograd convolution for deep neural networks", 2018, arXiv:1803.10986). Those below
are the best found by search. Deviation from float64 of AlexNet's convolutions as accelkit_torch
computes them, forward, by images and by weights, of the largest element: 2e-6 to 3e-6, 3e-6 and
1e-6 with m = 4, r = 3 (Lavin and Gray's points 0, 1, -1, 2, -2: 1.3e-5, 1.6e-5, 6e-6), and 4e-6,
6e-6 and 5e-6 with m = 3, r = 5. oneDNN's direct sum has 1e-6 to 2e-6, 0.3e-6 to 3e-6, 0.5e-6 to
1e-6. The bounds of the parity kit hold for it: 4e-5, a rounding times the root of the terms.

An infinity or NaN makes its whole tile NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.graph import Node

__all__ = ["TRANSFORM_FLOPS", "Axis", "Winograd", "choose", "choose_for", "winograd"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# Evaluation points by n, apart from infinity. Pairs of +a, -a and a, 1/a keep errors low.
_POINTS: Final[dict[int, tuple[Fraction, ...]]] = {
    n: tuple(map(Fraction, points.split()))
    for n, points in {
        4: "0 1 -1",
        6: "0 3/2 -3/2 2/3 -2/3",
        7: "1/4 -1/4 3/4 -3/4 2 -2",
    }.items()
}
# Results per axis of a tile, by the window's size. Larger ones lose too many digits.
_TILES: Final = {3: 4, 5: 3}
# Multiply-adds count twice. Transforming an element of images or results, with the copies into and
# out of tiles, takes as long as this many operations of a large matrix product: fitted to AlexNet's
# and ResNet-18's convolutions on two cores with AVX-512, where it tells their times within 10 %.
TRANSFORM_FLOPS: Final = 200.0
_LEAST_ADVANTAGE: Final = 1.15


class Axis(NamedTuple):
    """The transforms of one axis of a tile, float64.

    Attributes:
        images: ``B^T``: (n, n), from images in the tile to positions.
        weights: ``G``: (n, r), from weights to positions.
        results: ``A^T``: (m, n), from positions to results.
    """

    images: np.ndarray
    weights: np.ndarray
    results: np.ndarray


@dataclass(frozen=True, eq=False)
class Winograd:
    """The transforms of tiles, float64, of one axis and of both as one in row-major order.

    Attributes:
        tile: Results per axis of a tile, m.
        window: Size r of the window.
        axis: The transforms of one axis.
        images: ``B^T`` of both: (n^2, n^2), from images in the tile to positions.
        weights: ``G`` of both: (n^2, r^2), from weights to positions.
        results: ``A^T`` of both: (m^2, n^2), from positions to results.
    """

    tile: int
    window: int
    axis: Axis

    @functools.cached_property
    def images(self) -> np.ndarray:
        return np.kron(self.axis.images, self.axis.images)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        return np.kron(self.axis.weights, self.axis.weights)

    @functools.cached_property
    def results(self) -> np.ndarray:
        return np.kron(self.axis.results, self.axis.results)

    @property
    def extent(self) -> int:
        """Images per axis of a tile, n."""
        return self.tile + self.window - 1


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of ``prod (x - root)``, lowest first."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [a - root * b for a, b in zip(shifted, [*found, Fraction(0)], strict=True)]
    return found


def _matrix(rows: Sequence[Sequence[Fraction]]) -> np.ndarray:
    return np.array([[float(entry) for entry in row] for row in rows])


@functools.cache
def winograd(tile: int, window: int) -> Winograd:
    """F(tile x tile, window x window).

    Raises:
        KeyError: if no points are known for ``tile + window - 1``.
    """
    extent = tile + window - 1
    points = _POINTS[extent]
    others = [[b for b in points if b != a] for a in points]
    scales = [
        math.prod((a - b for b in rest), start=Fraction(1))
        for a, rest in zip(points, others, strict=True)
    ]
    axis = Axis(
        images=_matrix(
            [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(points)]
        ),
        weights=_matrix(
            [[a**k / scale for k in range(window)] for a, scale in zip(points, scales, strict=True)]
            + [[Fraction(k == window - 1) for k in range(window)]]
        ),
        results=_matrix([[a**k for a in points] + [Fraction(k == tile - 1)] for k in range(tile)]),
    )
    return Winograd(tile, window, axis)


def choose(
    batch: int,
    size: Pair,
    channels: int,
    features: int,
    window: Pair,
    *,
    dtype: DType,
    padding: Padding,
    strides: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
    transform_flops: float = TRANSFORM_FLOPS,
    weights_flops: float = TRANSFORM_FLOPS,
) -> Winograd | None:
    """The transforms with which a convolution takes clearly less time on a CPU, None if none do.

    Only shapes decide: square windows of 3 or 5 that move by one, float32, and enough channels
    that the matrix products outweigh the transforms.

    Args:
        batch: Number of images.
        size: (OH, OW) of the convolution's result.
        channels: Of its images.
        features: Of its result.
        window: (kh, kw).
        dtype: Of all operands.
        padding: Of the images, at most ``window - 1``.
        strides: Of the window.
        dilation: Of the window.
        groups: Of channels.
        transform_flops: Operations of a large matrix product that take as long as the transform of
            one element of images or results, with its way into and out of tiles.
        weights_flops: The same of one element of weights.
    """
    tile = _TILES.get(window[0])
    if (
        tile is None
        or window[0] != window[1]
        or dtype is not dtypes.float32
        or (strides, dilation, groups) != ((1, 1), (1, 1), 1)
        or max(padding[0] + padding[1]) >= window[0]
    ):
        return None
    positions = (tile + window[0] - 1) ** 2
    tiles = batch * math.prod(-(-extent // tile) for extent in size)
    pairs = channels * features
    direct = 2.0 * batch * math.prod(size) * math.prod(window) * pairs
    transforms = transform_flops * tiles * (channels + features) + weights_flops * pairs
    faster = positions * (2.0 * tiles * pairs + transforms)
    return winograd(tile, window[0]) if direct > _LEAST_ADVANTAGE * faster else None


def choose_for(
    node: Node,
    *,
    transform_flops: float = TRANSFORM_FLOPS,
    weights_flops: float = TRANSFORM_FLOPS,
) -> Winograd | None:
    """:func:`choose` for a node: a convolution, with or without a bias, or a gradient of one.

    Each on its own: a convolution's gradients have the arithmetic of the convolution.
    """
    others, result = node.inputs[1].spec, node.outputs[0].spec
    parameters = dict(node.parameters)
    size = parameters.pop("image_size", result.shape[1:3])
    w = others
    if parameters.pop("kernel_size", None) is not None:
        size, w = others.shape[1:3], result
    height, width, channels, features = w.shape
    images = node.inputs[0].spec
    return choose(
        images.shape[0],
        size,
        channels,
        features,
        (height, width),
        dtype=images.dtype,
        transform_flops=transform_flops,
        weights_flops=weights_flops,
        **parameters,
    )
