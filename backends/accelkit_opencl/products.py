"""Matrix products and convolutions: which kernels, in which order, with which scratch memory.

A :class:`Lowering` is a short list of launches over named buffers. The forms and tile sizes come
from the device's profile, or from the tuner's table.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from accelkit_opencl.kernels import blocked_gpu, convolution_cpu, matmul_cpu, packing
from accelkit_opencl.kernels.blocked_gpu import Block, Product
from accelkit_opencl.kernels.convolution import Convolution, Gather
from accelkit_opencl.kernels.epilogue import Epilogue
from accelkit_opencl.kernels.matmul_cpu import Matmul, MomentumUpdate
from accelkit_opencl.kernels.source import KernelSource, ceil_div, itemsize_of
from accelkit_opencl.kernels.tile import Tile, best_tile, tile_cost

__all__ = [
    "LOWERINGS",
    "Choice",
    "Launch",
    "Lowering",
    "Profile",
    "candidates",
    "choice_key",
    "lower_forward",
    "lower_input_gradient",
    "lower_matmul",
    "lower_matmul_update",
    "lower_weight_gradient",
]

_FIRST_CACHE_BYTES = 40960  # most of a first-level cache
_SECOND_CACHE_BYTES = 262144  # a part of a second-level cache, beside a panel of weights
_COPY_COST = 30.0  # of one vector of a gradient, in the units of tile_cost
_LONG_STRETCH = 16  # channels per tap from which on the zero border is left out
_MOST_TAPS = 7  # filter columns of that form, whose code grows with them
_SKINNY_ROWS = 64  # up to here the copies of the packed form cost more than they save


@dataclass(frozen=True)
class Choice:
    """One way to run a product on a CPU: what the tuner tries and remembers.

    Attributes:
        rows, vectors: Register tile; zero rows mean the default by estimate.
        unroll: Of the reduction loop.
        taps: Filter taps of one work-item (weight gradient), 0 for the default by estimate.
        block_bytes: Size of a convolution's cache blocks, 0 for the default: of the source image
            (forward, input gradient), or of a panel of the output gradient (weight gradient).
    """

    rows: int = 0
    vectors: int = 0
    unroll: int = 4
    taps: int = 0
    block_bytes: int = 0


@dataclass(frozen=True)
class Profile:
    """What the choice of kernels depends on.

    Attributes:
        cpu: CPU forms, or GPU forms.
        vector_bytes: Width of the native vectors.
        registers: Vector registers of a CPU.
        compute_units: Of the device.
        max_group: Most work-items of a group.
        local_bytes: Local memory of a group.
        choices: What the tuner found, by :func:`choice_key`.
    """

    cpu: bool
    vector_bytes: int = 64
    registers: int = 32
    compute_units: int = 1
    max_group: int = 256
    local_bytes: int = 32768
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False)

    def width(self, dtype: str) -> int:
        """Elements of one native vector."""
        return max(1, min(16, self.vector_bytes // itemsize_of(dtype)))

    def choice(self, kind: str, product: Matmul | Convolution) -> Choice:
        """The tuner's choice for a product, or the default by estimate."""
        return self.choices.get(choice_key(kind, product), Choice())


@dataclass(frozen=True)
class Launch:
    """A kernel and the names of its buffers."""

    source: KernelSource
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class Lowering:
    """Launches over named buffers.

    Attributes:
        launches: In order.
        scratch_bytes: Size of each temporary buffer by name.
    """

    launches: tuple[Launch, ...]
    scratch_bytes: dict[str, int] = field(default_factory=dict)


def choice_key(kind: str, product: Matmul | Convolution) -> str:
    """Name of a product in the tuner's table."""
    return f"{kind} {product}"


def _tile(
    rows: int,
    columns: int,
    profile: Profile,
    dtype: str,
    choice: Choice,
    vectors: Sequence[int] = (1, 2, 3, 4),
) -> Tile:
    width = profile.width(dtype)
    if choice.rows:
        return Tile(min(choice.rows, rows), choice.vectors, width, dtype)
    return best_tile(rows, columns, width, profile.registers, dtype, vectors)


def _without_border(gather: Gather) -> Gather:
    """The form of a product that leaves zeros around the image out, where that is worth it.

    Nothing is copied and nothing multiplied by zero; but a filter row then is as many stretches
    of the image as it has taps, and each must be long enough for a loop.
    """
    few = gather.channels < _LONG_STRETCH or gather.columns.count > _MOST_TAPS
    return gather if few or not gather.needs_padding else gather.unpadded()


class _Shares(NamedTuple):
    """How a weight gradient is shared among work-items."""

    time: float
    tile: Tile
    taps: int
    chunks: int


def _shares(gather: Gather, tiles: Iterable[Tile], compute_units: int, taps: int) -> _Shares:
    """The tile, the filter taps per work-item (``taps``, if not 0) and the parts of a tap's tiles
    with the least estimated time of the unit that has most to do.

    Every work-item copies its panel of the output gradient once: few and long ones copy least,
    many and short ones keep all units busy.
    """
    all_taps, length = gather.rows.count * gather.runs[0], gather.runs[1]
    best: _Shares | None = None
    for tile in tiles:
        full, rest = divmod(gather.features, tile.columns)
        panels = [tile.vectors] * full + [ceil_div(rest, tile.width)] * bool(rest)
        count = max(1, ceil_div(length, tile.rows))
        for share in [min(taps, all_taps)] if taps else range(1, all_taps + 1):
            for chunks in {
                ceil_div(count, ceil_div(count, c)) for c in range(1, min(count, 8) + 1)
            }:
                items = [
                    min(share, all_taps - first)
                    * min(ceil_div(count, chunks), count - c * ceil_div(count, chunks))
                    * tile_cost(tile.rows, vectors)
                    + _COPY_COST * vectors
                    for vectors in panels
                    for first in range(0, all_taps, share)
                    for c in range(chunks)
                ] * gather.groups
                found = _Shares(_makespan(items, compute_units), tile, share, chunks)
                best = min(best or found, found, key=lambda shares: shares.time)
    assert best is not None
    return best


def _makespan(items: list[float], units: int) -> float:
    """Time until all are done when a unit that is free takes its share of what is left.

    So do PoCL's threads ("guided" scheduling); other runtimes are at least as even.
    """
    if len(items) > 64 * units:
        return sum(items) / units + max(items)
    busy, first = [0.0] * units, 0
    while first < len(items):
        end = first + ceil_div(len(items) - first, units)
        heapq.heapreplace(busy, busy[0] + sum(items[first:end]))
        first = end
    return max(busy)


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


# --- matrix products ---------------------------------------------------------------------------


def lower_matmul(
    product: Matmul,
    profile: Profile,
    choice: Choice | None = None,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers "a", "b" and "out", or the epilogue's in place of "out" (CPU forms only)."""
    out = _results(epilogue, profile)
    choice = choice or profile.choice("matmul", product)
    if not profile.cpu:
        return _blocked(blocked_gpu.matmul_product(product), ("a", "b", "out"), profile)
    width = profile.width(product.dtype)
    tile = _tile(product.m, product.n, profile, product.dtype, choice)
    if product.m <= _SKINNY_ROWS and not product.transpose_b:
        source = matmul_cpu.direct_kernel(product, tile, epilogue=epilogue)
        return Lowering((Launch(source, ("a", "b", *out)),))
    if product.m <= _SKINNY_ROWS and not product.transpose_a:
        rows, columns = (6, 4) if profile.registers >= 32 else (3, 3)
        source = matmul_cpu.dot_kernel(
            product,
            width,
            rows=min(rows, product.m),
            columns=min(columns, product.n),
            epilogue=epilogue,
        )
        return Lowering((Launch(source, ("a", "b", *out)),))
    kernel = matmul_cpu.packed_kernel(product, tile, unroll=choice.unroll, epilogue=epilogue)
    return _packed(product, tile, kernel, out)


def _packed(product: Matmul, tile: Tile, kernel: KernelSource, results: Sequence[str]) -> Lowering:
    """A packed product, behind the copies that it needs."""
    left, right = packing.packed_sizes(product, tile)
    itemsize = itemsize_of(product.dtype)
    launches = [Launch(packing.pack_right_kernel(product, tile), ("b", "right"))]
    scratch = {"right": right * itemsize}
    if product.transpose_a:
        launches.append(Launch(packing.pack_left_kernel(product, tile), ("a", "left")))
        scratch["left"] = left * itemsize
    operand = "left" if product.transpose_a else "a"
    launches.append(Launch(kernel, (operand, "right", *results)))
    return Lowering(tuple(launches), scratch)


def lower_matmul_update(product: Matmul, update: MomentumUpdate, profile: Profile) -> Lowering:
    """Buffers "p", "a", "b", "v", "rate", "new_p" and "new_v".

    On CPUs the gradient goes from registers into the update; elsewhere through a scratch buffer.
    """
    names = MomentumUpdate.ARGUMENTS
    if profile.cpu:
        choice = profile.choice("matmul", product)
        tile = _tile(product.m, product.n, profile, product.dtype, choice)
        kernel = matmul_cpu.packed_kernel(product, tile, unroll=choice.unroll, update=update)
        return _packed(product, tile, kernel, names)
    found = lower_matmul(product, profile)
    launches = [
        Launch(launch.source, tuple("gradient" if b == "out" else b for b in launch.buffers))
        for launch in found.launches
    ]
    size = product.batch * product.m * product.n
    launches.append(Launch(update.kernel(size, product.dtype), ("gradient", *names)))
    scratch = {**found.scratch_bytes, "gradient": size * itemsize_of(product.dtype)}
    return Lowering(tuple(launches), scratch)


# --- convolutions ------------------------------------------------------------------------------


def lower_forward(
    conv: Convolution,
    profile: Profile,
    choice: Choice | None = None,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers "x", "w" and "out", or the epilogue's in place of "out" (CPU forms only)."""
    choice = choice or profile.choice("forward", conv)
    if not profile.cpu:
        return _blocked(blocked_gpu.forward_product(conv), ("x", "w", "out"), profile)
    return _gathers("x", [conv.forward()], profile, choice, epilogue)


def lower_input_gradient(
    conv: Convolution,
    profile: Profile,
    choice: Choice | None = None,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers "g", "w" and "out", or the epilogue's in place of "out" (CPU forms only)."""
    choice = choice or profile.choice("input gradient", conv)
    if not profile.cpu:
        return _blocked(blocked_gpu.input_gradient_product(conv), ("g", "w", "out"), profile)
    return _gathers("g", list(conv.input_gradient()), profile, choice, epilogue)


def _results(epilogue: Epilogue | None, profile: Profile) -> tuple[str, ...]:
    if epilogue is None:
        return ("out",)
    assert profile.cpu, "the GPU forms have no epilogues"
    return epilogue.arguments


def _gathers(
    source: str,
    gathers: Sequence[Gather],
    profile: Profile,
    choice: Choice,
    epilogue: Epilogue | None,
) -> Lowering:
    out = _results(epilogue, profile)
    launches, scratch = [], {}
    itemsize = itemsize_of(gathers[0].dtype)
    gathers, padded = [_without_border(gather) for gather in gathers], source
    if gathers[0].needs_padding:
        padded = "padded"
        scratch["padded"] = gathers[0].padded_size * itemsize
        launches.append(Launch(convolution_cpu.pad_kernel(gathers[0]), (source, padded)))
    for number, gather in enumerate(gathers):
        tile = _tile(gather.grid[1], gather.features, profile, gather.dtype, choice)
        packed = f"packed{number}"
        size = packing.packed_weights_size(gather, tile)
        scratch[packed] = max(size, 1) * itemsize
        if size:
            pack = packing.pack_weights_kernel(gather, tile)
            launches.append(Launch(pack, ("w", packed)))
        row = gather.step[0] * gather.padded[1] * gather.source[2] * itemsize
        block_rows = max(1, (choice.block_bytes or _SECOND_CACHE_BYTES) // row)
        kernel = convolution_cpu.gather_kernel(
            gather, tile, block_rows=block_rows, unroll=choice.unroll, epilogue=epilogue
        )
        launches.append(Launch(kernel, (padded, packed, *out)))
    return Lowering(tuple(launches), scratch)


def lower_weight_gradient(
    conv: Convolution,
    profile: Profile,
    choice: Choice | None = None,
) -> Lowering:
    """Buffers "x", "g" and "out"."""
    choice = choice or profile.choice("weight gradient", conv)
    if not profile.cpu:
        return _blocked(blocked_gpu.weight_gradient_product(conv), ("x", "g", "out"), profile)
    gather = _without_border(conv.forward())
    block_bytes = min(choice.block_bytes or _FIRST_CACHE_BYTES, profile.local_bytes)
    # A panel of a whole image in one block spares the partial sums a way to memory and back.
    image_bytes = gather.grid[0] * gather.grid[1] * profile.vector_bytes
    most_vectors = min(4, block_bytes // image_bytes or 4)
    tiles = {
        _tile(gather.runs[1], gather.features, profile, conv.dtype, choice, (vectors,))
        for vectors in range(1, most_vectors + 1)
    }
    shares = _shares(gather, tiles, profile.compute_units, choice.taps)
    launches, scratch, padded = [], {}, "x"
    if gather.needs_padding:
        padded = "padded"
        scratch["padded"] = gather.padded_size * itemsize_of(conv.dtype)
        launches.append(Launch(convolution_cpu.pad_kernel(gather), ("x", padded)))
    kernel = convolution_cpu.weight_gradient_kernel(
        gather,
        shares.tile,
        block_bytes=block_bytes,
        taps=shares.taps,
        chunks=shares.chunks,
        unroll=choice.unroll,
    )
    launches.append(Launch(kernel, (padded, "g", "out")))
    return Lowering(tuple(launches), scratch)


LOWERINGS: dict[str, Callable[..., Lowering]] = {
    "matmul": lower_matmul,
    "forward": lower_forward,
    "input gradient": lower_input_gradient,
    "weight gradient": lower_weight_gradient,
}


# --- GPU forms ---------------------------------------------------------------------------------


def _blocked(product: Product, names: tuple[str, str, str], profile: Profile) -> Lowering:
    itemsize = itemsize_of(product.dtype)
    small = product.m <= 32 or product.n <= 32
    block = Block(32, 32, 16, 2, 2) if small else Block()
    block = block.fitted(
        max_group=profile.max_group, local_bytes=profile.local_bytes, itemsize=itemsize
    )
    groups = ceil_div(product.m, block.m) * ceil_div(product.n, block.n) * product.batch
    # A long reduction on few blocks is shared until the device is busy.
    wanted = ceil_div(4 * profile.compute_units, groups)
    splits = max(1, min(wanted, product.k // (8 * block.k)))
    steps = ceil_div(ceil_div(product.k, splits), block.k) * block.k
    splits = max(1, ceil_div(product.k, steps)) if product.k else 1
    block = Block(block.m, block.n, block.k, block.rows, block.columns, splits)
    kernel = blocked_gpu.blocked_kernel(product, block)
    if splits == 1:
        return Lowering((Launch(kernel, names),))
    dtype = product.dtype
    return Lowering(
        (
            Launch(kernel, (*names[:2], "partials")),
            Launch(
                blocked_gpu.add_partials_kernel(product.size, splits, dtype), ("partials", names[2])
            ),
        ),
        {"partials": product.size * splits * itemsize},
    )
