"""Kernels for a wider instruction set than the one that their compiler was set to.

PoCL compiles for a processor by its name. Where its LLVM does not know that of the machine, it
takes an older one's, whose vectors may be half as long. An attribute lets a function have more,
but PoCL makes of a kernel a new function for the work-group, into which it takes the kernel and
whatever that calls without what their attributes say, except what must not be taken in. So the
kernel's body becomes such a function; work-items' identifiers, which can be asked for in kernels
only, are passed to it. The arithmetic of every element stays the same.
"""

from __future__ import annotations

from accelkit_opencl.kernels.parts import take_apart
from accelkit_opencl.kernels.source import KernelSource

__all__ = ["WIDE_FEATURES", "as_wide"]

# What every processor with AVX-512 has, but for Knights Landing and Mill, which LLVM knows.
WIDE_FEATURES = "avx512f,avx512vl,avx512bw,avx512dq,avx512cd"
_SPECIFIERS = f'__attribute__((noinline, target("{WIDE_FEATURES}"), min_vector_width(512)))\n'


def as_wide(source: KernelSource) -> KernelSource:
    """The kernel as a call of a function for processors with AVX-512.

    Kernels with several work-items per group, which PoCL computes side by side in a vector, are
    returned as they are.
    """
    if any(extent != 1 for extent in source.local_size):
        return source
    parts = take_apart(source)
    identifiers = [f"get_global_id({axis})" for axis in range(len(parts.items))]
    code = (
        f"{parts.before}{parts.as_function(_SPECIFIERS, '_wide')}"
        f"__kernel {parts.attributes}\nvoid {parts.name}({parts.parameters}) {{\n"
        f"{parts.local}  {parts.call('_wide', identifiers)}}}\n"
    )
    return KernelSource.of(
        "wide",
        code.replace(parts.name, "KERNEL"),
        source.arguments,
        source.global_size,
        source.local_size,
        source.flops,
    )
