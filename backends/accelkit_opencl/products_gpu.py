"""Products for GPU devices: blocks in local memory, long reductions shared by work-groups."""

from __future__ import annotations

from dataclasses import replace

from accelkit_opencl.kernels.blocked_gpu import (
    Block,
    Product,
    add_partials_kernel,
    blocked_kernel,
)
from accelkit_opencl.kernels.epilogue import Epilogue, result_names
from accelkit_opencl.kernels.source import ceil_div, itemsize_of
from accelkit_opencl.lowering import Launch, Lowering, Profile

__all__ = ["lower_blocked"]

_SMALL = Block(32, 32, 16, 2, 2)  # for few rows or columns


def lower_blocked(
    product: Product,
    operands: tuple[str, str],
    profile: Profile,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers ``operands`` and "out", or the epilogue's in place of "out"."""
    results = result_names(epilogue)
    block = _block(product, profile)
    if block.splits == 1:
        kernel = blocked_kernel(product, block, epilogue)
        return Lowering((Launch(kernel, (*operands, *results)),))
    partial = blocked_kernel(product, block)
    sums = add_partials_kernel(product, block.splits, epilogue)
    return Lowering(
        (Launch(partial, (*operands, "partials")), Launch(sums, ("partials", *results))),
        {"partials": product.size * block.splits * itemsize_of(product.dtype)},
    )


def _block(product: Product, profile: Profile) -> Block:
    """The blocking that a device's limits allow, with enough groups to keep it busy."""
    block = _SMALL if product.m <= 32 or product.n <= 32 else Block()
    block = block.fitted(
        max_group=profile.max_group,
        local_bytes=profile.local_bytes,
        itemsize=itemsize_of(product.dtype),
    )
    groups = ceil_div(product.m, block.m) * ceil_div(product.n, block.n) * product.batch
    # A long reduction on few blocks is shared until the device is busy.
    wanted = ceil_div(4 * profile.compute_units, groups)
    splits = max(1, min(wanted, product.k // (8 * block.k)))
    steps = ceil_div(ceil_div(product.k, splits), block.k) * block.k
    return replace(block, splits=max(1, ceil_div(product.k, steps)) if product.k else 1)
