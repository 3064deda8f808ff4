"""Fused elementwise kernels.

A :class:`Body` is straight-line code over one element of an iteration space: it reads strided
views, computes, and names its results. The iteration space is collapsed to as few axes as the
views allow. On CPUs one work-item runs an inner loop that the compiler vectorises; on GPUs one
work-item computes one element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accelkit.dtypes import DType
from accelkit_opencl.expressions import literal
from accelkit_opencl.kernels.loops import FETCH, Run, element_loop
from accelkit_opencl.kernels.mathematics import definitions_for
from accelkit_opencl.kernels.philox import drawn_element, drawn_run
from accelkit_opencl.kernels.source import KernelSource, ceil_div, ctype, double_pragma, round_up
from accelkit_opencl.views import View, row_major

__all__ = [
    "LANES",
    "Body",
    "Read",
    "Space",
    "Statement",
    "collapse",
    "decompose",
    "element_at",
    "element_code",
    "element_lines",
    "elementwise_kernel",
    "finish",
    "index_type",
    "offsets",
    "parameters",
]

_ITEM_ELEMENTS = 16384  # of one work-item on a CPU: long beside the cost of starting it
_GROUP = 64
LANES = 16


@dataclass(frozen=True)
class Read:
    """A variable read from a view of the iteration space's shape.

    ``argument`` is the kernel argument that holds the view's buffer, of random numbers their key's;
    None for constants and indices.
    """

    name: str
    view: View
    argument: str | None


@dataclass(frozen=True)
class Statement:
    """A variable computed from others: by which primitive, and how that is written."""

    name: str
    dtype: DType
    expression: str
    primitive: str
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Body:
    """Straight-line code over one element.

    Attributes:
        shape: The iteration space.
        reads, statements: In order.
        outputs: (variable, argument) pairs: arrays of the iteration space's shape.
        arguments: (name, dtype) of each buffer, written ones included.
        target: Where in its buffer an output's element lies; None for dense outputs.
    """

    shape: tuple[int, ...]
    reads: tuple[Read, ...]
    statements: tuple[Statement, ...]
    outputs: tuple[tuple[str, str], ...]
    arguments: tuple[tuple[str, DType], ...]
    target: View | None = None

    @property
    def written(self) -> frozenset[str]:
        """Arguments that are written."""
        return frozenset(argument for _, argument in self.outputs)


@dataclass(frozen=True)
class Space:
    """A collapsed iteration space: extents, kinds, and the strides of every read."""

    extents: tuple[int, ...]
    reduced: tuple[bool, ...]
    strides: dict[str, tuple[int, ...]]


def collapse(body: Body, reduced: Sequence[bool]) -> Space:
    """Join neighbouring axes of one kind wherever all reads (and the output) step through them."""
    rows = {read.name: read.view.strides for read in body.reads}
    rows[""] = body.target.strides if body.target else row_major(body.shape)  # the outputs
    axes: list[tuple[int, bool, dict[str, int]]] = []
    for axis, extent in enumerate(body.shape):
        if extent == 1:
            continue
        own = {name: strides[axis] for name, strides in rows.items()}
        if axes:
            size, kind, outer = axes[-1]
            if kind == reduced[axis] and all(outer[n] == own[n] * extent for n in rows):
                axes[-1] = (size * extent, kind, own)
                continue
        axes.append((extent, reduced[axis], own))
    return Space(
        tuple(a[0] for a in axes),
        tuple(a[1] for a in axes),
        {name: tuple(a[2][name] for a in axes) for name in rows},
    )


def index_type(body: Body) -> str:
    """int where every offset fits."""
    largest = math.prod(body.shape)
    for read in (*body.reads, *([Read("", body.target, None)] if body.target else [])):
        reach = sum(
            abs(s) * max(n - 1, 0) for s, n in zip(read.view.strides, read.view.shape, strict=True)
        )
        largest = max(largest, abs(read.view.offset) + reach)
    return "int" if largest < 2**31 - 2**20 else "long"


def parameters(body: Body) -> str:
    """Parameter list; every buffer is passed once, so that none aliases another."""
    written = body.written
    parts = []
    for name, dtype in body.arguments:
        const = "" if name in written else "const "
        parts.append(f"__global {const}{ctype(dtype.name)}* restrict {name}")
    return ", ".join(parts)


def decompose(names: Sequence[str], extents: Sequence[int], flat: str, index: str) -> str:
    """Statements that take a flat index apart, outermost axis first."""
    lines = []
    for position in range(len(names) - 1, -1, -1):
        lower = math.prod(extents[position + 1 :])
        part = f"{flat} / {lower}" if lower > 1 else flat
        if position:
            part = f"({part}) % {extents[position]}"
        lines.append(f"const {index} {names[position]} = {part};")
    return " ".join(lines)


def offsets(body: Body, space: Space, names: Sequence[str], index: str, skip: int | None) -> str:
    """Start of every read for the outer indices (all axes but ``skip``)."""
    return "".join(
        _offset_of(f"o_{read.name}", read.view.offset, space.strides[read.name], names, index, skip)
        for read in body.reads
        if read.view.constant is None
    )


def _offset_of(
    name: str,
    first: int,
    strides: Sequence[int],
    names: Sequence[str],
    index: str,
    skip: int | None,
) -> str:
    terms = [str(first)] if first else []
    for axis, variable in enumerate(names):
        if axis != skip and strides[axis]:
            terms.append(f"{variable} * {strides[axis]}")
    return f"const {index} {name} = {' + '.join(terms) or '0'};\n"


def element_code(body: Body, space: Space, inner: int | None, k: str) -> str:
    """Reads and statements for element ``k`` of the inner axis."""
    return "\n".join(element_lines(body, space, inner, k)) + "\n"


def element_lines(body: Body, space: Space, inner: int | None, k: str) -> list[str]:
    """The same, a declaration per line."""
    lines = []
    for read in body.reads:
        kind = ctype(read.view.dtype.name)
        if read.view.constant is not None:
            expression = literal(read.view.constant, read.view.dtype)
        else:
            stride = space.strides[read.name][inner] if inner is not None else 0
            step = f" + {k} * {stride}" if stride not in (0, 1) else (f" + {k}" if stride else "")
            place = f"o_{read.name}{step}"
            expression = element_at(read, place)
        lines.append(f"const {kind} {read.name} = {expression};")
    for s in body.statements:
        lines.append(f"const {ctype(s.dtype.name)} {s.name} = {s.expression};")
    return lines


def element_at(read: Read, place: str) -> str:
    """The element of a read, other than a constant, at a place of its view."""
    if read.argument is None:
        return f"({ctype(read.view.dtype.name)})({place})"
    if read.view.draw is not None:
        return drawn_element(read.view.draw, read.view.dtype, read.argument, place)
    return f"{read.argument}[{place}]"


def _drawn_runs(body: Body, space: Space, inner: int | None) -> list[Run]:
    """The random numbers that a loop over an axis of the space draws in runs."""
    return [
        drawn_run(read.name, read.view.draw, read.view.dtype, read.argument, f"o_{read.name}")
        for read in body.reads
        if read.view.draw is not None and read.argument is not None
        if inner is not None and space.strides[read.name][inner] == 1
    ]


def finish(
    stem: str,
    code: str,
    arguments: tuple[str, ...],
    size: tuple[int, ...],
    local: tuple[int, ...],
    flops: int,
) -> KernelSource:
    source = f"{double_pragma(code)}{definitions_for(code)}{code}"
    return KernelSource.of(stem, source, arguments, size, local, flops)


def _loop(body: Body, space: Space, lines: Sequence[str], store: str, index: str) -> str:
    """The loop of a CPU kernel over the inner axis, from ``start`` to ``end``."""
    steps = {name: strides[-1] if strides else 0 for name, strides in space.strides.items()}
    length = space.extents[-1] if space.extents else 1
    streams = [
        (f"{read.argument} + o_{read.name}", read.view.dtype.itemsize)
        for read in body.reads
        if read.argument is not None and read.view.draw is None and steps[read.name] == 1
    ]
    return element_loop(
        lines,
        store,
        ("start", "end"),
        index,
        strided=any(step not in (0, 1) for step in steps.values()) or length < 4 * LANES,
        runs=_drawn_runs(body, space, len(space.extents) - 1 if space.extents else None),
        streams=streams,
    )


def elementwise_kernel(body: Body, *, cpu: bool, compute_units: int) -> KernelSource:
    """One kernel with an argument per buffer, in the order of ``body.arguments``."""
    space = collapse(body, [False] * len(body.shape))
    index = index_type(body)
    inner = len(space.extents) - 1 if space.extents else None
    length = space.extents[-1] if space.extents else 1
    rows = math.prod(space.extents[:-1])
    names = [f"i{axis}" for axis in range(len(space.extents))]
    outer = decompose(names[:-1], space.extents[:-1], "row", index)
    work = offsets(body, space, names, index, inner)
    # In the words of the reads: of what is overwritten in place a compiler must see that an element
    # is read where it is written, or it takes the elements one by one.
    first = body.target.offset if body.target else 0
    work += _offset_of("o_out", first, space.strides[""], names, index, inner)
    step = space.strides[""][-1] if space.extents else 0
    place = "o_out + k" if step == 1 else f"o_out + k * {step}"
    store = "".join(f"{arg}[{place}] = {name};\n" for name, arg in body.outputs)
    lines = element_lines(body, space, inner, "k")
    element = "\n".join(lines) + "\n" + store
    total = rows * length
    if not cpu:
        code = f"""__kernel void KERNEL({parameters(body)}) {{
  const {index} id = get_global_id(0);
  if (id >= {total}) return;
  const {index} row = id / {length}, k = id % {length};
  {outer}
{work}{element}}}
"""
        size: tuple[int, ...] = (round_up(max(total, 1), _GROUP),)
        local: tuple[int, ...] = (_GROUP,)
    else:
        items = max(1, min(ceil_div(total, _ITEM_ELEMENTS), 16 * compute_units))
        loop = _loop(body, space, lines, store, index)
        if rows >= items:
            each = ceil_div(max(rows, 1), items)
            size = (ceil_div(max(rows, 1), each),)
            span = f"""const {index} stop = (item + 1) * {each};
  const {index} last = stop < {rows} ? stop : {rows};
  const {index} start = 0, end = {length};
  for ({index} row = item * {each}; row < last; row++) {{
"""
        else:
            pieces = ceil_div(items, max(rows, 1))
            each = round_up(ceil_div(length, pieces), LANES)
            pieces = ceil_div(length, each)
            size = (pieces * rows,)
            span = f"""const {index} row = item / {pieces}, start = item % {pieces} * {each};
  const {index} end = start + {each} < {length} ? start + {each} : {length};
  {{
"""
        helpers = FETCH if "FETCH(" in loop else ""
        code = f"""{helpers}__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL({parameters(body)}) {{
  const {index} item = get_global_id(0);
  {span}  {outer}
{work}{loop}  }}
}}
"""
        local = (1,)
    flops = total * len(body.statements)
    return finish("fused", code, tuple(n for n, _ in body.arguments), size, local, flops)
