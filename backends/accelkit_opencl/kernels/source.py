"""A kernel as data: its source, its launch sizes and its signature."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

__all__ = ["KernelSource", "ceil_div", "ctype", "double_pragma", "itemsize_of", "round_up"]

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


def itemsize_of(type_name: str) -> int:
    """Bytes of one element of an OpenCL C scalar type."""
    return {"c": 1, "s": 2, "i": 4, "f": 4, "l": 8, "d": 8}[type_name.removeprefix("u")[0]]


def double_pragma(code: str) -> str:
    """What must stand before code that names the type ``double``; a type's name is code too."""
    return "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if "double" in code else ""


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
        """Build one from a source whose function is called ``KERNEL``.

        Sources are joined to programs, so names at file scope must contain ``KERNEL`` too; macros
        are undefined at the end, but for those that guard a shared function (``ak_...``).
        """
        name = f"{stem}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        macros = dict.fromkeys(re.findall(r"^#define (?!ak_|__)(\w+)", source, re.MULTILINE))
        source = source.replace("KERNEL", name) + "".join(f"#undef {macro}\n" for macro in macros)
        return cls(name, source, arguments, global_size, local_size, flops)
