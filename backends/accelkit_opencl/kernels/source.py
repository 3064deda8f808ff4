"""A kernel as data: its source, its launch sizes and its signature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = ["KernelSource", "ceil_div", "ctype", "round_up"]

_CTYPES = {
    "bool": "uchar",
    "int8": "char",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "uchar",
    "uint16": "ushort",
    "uint32": "uint",
    "uint64": "ulong",
    "float32": "float",
    "float64": "double",
}


def ctype(dtype: str) -> str:
    """The OpenCL C type that stores one element of the named dtype."""
    return _CTYPES[dtype]


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def round_up(a: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``a``."""
    return ceil_div(a, multiple) * multiple


@dataclass(frozen=True)
class KernelSource:
    """One generated kernel with everything that a launch needs besides its buffers.

    All shapes are compile-time constants of the source, so that the arguments are buffers only
    and a launch is the same every time.

    Attributes:
        name: Function name inside ``source``; unique to the source (it ends in its hash).
        source: OpenCL C, complete.
        arguments: Name of each buffer argument, in order, for signatures in manifests and errors.
        global_size: Work-items per dimension.
        local_size: Work-items of one work-group per dimension.
        flops: Floating-point operations of one launch, for rates.
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]
    flops: int = field(default=0, compare=False)

    @classmethod
    def of(
        cls,
        stem: str,
        source: str,
        arguments: tuple[str, ...],
        global_size: tuple[int, ...],
        local_size: tuple[int, ...],
        flops: int = 0,
    ) -> KernelSource:
        """Build one from a source whose function is called ``KERNEL``."""
        name = f"{stem}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        return cls(name, source.replace("KERNEL", name), arguments, global_size, local_size, flops)
