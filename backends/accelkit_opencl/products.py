"""Matrix products and convolutions: which kernels, in which order, with which scratch memory.

A :class:`Lowering` is a short list of launches over named buffers. The forms and tile sizes come
from the device's profile, or from the tuner's table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelkit_opencl.kernels import blocked_gpu, convolution_cpu, matmul_cpu, packing
from accelkit_opencl.kernels.convolution import Convolution, Gather
from accelkit_opencl.kernels.epilogue import Epilogue, result_names
from accelkit_opencl.kernels.matmul_cpu import Matmul, MomentumUpdate
from accelkit_opencl.kernels.source import KernelSource, itemsize_of
from accelkit_opencl.kernels.tile import Tile, best_tile
from accelkit_opencl.lowering import Choice, Launch, Lowering, Profile
from accelkit_opencl.products_gpu import lower_blocked
from accelkit_opencl.products_winograd import lower_gather, lower_sums, transforms
from accelkit_opencl.shares import Shares, best_shares, heights

__all__ = [
    "LOWERINGS",
    "lower_forward",
    "lower_input_gradient",
    "lower_matmul",
    "lower_matmul_update",
    "lower_weight_gradient",
    "weight_gradient_shares",
]

_UNROLL = 4  # of a long loop
_UNROLLS = (_UNROLL, 5, 3, 7)  # of one whose length is known, where nothing shall be left over
_FIRST_CACHE_BYTES = 45056  # most of a first-level cache
_SECOND_CACHE_BYTES = 262144  # a part of a second-level cache, beside a panel of weights
_LONG_STRETCH = 16  # channels per tap from which on the zero border is left out
_MOST_TAPS = 7  # filter columns of that form, whose code grows with them
_SKINNY_ROWS = 64  # up to here the copies of the packed form cost more than they save


def _tile(
    rows: int,
    columns: int,
    profile: Profile,
    dtype: str,
    choice: Choice,
) -> Tile:
    width = profile.width(dtype)
    if choice.rows:
        return Tile(min(choice.rows, rows), choice.vectors, width, dtype)
    return best_tile(rows, columns, width, profile.registers, dtype)


def _unroll(length: int) -> int:
    """Turns of a loop of that length side by side, so that none is left over if possible."""
    return next((turns for turns in _UNROLLS if length % turns == 0), _UNROLL)


def _without_border(gather: Gather) -> Gather:
    """The form of a product that leaves zeros around the image out, where that is worth it.

    Nothing is copied and nothing multiplied by zero; but a filter row then is as many stretches
    of the image as it has taps, and each must be long enough for a loop.
    """
    few = gather.channels < _LONG_STRETCH or gather.columns.count > _MOST_TAPS
    return gather if few or not gather.needs_padding else gather.unpadded()


# --- matrix products ---------------------------------------------------------------------------


def lower_matmul(
    product: Matmul,
    profile: Profile,
    choice: Choice | None = None,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers "a", "b" and "out", or the epilogue's in place of "out"."""
    if not profile.cpu:
        return lower_blocked(blocked_gpu.matmul_product(product), ("a", "b"), profile, epilogue)
    out = result_names(epilogue)
    choice = choice or profile.choice("matmul", product)
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
    kernel = matmul_cpu.packed_kernel(
        product, tile, unroll=choice.unroll or _UNROLL, epilogue=epilogue
    )
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
        kernel = matmul_cpu.packed_kernel(
            product, tile, unroll=choice.unroll or _UNROLL, update=update
        )
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
    """Buffers "x", "w" and "out", or the epilogue's in place of "out"."""
    if not profile.cpu:
        return lower_blocked(blocked_gpu.forward_product(conv), ("x", "w"), profile, epilogue)
    choice = choice or profile.choice("forward", conv)
    tiling = transforms("forward", conv, profile, choice)
    if tiling is not None:
        return lower_gather(("x", "w"), tiling, profile, choice, epilogue=epilogue)
    return _gathers("x", [conv.forward()], profile, choice, epilogue)


def lower_input_gradient(
    conv: Convolution,
    profile: Profile,
    choice: Choice | None = None,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers "g", "w" and "out", or the epilogue's in place of "out"."""
    if not profile.cpu:
        product = blocked_gpu.input_gradient_product(conv)
        return lower_blocked(product, ("g", "w"), profile, epilogue)
    choice = choice or profile.choice("input gradient", conv)
    tiling = transforms("input gradient", conv, profile, choice)
    if tiling is not None:
        return lower_gather(("g", "w"), tiling, profile, choice, epilogue=epilogue)
    return _gathers("g", list(conv.input_gradient()), profile, choice, epilogue)


def _gathers(
    source: str,
    gathers: Sequence[Gather],
    profile: Profile,
    choice: Choice,
    epilogue: Epilogue | None,
) -> Lowering:
    out = result_names(epilogue)
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
        unroll = choice.unroll or _unroll(gather.runs[1])
        kernel = convolution_cpu.gather_kernel(
            gather, tile, block_rows=block_rows, unroll=unroll, epilogue=epilogue
        )
        launches.append(Launch(kernel, (padded, packed, *out)))
    return Lowering(tuple(launches), scratch)


def lower_weight_gradient(
    conv: Convolution,
    profile: Profile,
    choice: Choice | None = None,
) -> Lowering:
    """Buffers "x", "g" and "out"."""
    if not profile.cpu:
        return lower_blocked(blocked_gpu.weight_gradient_product(conv), ("x", "g"), profile)
    choice = choice or profile.choice("weight gradient", conv)
    tiling = transforms("weight gradient", conv, profile, choice)
    if tiling is not None:
        return lower_sums(tiling, profile)
    gather, block_bytes, shares = weight_gradient_shares(conv, profile, choice)
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


def weight_gradient_shares(
    conv: Convolution, profile: Profile, choice: Choice
) -> tuple[Gather, int, Shares]:
    """The forward product that a weight gradient belongs to, the bytes of a panel of the output
    gradient in local memory, and how the work is shared."""
    gather = _without_border(conv.forward())
    block_bytes = min(choice.block_bytes or _FIRST_CACHE_BYTES, profile.local_bytes)
    # A panel of a whole image in one block spares the partial sums a way to memory and back.
    image_bytes = gather.grid[0] * gather.grid[1] * profile.vector_bytes
    most_vectors = min(4, block_bytes // image_bytes or 4)
    width, length = profile.width(conv.dtype), gather.runs[1]
    tiles = [
        Tile(rows, vectors, width, conv.dtype)
        for vectors in range(1, most_vectors + 1)
        for rows in sorted(heights(length, profile.most_rows(vectors), conv.dtype))
    ]
    if choice.rows:
        tiles = [Tile(min(choice.rows, length), choice.vectors, width, conv.dtype)]
    return gather, block_bytes, best_shares(gather, tiles, profile.compute_units, choice.taps)


LOWERINGS: dict[str, Callable[..., Lowering]] = {
    "matmul": lower_matmul,
    "forward": lower_forward,
    "input gradient": lower_input_gradient,
    "weight gradient": lower_weight_gradient,
}
