"""Convolutions by Winograd's transforms, for the shapes that :mod:`accelkit.winograd` chooses.

Positions are the first axis of what is transformed: a transform of all tiles and channels is one
product with a small matrix, and the sum over channels one batched product. A few images go
through all of it before the next ones, so that tiles stay in the processor's cache.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from accelkit.graph import Node
from accelkit.winograd import winograd

__all__ = [
    "Workspace",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "last_of_inference",
    "slot_bytes",
    "workspace_bytes",
]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# Transformed tiles that are made at once; 3 and 12 MiB take as long or longer.
_BLOCK_BYTES: Final = 6 << 20
_ALIGNMENT: Final = 64  # of a slot, in bytes: a cache line's


class Workspace(threading.local):
    """Memory for tiles, kept from one convolution to the next, for each thread its own.

    Training keeps it from step to step; inference gives it back, see :func:`last_of_inference`.

    Fresh memory costs more than what is computed in it: the system clears every page. All of a
    program's is one block: pieces that come and grow one after the other leave gaps behind that
    nothing else fits into.

    Attributes:
        block_bytes: Transformed tiles that are made at once, if a row of them is not more.
        reserved_bytes: Size of each slot that is made at once with the first; see
            :func:`slot_bytes`.
    """

    def __init__(
        self, block_bytes: int = _BLOCK_BYTES, reserved_bytes: Mapping[str, int] | None = None
    ) -> None:
        self.block_bytes = block_bytes
        self.reserved_bytes = reserved_bytes or {}
        self._slots: dict[str, Tensor] = {}

    @property
    def memory_bytes(self) -> int:
        """What is kept for the calling thread."""
        return sum(tensor.nbytes for tensor in self._slots.values())

    def release(self) -> None:
        """Give back what the calling thread keeps."""
        self._slots.clear()

    def take(self, slot: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory with arbitrary content, valid until ``slot`` is taken again."""
        size = math.prod(shape) * dtype.itemsize
        if not self._slots:
            self._reserve()
        found = self._slots.get(slot)
        if found is None or found.numel() < size:
            found = self._slots[slot] = torch.empty(size, dtype=torch.uint8)
        return found[:size].view(dtype).view(shape)

    def _reserve(self) -> None:
        sizes = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in self.reserved_bytes.values()]
        pieces = torch.empty(sum(sizes), dtype=torch.uint8).split(sizes)
        self._slots.update(zip(self.reserved_bytes, pieces, strict=True))


def last_of_inference(nodes: Iterable[Node]) -> Node | None:
    """The last of a program's convolutions in tiles, if none of them is a gradient.

    After it the memory is of more use to the rest of the program, and to others. Where gradients
    follow, tiles are needed until there is little else.
    """
    nodes = list(nodes)
    gradients = any("image_size" in n.parameters or "kernel_size" in n.parameters for n in nodes)
    return None if gradients or not nodes else nodes[-1]


def workspace_bytes(nodes: Iterable[Node]) -> int:
    """What a :class:`Workspace` keeps after these convolutions of a program."""
    return sum(slot_bytes(nodes).values())


def slot_bytes(nodes: Iterable[Node]) -> dict[str, int]:
    """Most that these convolutions of a program take of each slot of a :class:`Workspace`."""
    weights = block = cotangents = 0
    for node in nodes:
        by_weights = "kernel_size" in node.parameters
        others, result = node.inputs[1].spec, node.outputs[0].spec
        w, tiled = (result, others) if by_weights else (others, result)
        tile, window, *channels = node.parameters["tile"], *w.shape[1:]
        grid = _Grid(tile, window, tiled.shape, max(channels), _BLOCK_BYTES)
        weights = max(weights, 4 * grid.extent**2 * math.prod(channels))
        block = max(block, grid.block_bytes)
        if by_weights:
            cotangents = max(cotangents, grid.block_bytes)
    exact = min(_BLOCK_BYTES // 2, 2 * weights)
    sizes = {
        "weights": weights,
        "even": max(block, exact),
        "odd": block,
        "cotangents": cotangents,
    }
    return {slot: size for slot, size in sizes.items() if size}


class _Transforms(NamedTuple):
    """:class:`accelkit.winograd.Winograd` as tensors, and what follows from it.

    Those for weights before the product are float64, the others float32.
    """

    images: Tensor
    weights: Tensor
    reversed_weights: Tensor
    results: Tensor
    spread_results: Tensor
    gathered_weights: Tensor


@functools.cache
def _transforms(tile: int, window: int) -> _Transforms:
    exact = winograd(tile, window)
    images, results = (
        torch.tensor(matrix, dtype=torch.float32) for matrix in (exact.images, exact.results)
    )
    weights = torch.tensor(exact.weights)
    return _Transforms(
        images,
        weights,
        weights.flip(1),
        results,
        results.t().contiguous(),
        weights.t().to(torch.float32).contiguous(),
    )


class _Block(NamedTuple):
    """Some images, and some rows of tiles of each."""

    images: slice
    rows: slice


class _Grid:
    """The tiles of a convolution's result, and the blocks in which they are taken.

    Args:
        tile: Results per axis of a tile.
        window: Size r of the window.
        shape: The result's, (N, OH, OW, ...).
        channels: The more of its own and the images'.
        limit_bytes: Transformed tiles of a block, if a row of them is not more.

    Attributes:
        extent: Images per axis of a tile.
        columns: Tiles per row.
        block_bytes: Transformed tiles of the largest block.
    """

    def __init__(
        self, tile: int, window: int, shape: Sequence[int], channels: int, limit_bytes: int
    ) -> None:
        self.tile = tile
        self.extent = tile + window - 1
        self._batch, height, width = shape[:3]
        self._rows, self.columns = -(-height // tile), -(-width // tile)
        row_bytes = 4 * self.extent**2 * self.columns * channels
        rows = max(1, limit_bytes // row_bytes)
        self._images_at_once = min(max(1, rows // self._rows), self._batch)
        self._rows_at_once = min(rows, self._rows)
        self.block_bytes = self._images_at_once * self._rows_at_once * row_bytes

    def blocks(self) -> Iterator[_Block]:
        """All of them: images one after the other, and rows from above."""
        for image in range(0, self._batch, self._images_at_once):
            images = slice(image, min(image + self._images_at_once, self._batch))
            for row in range(0, self._rows, self._rows_at_once):
                yield _Block(images, slice(row, min(row + self._rows_at_once, self._rows)))


class _Tiles(_Grid):
    """What is computed of the tiles, in a workspace.

    What is computed one after the other lies in two pieces of memory by turns, ``even`` and
    ``odd``: padded images, tiles, transformed images, products, tiles of results.

    Attributes:
        transforms: The matrices.
    """

    def __init__(
        self, workspace: Workspace, tile: int, window: int, shape: Sequence[int], channels: int
    ) -> None:
        super().__init__(tile, window, shape, channels, workspace.block_bytes)
        self.transforms = _transforms(tile, window)
        self._workspace = workspace

    def transformed_images(self, x: Tensor, corner: Pair, block: _Block) -> Tensor:
        """Images (N, H, W, C) below and right of ``corner`` zeros: (positions, tiles, C)."""
        m, n = self.tile, self.extent
        top, left = corner
        count, rows = block.images.stop - block.images.start, block.rows.stop - block.rows.start
        height, width, channels = rows * m + n - m, self.columns * m + n - m, x.shape[3]
        padded = self._workspace.take("even", count, height, width, channels)
        first = block.rows.start * m - top  # the image's row that is the first in `padded`
        inside = slice(max(first, 0), max(min(first + height, x.shape[1]), 0))
        above, below = inside.start - first, inside.stop - first
        right = left + x.shape[2]
        padded[:, :above].zero_()
        padded[:, below:].zero_()
        padded[:, above:below, :left].zero_()
        padded[:, above:below, right:].zero_()
        padded[:, above:below, left:right] = x[block.images, inside]
        strides = padded.stride()
        windows = padded.as_strided(
            (n, n, count, rows, self.columns, channels),
            (strides[1], strides[2], strides[0], m * strides[1], m * strides[2], 1),
        )
        tiles = self._workspace.take("odd", *windows.shape)
        tiles.copy_(windows)
        return self._apply(self.transforms.images, tiles, "even", channels)

    def transformed_cotangents(self, g: Tensor, block: _Block) -> Tensor:
        """The cotangent of a result (N, OH, OW, O): (positions, tiles, O)."""
        m = self.tile
        features = g.shape[3]
        count, rows = block.images.stop - block.images.start, block.rows.stop - block.rows.start
        tiles = self._workspace.take("odd", m, m, count, rows, self.columns, features)
        part = g[block.images, block.rows.start * m : block.rows.stop * m]
        for inside, target in self._parts(part, tiles):
            target.copy_(inside)
        self._clear_outside(part, tiles)
        return self._apply(self.transforms.spread_results, tiles, "cotangents", features)

    def write_results(
        self, products: Tensor, y: Tensor, bias: Tensor | None, block: _Block
    ) -> None:
        """(positions, tiles, O), transformed back, into a result (N, OH, OW, O)."""
        m = self.tile
        features = y.shape[3]
        count, rows = block.images.stop - block.images.start, block.rows.stop - block.rows.start
        found = self._apply(self.transforms.results, products, "even", features)
        tiles = found.view(m, m, count, rows, self.columns, features)
        part = y[block.images, block.rows.start * m : block.rows.stop * m]
        for target, inside in self._parts(part, tiles):
            if bias is None:
                target.copy_(inside)
            else:
                torch.add(inside, bias, out=target)

    def products(self, images: Tensor, weights: Tensor) -> Tensor:
        """(positions, tiles, C) @ (positions, C, O)."""
        out = self._workspace.take("odd", *images.shape[:2], weights.shape[2])
        return torch.bmm(images, weights, out=out)

    def sums(self, channels: int, features: int) -> Tensor:
        """Memory for (positions, C, O)."""
        return self._workspace.take("weights", self.extent**2, channels, features)

    def _apply(self, matrix: Tensor, tiles: Tensor, slot: str, channels: int) -> Tensor:
        columns = tiles.numel() // matrix.shape[1]
        out = self._workspace.take(slot, matrix.shape[0], columns)
        torch.mm(matrix, tiles.view(matrix.shape[1], columns), out=out)
        return out.view(matrix.shape[0], columns // channels, channels)

    def _parts(self, y: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The same elements of (N, rows, OW, O) and (m, m, N, tile rows, columns, O), in pairs.

        Whole tiles are one pair; those that stick out below or on the right have their own.
        """
        m = self.tile
        strides = y.stride()
        for row, row_tiles, height in _whole_and_rest(y.shape[1], m):
            for column, column_tiles, width in _whole_and_rest(y.shape[2], m):
                view = y[:, row * m :, column * m :].as_strided(
                    (height, width, y.shape[0], row_tiles, column_tiles, y.shape[3]),
                    (
                        strides[1],
                        strides[2],
                        strides[0],
                        m * strides[1],
                        m * strides[2],
                        strides[3],
                    ),
                )
                yield (
                    view,
                    tiles[
                        :height, :width, :, row : row + row_tiles, column : column + column_tiles
                    ],
                )

    def _clear_outside(self, part: Tensor, tiles: Tensor) -> None:
        """Zeros where tiles stick out of the result."""
        m = self.tile
        if part.shape[1] % m:
            tiles[part.shape[1] % m :, :, :, -1].zero_()
        if part.shape[2] % m:
            tiles[:, part.shape[2] % m :, :, :, -1].zero_()


def _whole_and_rest(extent: int, tile: int) -> Iterator[tuple[int, int, int]]:
    """(first tile, number of tiles, results in each) of the whole tiles, and of a smaller last."""
    whole, rest = divmod(extent, tile)
    if whole:
        yield 0, whole, tile
    if rest:
        yield whole, 1, rest


def _convolve(
    workspace: Workspace,
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    tile: int,
    window: int,
    corner: Pair,
    size: Pair,
) -> Tensor:
    """Images (N, H, W, C) with transformed weights (positions, C, O)."""
    y = x.new_empty((x.shape[0], *size, weights.shape[2]))
    tiles = _Tiles(workspace, tile, window, y.shape, max(weights.shape[1:]))
    for block in tiles.blocks():
        images = tiles.transformed_images(x, corner, block)
        tiles.write_results(tiles.products(images, weights), y, bias, block)
    return y


def _transformed(workspace: Workspace, matrix: Tensor, w: Tensor) -> Tensor:
    """Weights (r, r, C, O) to (positions, C, O), rounded once.

    In float64, since an error here is the same in every tile: it would not average out in what
    sums over positions, such as the gradient of a bias.
    """
    positions, pairs = matrix.shape[0], w.shape[2] * w.shape[3]
    out = workspace.take("weights", positions, pairs)
    flat = w.reshape(matrix.shape[1], pairs)
    at_once = max(1, workspace.block_bytes // (16 * positions))
    for start in range(0, pairs, at_once):
        part = slice(start, min(start + at_once, pairs))
        exact = workspace.take("even", positions, part.stop - start, dtype=torch.float64)
        torch.mm(matrix, flat[:, part].double(), out=exact)
        out[:, part] = exact
    return out.view(-1, *w.shape[2:])


def conv2d(
    workspace: Workspace,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    tile: int,
    padding: Padding,
) -> Tensor:
    """float32 (N, H, W, C), (r, r, C, O) and a bias (O,) to (N, OH, OW, O)."""
    (top, bottom), (left, right) = padding
    window = w.shape[0]
    size = (x.shape[1] + top + bottom - window + 1, x.shape[2] + left + right - window + 1)
    weights = _transformed(workspace, _transforms(tile, window).weights, w)
    return _convolve(workspace, x, weights, bias, tile, window, (top, left), size)


def conv2d_input_grad(
    workspace: Workspace,
    g: Tensor,
    w: Tensor,
    *,
    tile: int,
    image_size: Pair,
    padding: Padding,
) -> Tensor:
    """The cotangent of conv2d's images: a convolution of ``g`` with the window turned around."""
    window = w.shape[0]
    corner = (window - 1 - padding[0][0], window - 1 - padding[1][0])
    weights = _transformed(workspace, _transforms(tile, window).reversed_weights, w)
    return _convolve(workspace, g, weights.transpose(1, 2), None, tile, window, corner, image_size)


def conv2d_weight_grad(
    workspace: Workspace,
    x: Tensor,
    g: Tensor,
    *,
    tile: int,
    kernel_size: Pair,
    padding: Padding,
) -> Tensor:
    """The cotangent of conv2d's weights, (r, r, C, O)."""
    channels, features = x.shape[3], g.shape[3]
    tiles = _Tiles(workspace, tile, kernel_size[0], g.shape, max(channels, features))
    sums = tiles.sums(channels, features)
    corner = (padding[0][0], padding[1][0])
    for position, block in enumerate(tiles.blocks()):
        images = tiles.transformed_images(x, corner, block).transpose(1, 2)
        cotangents = tiles.transformed_cotangents(g, block)
        torch.baddbmm(sums, images, cotangents, beta=min(position, 1), out=sums)
    matrix = tiles.transforms.gathered_weights
    return torch.mm(matrix, sums.view(matrix.shape[1], -1)).view(*kernel_size, channels, features)
