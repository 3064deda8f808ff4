"""Single-work-item forms of kernels, which FPGA compilers turn into pipelines.

On an FPGA a kernel is a circuit. Compilers for FPGAs pipeline the loops of a kernel that is one
work-item, and overlap iterations; work-items of an ND-range they only interleave. So the ND-range
becomes loops around the body. The arithmetic of every element stays the same.
"""

from __future__ import annotations

from accelkit_opencl.kernels.parts import take_apart
from accelkit_opencl.kernels.source import KernelSource

__all__ = ["as_task"]

_ONE_ITEM = "__attribute__((reqd_work_group_size(1, 1, 1)))"


def as_task(source: KernelSource) -> KernelSource:
    """The kernel as one work-item that loops over the whole ND-range.

    Kernels whose groups hold several work-items that exchange data are returned as they are.
    """
    if any(extent != 1 for extent in source.local_size):
        return source
    parts = take_apart(source)
    before, body = parts.before, parts.body
    if "return;" in body:  # of one item: its body becomes a function
        before += parts.as_function("static inline", "_item")
        body = f"    {parts.call('_item', parts.items)}"
    loops = "".join(
        f"  for (size_t {item} = 0; {item} < {extent}; {item}++)\n"
        for item, extent in reversed(list(zip(parts.items, source.global_size, strict=True)))
    )
    attributes = " ".join(parts.attributes.replace(_ONE_ITEM, "").split())
    code = (
        f"{before}__kernel {_ONE_ITEM} {attributes}\n"
        f"void {parts.name}({parts.parameters}) {{\n{parts.local}{loops}{body}}}\n"
    )
    return KernelSource.of(
        "task", code.replace(parts.name, "KERNEL"), source.arguments, (1,), (1,), source.flops
    )
