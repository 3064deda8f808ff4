"""Single-work-item forms of kernels, which FPGA compilers turn into pipelines.

On an FPGA a kernel is a circuit. Compilers for FPGAs pipeline the loops of a kernel that is one
work-item, and overlap iterations; work-items of an ND-range they only interleave. So the ND-range
becomes loops around the body. The arithmetic of every element stays the same.
"""

from __future__ import annotations

import re

from accelkit_opencl.kernels.source import KernelSource

__all__ = ["as_task"]

_HEADER = re.compile(r"__kernel\b(.*?)\bvoid\s+(\w+)\s*\(([^)]*)\)\s*", re.DOTALL)
_ONE_ITEM = "__attribute__((reqd_work_group_size(1, 1, 1)))"
_UNDEFINED = re.compile(r"(?:#undef \w+\n)+\Z")
_GLOBAL_ID = re.compile(r"get_global_id\((\d)\)")
_LOCAL = re.compile(r"^ *__local [^;]*;\n", re.MULTILINE)


def as_task(source: KernelSource) -> KernelSource:
    """The kernel as one work-item that loops over the whole ND-range.

    Kernels whose groups hold several work-items that exchange data are returned as they are.
    """
    if any(extent != 1 for extent in source.local_size):
        return source
    text = _UNDEFINED.sub("", source.source)  # the kernel's own parameters need the macros
    header = _HEADER.search(text)
    assert header is not None, f"{source.name} has no kernel of the usual form"
    attributes, name, parameters = header.groups()
    body = _GLOBAL_ID.sub(r"item_\1", text[header.end() :])
    items = [f"item_{axis}" for axis in range(len(source.global_size))]
    before, local = text[: header.start()], "".join(_LOCAL.findall(body))
    if "return;" in body:  # of one item: its body becomes a function
        assert not local, f"{source.name} has local memory, which only a kernel can declare"
        extra = ", ".join(f"const size_t {item}" for item in items)
        before += f"static inline void {name}_item({parameters}, {extra}) {body}"
        passed = [parameter.split()[-1].lstrip("*") for parameter in parameters.split(",")]
        body = f"    {name}_item({', '.join([*passed, *items])});\n"
    else:
        body = _LOCAL.sub("", body)
    loops = "".join(
        f"  for (size_t {item} = 0; {item} < {extent}; {item}++)\n"
        for item, extent in reversed(list(zip(items, source.global_size, strict=True)))
    )
    attributes = " ".join(attributes.replace(_ONE_ITEM, "").split())
    code = (
        f"{before}__kernel {_ONE_ITEM} {attributes}\n"
        f"void {name}({parameters}) {{\n{local}{loops}{body}}}\n"
    )
    return KernelSource.of(
        "task", code.replace(name, "KERNEL"), source.arguments, (1,), (1,), source.flops
    )
