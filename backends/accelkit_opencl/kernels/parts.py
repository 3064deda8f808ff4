"""A kernel taken apart, to be put together in another form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from accelkit_opencl.kernels.source import KernelSource

__all__ = ["Parts", "take_apart"]

_HEADER = re.compile(r"__kernel\b(.*?)\bvoid\s+(\w+)\s*\(([^)]*)\)\s*", re.DOTALL)
_UNDEFINED = re.compile(r"(?:#undef \w+\n)+\Z")
_GLOBAL_ID = re.compile(r"get_global_id\((\d)\)")
_LOCAL = re.compile(r"^ *__local [^;]*;\n", re.MULTILINE)
_LOCAL_ARRAY = re.compile(r" *__local (\w+) (\w+)\[")


@dataclass(frozen=True)
class Parts:
    """The text of a kernel whose work-groups are of one item.

    Attributes:
        before: What stands before it: macros, and functions that it calls.
        attributes: Between ``__kernel`` and ``void``.
        name: Its function's.
        parameters: Their declarations.
        local: Declarations of local memory, which only a kernel can have, a line each.
        body: The rest, in braces; work-items' identifiers are variables ``item_0``, ``item_1``, ...
        items: Names of those identifiers, one per dimension.
    """

    before: str
    attributes: str
    name: str
    parameters: str
    local: str
    body: str
    items: tuple[str, ...]

    def as_function(self, specifiers: str, suffix: str) -> str:
        """The body as a function, with its local memory and the identifiers as parameters."""
        local = [f"__local {kind}* restrict {name}" for kind, name in self._local_arrays()]
        items = [f"const size_t {item}" for item in self.items]
        parameters = ", ".join([self.parameters, *local, *items])
        return f"{specifiers} void {self.name}{suffix}({parameters}) {self.body}"

    def call(self, suffix: str, items: Sequence[str]) -> str:
        """The call of that function from a kernel for one work-item."""
        passed = [parameter.split()[-1].lstrip("*") for parameter in self.parameters.split(",")]
        local = [name for _, name in self._local_arrays()]
        return f"{self.name}{suffix}({', '.join([*passed, *local, *items])});\n"

    def _local_arrays(self) -> list[tuple[str, str]]:
        """Element type and name of each array in local memory."""
        found = [_LOCAL_ARRAY.match(line) for line in self.local.splitlines()]
        assert all(found), f"{self.name} has local memory other than arrays: {self.local}"
        return [(array[1], array[2]) for array in found if array]


def take_apart(source: KernelSource) -> Parts:
    """The parts of a kernel whose work-groups are of one item."""
    text = _UNDEFINED.sub("", source.source)  # the kernel's own parameters need the macros
    header = _HEADER.search(text)
    assert header is not None, f"{source.name} has no kernel of the usual form"
    attributes, name, parameters = header.groups()
    body = _GLOBAL_ID.sub(r"item_\1", text[header.end() :])
    return Parts(
        text[: header.start()],
        " ".join(attributes.split()),
        name,
        parameters,
        "".join(_LOCAL.findall(body)),
        _LOCAL.sub("", body),
        tuple(f"item_{axis}" for axis in range(len(source.global_size))),
    )
