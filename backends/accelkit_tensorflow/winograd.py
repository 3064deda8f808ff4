"""Convolutions by Winograd's transforms, for the shapes that :mod:`accelkit.winograd` chooses.

By kernels of TensorFlow's executor on CPUs: windows are gathered row by row of channels, transforms
are products with small matrices, the sum over channels is one batched product. Positions are the
first axis of what is transformed.

Some images go through all of it before the next ones begin, so that tiles take no more memory than
a block of them. Between 6 and 100 MB blocks of AlexNet's layers take the same time within a tenth;
gradients by weights add a block's sums to the last ones', of which many cost more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from accelkit.graph import Node, TensorSpec
from accelkit.winograd import Winograd, choose_for, winograd
from accelkit_tensorflow.framework import tf

__all__ = [
    "BLOCK_BYTES",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "transformed",
    "workspace_bytes",
]

ops = tf.raw_ops
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# Operations that take as long as the transform of an element, see :func:`accelkit.winograd.choose`,
# where weights are transformed in float64: fitted, as the default is, but to these kernels.
_TRANSFORM_FLOPS: Final = 230.0
_EXACT_WEIGHTS_FLOPS: Final = 600.0
# Transformed tiles that are made at once, of one operand, if those of an image are not more.
BLOCK_BYTES: Final = 16 << 20


class _Tiles:
    """The tiles of a convolution's result (N, OH, OW, ...), and the blocks in which they are taken.

    Args:
        transforms: Those of a tile.
        shape: The result's.
        channels: The more of its own and the images'.

    Attributes:
        images_at_once: Images in a block; the last one can have fewer.
        block_tiles: Tiles in a block.
    """

    def __init__(self, transforms: Winograd, shape: Sequence[int], channels: int) -> None:
        self.transforms = transforms
        self.tile, self.extent = transforms.tile, transforms.extent
        self._batch, *self._size = shape[:3]
        self._rows, self._columns = (-(-size // self.tile) for size in self._size)
        image_tiles = self._rows * self._columns
        limit = max(1, BLOCK_BYTES // (4 * self.extent**2 * image_tiles * channels))
        blocks = -(-self._batch // limit)
        self.images_at_once = -(-self._batch // blocks)
        self.block_tiles = self.images_at_once * image_tiles

    def blocks(self) -> Iterator[slice]:
        """Images, one block after the other."""
        for start in range(0, self._batch, self.images_at_once):
            yield slice(start, min(start + self.images_at_once, self._batch))

    def images(self, x: Any, corner: Pair) -> Any:
        """Images (N, H, W, C) below and right of ``corner`` zeros: (positions, tiles, C)."""
        return _apply(self.transforms.images, self._windows(x, corner, self.extent))

    def cotangents(self, g: Any) -> Any:
        """The cotangent of a result (N, OH, OW, O): (positions, tiles, O)."""
        return _apply(self.transforms.results.T, self._windows(g, (0, 0), self.tile))

    def results(self, products: Any) -> Any:
        """(positions, tiles, O), transformed back: (N, OH, OW, O)."""
        found = _apply(self.transforms.results, products)
        m, rows, columns = self.tile, self._rows, self._columns
        images = products.shape[1] // (rows * columns)
        image, y, x = np.ogrid[:images, : self._size[0], : self._size[1]]
        tile = (image * rows + y // m) * columns + x // m
        return _rows(found, (y % m * m + x % m) * products.shape[1] + tile)

    def _windows(self, x: Any, corner: Pair, extent: int) -> Any:
        """(extent^2, tiles, C): the windows of size ``extent`` that move by a tile."""
        m, images, channels = self.tile, x.shape[0], x.shape[3]
        counts = (self._rows, self._columns)
        height, width = (count * m + extent - m for count in counts)
        borders = [
            (before, size - before - given)
            for before, size, given in zip(corner, (height, width), x.shape[1:3], strict=True)
        ]
        padded = ops.Pad(input=x, paddings=tf.constant([(0, 0), *borders, (0, 0)], tf.int32))
        i, j, image, row, column = np.ogrid[
            :extent, :extent, :images, : self._rows, : self._columns
        ]
        found = _rows(padded, (image * height + row * m + i) * width + column * m + j)
        return tf.reshape(found, (extent**2, math.prod(counts) * images, channels))


def _rows(x: Any, index: np.ndarray) -> Any:
    """The vectors along the last axis of ``x``, by their numbers."""
    flat = tf.reshape(x, (-1, x.shape[-1]))
    return ops.GatherV2(params=flat, indices=tf.constant(index, tf.int32), axis=0)


def _apply(matrix: np.ndarray, tiles: Any) -> Any:
    """The first axis of (n, tiles, channels) multiplied by a matrix (k, n)."""
    flat = tf.reshape(tiles, (matrix.shape[1], -1))
    found = ops.MatMul(a=tf.constant(matrix, tiles.dtype), b=flat)
    return tf.reshape(found, (matrix.shape[0], *tiles.shape[1:]))


def _weights(matrix: np.ndarray, w: Any) -> Any:
    """Weights (r, r, C, O) to (positions, C, O), rounded once.

    In float64, since an error here is the same in every tile: it would not average out in what
    sums over positions, such as the gradient of a bias.
    """
    flat = tf.reshape(w, (matrix.shape[1], *w.shape[2:]))
    return tf.cast(_apply(matrix, tf.cast(flat, tf.float64)), tf.float32)


def _after(before: Any, x: Any) -> Any:
    """``x``, but only when ``before`` is there, so that blocks do not take memory together."""
    if before is None:
        return x
    with tf.control_dependencies([before]):
        return tf.identity(x)


def _convolve(tiles: _Tiles, x: Any, weights: Any, corner: Pair, *, transpose_weights: bool) -> Any:
    """Images (N, H, W, C) with transformed weights (positions, C, O), or (positions, O, C)."""
    found: list[Any] = []
    for block in tiles.blocks():
        images = tiles.images(_after(found[-1] if found else None, x[block]), corner)
        products = ops.BatchMatMulV2(x=images, y=weights, adj_y=transpose_weights)
        found.append(tiles.results(products))
    return tf.concat(found, 0) if len(found) > 1 else found[0]


def conv2d(x: Any, w: Any, *, tile: int, padding: Padding) -> Any:
    """float32 (N, H, W, C) and (r, r, C, O) to (N, OH, OW, O)."""
    transforms = winograd(tile, w.shape[0])
    sizes = zip(x.shape[1:3], padding, strict=True)
    size = tuple(extent + sum(pads) - transforms.window + 1 for extent, pads in sizes)
    tiles = _Tiles(transforms, (x.shape[0], *size), max(w.shape[2:]))
    corner = (padding[0][0], padding[1][0])
    weights = _weights(transforms.weights, w)
    return _convolve(tiles, x, weights, corner, transpose_weights=False)


def conv2d_input_grad(g: Any, w: Any, *, tile: int, image_size: Pair, padding: Padding) -> Any:
    """The cotangent of conv2d's images: a convolution of ``g`` with the window turned around."""
    transforms = winograd(tile, w.shape[0])
    tiles = _Tiles(transforms, (g.shape[0], *image_size), max(w.shape[2:]))
    corner = (transforms.window - 1 - padding[0][0], transforms.window - 1 - padding[1][0])
    weights = _weights(transforms.weights[:, ::-1], w)
    return _convolve(tiles, g, weights, corner, transpose_weights=True)


def conv2d_weight_grad(x: Any, g: Any, *, tile: int, kernel_size: Pair, padding: Padding) -> Any:
    """The cotangent of conv2d's weights, (r, r, C, O)."""
    transforms = winograd(tile, kernel_size[0])
    channels = (x.shape[3], g.shape[3])
    tiles = _Tiles(transforms, g.shape, max(channels))
    corner = (padding[0][0], padding[1][0])
    sums: Any = None
    for block in tiles.blocks():
        images = tiles.images(_after(sums, x[block]), corner)
        cotangents = tiles.cotangents(_after(sums, g[block]))
        products = ops.BatchMatMulV2(x=images, y=cotangents, adj_x=True)
        sums = products if sums is None else ops.AddV2(x=sums, y=products)
    return tf.reshape(_apply(transforms.weights.T, sums), (*kernel_size, *channels))


_FORMS: Final[dict[str, Callable[..., Any]]] = {
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
}


def _choose(node: Node) -> Winograd | None:
    if node.primitive.name not in _FORMS:
        return None
    if "kernel_size" in node.parameters:  # no weights go in, and oneDNN is slower than forward
        return choose_for(node)
    return choose_for(node, transform_flops=_TRANSFORM_FLOPS, weights_flops=_EXACT_WEIGHTS_FLOPS)


def transformed(node: Node) -> Callable[..., Any] | None:
    """What computes a node by transforms where that takes less time, with the node's signature."""
    chosen = _choose(node)
    if chosen is None:
        return None
    kept = {"padding", "image_size", "kernel_size"} & node.parameters.keys()
    parameters = {name: node.parameters[name] for name in kept}
    bound = functools.partial(_FORMS[node.primitive.name], tile=chosen.tile, **parameters)
    return lambda *operands, **_: bound(*operands)


def workspace_bytes(node: Node) -> int | None:
    """Most that :func:`transformed` keeps at a time beside what goes in and comes out.

    None for a node that is not transformed.
    """
    chosen = _choose(node)
    if chosen is None:
        return None
    others, result = node.inputs[1].spec, node.outputs[0].spec
    by_weights = "kernel_size" in node.parameters
    w, y = (result, others) if by_weights else (others, result)
    pairs = math.prod(w.shape[2:])
    tiles = _Tiles(chosen, y.shape, max(w.shape[2:]))
    n, m = chosen.extent**2, chosen.tile**2
    reads, makes = _block_bytes(tiles, node.inputs[0].spec, n), _block_bytes(tiles, y, n)
    if by_weights:
        # tiles of both operands, before and after their transforms, and sums of two blocks
        return 2 * reads + makes + _block_bytes(tiles, y, m) + 2 * 4 * n * pairs
    exact = 8 * (n + chosen.window**2) * pairs
    weights = 4 * n * pairs
    products = max(reads + makes, makes + _block_bytes(tiles, y, m))
    # results of blocks are kept until they are put together
    return max(exact + weights + 2 * reads, weights + products) + result.memory_bytes


def _block_bytes(tiles: _Tiles, spec: TensorSpec, positions: int) -> int:
    return 4 * positions * tiles.block_tiles * spec.shape[3]
