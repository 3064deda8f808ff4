"""Fused elementwise kernels, and reductions of fused expressions.

A :class:`Body` is straight-line code over one element of an iteration space: it reads strided
views, computes, and names its results. The iteration space is collapsed to as few axes as the
views allow. On CPUs one work-item runs an inner loop that the compiler vectorises; on GPUs one
work-item computes one element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelkit.dtypes import DType
from accelkit_opencl.expressions import literal
from accelkit_opencl.kernels.mathematics import definitions_for
from accelkit_opencl.kernels.source import KernelSource, ceil_div, ctype, round_up
from accelkit_opencl.views import View, row_major

__all__ = ["Body", "Read", "Reduction", "Statement", "elementwise_kernel", "reduction_kernels"]

_ITEM_ELEMENTS = 16384  # of one work-item on a CPU: long beside the cost of starting it
_GROUP = 64
_LANES = 16
_BLOCK = 512  # terms summed before they are added to the total: bounds rounding errors


@dataclass(frozen=True)
class Read:
    """A variable read from a view of the iteration space's shape.

    ``argument`` is the kernel argument that holds the view's buffer, None for constants and
    indices.
    """

    name: str
    view: View
    argument: str | None


@dataclass(frozen=True)
class Statement:
    """A variable computed from others."""

    name: str
    dtype: DType
    expression: str


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


def _collapse(body: Body, reduced: Sequence[bool]) -> Space:
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


def _index_type(body: Body) -> str:
    """int where every offset fits."""
    largest = math.prod(body.shape)
    for read in (*body.reads, *([Read("", body.target, None)] if body.target else [])):
        reach = sum(
            abs(s) * max(n - 1, 0) for s, n in zip(read.view.strides, read.view.shape, strict=True)
        )
        largest = max(largest, abs(read.view.offset) + reach)
    return "int" if largest < 2**31 - 2**20 else "long"


def _arguments(body: Body) -> str:
    """Parameter list; every buffer is passed once, so that none aliases another."""
    written = body.written
    parts = []
    for name, dtype in body.arguments:
        const = "" if name in written else "const "
        parts.append(f"__global {const}{ctype(dtype.name)}* restrict {name}")
    return ", ".join(parts)


def _decompose(names: Sequence[str], extents: Sequence[int], flat: str, index: str) -> str:
    """Statements that take a flat index apart, outermost axis first."""
    lines = []
    for position in range(len(names) - 1, -1, -1):
        lower = math.prod(extents[position + 1 :])
        part = f"{flat} / {lower}" if lower > 1 else flat
        if position:
            part = f"({part}) % {extents[position]}"
        lines.append(f"const {index} {names[position]} = {part};")
    return " ".join(lines)


def _offsets(body: Body, space: Space, names: Sequence[str], index: str, skip: int | None) -> str:
    """Start of every read for the outer indices (all axes but ``skip``)."""
    return "".join(
        _offset_of(f"o_{read.name}", read.view, space.strides[read.name], names, index, skip)
        for read in body.reads
        if read.view.constant is None
    )


def _offset_of(
    name: str,
    view: View,
    strides: Sequence[int],
    names: Sequence[str],
    index: str,
    skip: int | None,
) -> str:
    terms = [str(view.offset)] if view.offset else []
    for axis, variable in enumerate(names):
        if axis != skip and strides[axis]:
            terms.append(f"{variable} * {strides[axis]}")
    return f"const {index} {name} = {' + '.join(terms) or '0'};\n"


def _element(body: Body, space: Space, inner: int | None, k: str) -> str:
    """Reads and statements for element ``k`` of the inner axis."""
    lines = []
    for read in body.reads:
        kind = ctype(read.view.dtype.name)
        if read.view.constant is not None:
            expression = literal(read.view.constant, read.view.dtype)
        else:
            stride = space.strides[read.name][inner] if inner is not None else 0
            step = f" + {k} * {stride}" if stride not in (0, 1) else (f" + {k}" if stride else "")
            place = f"o_{read.name}{step}"
            expression = f"{read.argument}[{place}]" if read.argument else f"({kind})({place})"
        lines.append(f"const {kind} {read.name} = {expression};")
    for s in body.statements:
        lines.append(f"const {ctype(s.dtype.name)} {s.name} = {s.expression};")
    return "\n".join(lines) + "\n"


def _pragma(code: str) -> str:
    return "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if "double" in code else ""


def _finish(
    stem: str,
    code: str,
    arguments: tuple[str, ...],
    size: tuple[int, ...],
    local: tuple[int, ...],
    flops: int,
) -> KernelSource:
    source = f"{_pragma(code)}{definitions_for(code)}{code}"
    return KernelSource.of(stem, source, arguments, size, local, flops)


def elementwise_kernel(body: Body, *, cpu: bool, compute_units: int) -> KernelSource:
    """One kernel with an argument per buffer, in the order of ``body.arguments``."""
    space = _collapse(body, [False] * len(body.shape))
    index = _index_type(body)
    inner = len(space.extents) - 1 if space.extents else None
    length = space.extents[-1] if space.extents else 1
    rows = math.prod(space.extents[:-1])
    names = [f"i{axis}" for axis in range(len(space.extents))]
    outer = _decompose(names[:-1], space.extents[:-1], "row", index)
    work = _offsets(body, space, names, index, inner)
    place = f"row * {length} + k"
    if body.target is not None:
        work += _offset_of("o_target", body.target, space.strides[""], names, index, inner)
        step = space.strides[""][-1] if space.extents else 0
        place = f"o_target + k * {step}"
    store = "".join(f"{arg}[{place}] = {name};\n" for name, arg in body.outputs)
    element = _element(body, space, inner, "k") + store
    total = rows * length
    if not cpu:
        code = f"""__kernel void KERNEL({_arguments(body)}) {{
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
        loop = f"for ({index} k = start; k < end; k++) {{\n{element}}}\n"
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
            each = round_up(ceil_div(length, pieces), _LANES)
            pieces = ceil_div(length, each)
            size = (pieces * rows,)
            span = f"""const {index} row = item / {pieces}, start = item % {pieces} * {each};
  const {index} end = start + {each} < {length} ? start + {each} : {length};
  {{
"""
        code = f"""__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL({_arguments(body)}) {{
  const {index} item = get_global_id(0);
  {span}  {outer}
{work}{loop}  }}
}}
"""
        local = (1,)
    flops = total * len(body.statements)
    return _finish("fused", code, tuple(n for n, _ in body.arguments), size, local, flops)


# --- reductions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction:
    """How elements are combined: ``name`` is the primitive's, ``variable`` what is reduced."""

    name: str
    variable: str
    dtype: DType
    axes: tuple[int, ...]

    def initial(self) -> str:
        """The neutral element."""
        if self.name == "reduce_sum" or self.name == "reduce_any":
            return literal(0, self.dtype)
        if self.name == "reduce_product" or self.name == "reduce_all":
            return literal(1, self.dtype)
        if self.dtype.kind == "f":
            return literal(-math.inf if self.name == "reduce_max" else math.inf, self.dtype)
        bits, signed = self.dtype.bits, self.dtype.kind == "i"
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        return literal(low if self.name == "reduce_max" else high, self.dtype)

    def combine(self, a: str, b: str) -> str:
        """Expression of ``a`` and a new element ``b``; NaN wins."""
        name = ctype(self.dtype.name)
        if self.name in ("reduce_sum", "reduce_product"):
            operator = "+" if self.name == "reduce_sum" else "*"
            if self.dtype.kind == "f":
                return f"{a} {operator} {b}"
            unsigned = "ulong" if self.dtype.bits == 64 else "uint"
            return f"({name})(({unsigned}){a} {operator} ({unsigned}){b})"
        if self.name == "reduce_any":
            return f"({name})({a} | {b})"
        if self.name == "reduce_all":
            return f"({name})({a} & {b})"
        operator = ">" if self.name == "reduce_max" else "<"
        if self.dtype.kind == "f":
            return f"({b} {operator} {a} || {b} != {b} ? {b} : {a})"
        return f"({b} {operator} {a} ? {b} : {a})"


def reduction_kernels(
    body: Body, reduction: Reduction, *, compute_units: int
) -> tuple[list[KernelSource], int]:
    """Kernels that reduce the body's variable over axes, and the partial results between them.

    The first kernel takes ``body.arguments`` and an output; if there are two, its output is a
    scratch buffer of the returned number of elements, which the second one reduces further.
    Returns that number as 0 for one kernel.
    """
    reduced = [axis in reduction.axes for axis in range(len(body.shape))]
    space = _collapse(body, reduced)
    if space.reduced and not space.reduced[-1]:
        emit, chunks = _columns, _column_chunks(space, compute_units)
    else:
        emit, chunks = _rows, _row_chunks(space, compute_units)
    first = emit(body, reduction, space, chunks)
    if chunks == 1:
        return [first], 0
    outputs = math.prod(n for n, r in zip(space.extents, space.reduced, strict=True) if not r)
    partial = View(None, (chunks, outputs), reduction.dtype, (outputs, 1))
    again = Body(
        (chunks, outputs),
        (Read("x", partial, "partials"),),
        (),
        (),
        (("partials", reduction.dtype),),
    )
    last = Reduction(reduction.name, "x", reduction.dtype, (0,))
    merged = _collapse(again, [True, False])
    emit = _columns if merged.reduced and not merged.reduced[-1] else _rows
    return [first, emit(again, last, merged, 1)], chunks * outputs


def _split(space: Space) -> tuple[list[int], list[int]]:
    """Positions of kept and of reduced axes."""
    kept = [i for i, r in enumerate(space.reduced) if not r]
    return kept, [i for i, r in enumerate(space.reduced) if r]


def _column_chunks(space: Space, compute_units: int) -> int:
    kept, reduced = _split(space)
    length = math.prod(space.extents[i] for i in reduced)
    outputs = math.prod(space.extents[i] for i in kept[:-1]) * ceil_div(space.extents[-1], 256)
    return max(1, min(ceil_div(4 * compute_units, max(outputs, 1)), length // 64))


def _row_chunks(space: Space, compute_units: int) -> int:
    kept, reduced = _split(space)
    length = math.prod(space.extents[i] for i in reduced)
    outputs = math.prod(space.extents[i] for i in kept)
    return max(1, min(ceil_div(4 * compute_units, max(outputs, 1)), length // 4096))


def _kernel_head(body: Body, reduction: Reduction) -> str:
    arguments = _arguments(body)
    out = f"__global {ctype(reduction.dtype.name)}* restrict out"
    return f"__kernel void KERNEL({', '.join(part for part in (arguments, out) if part)}) {{\n"


def _columns(body: Body, reduction: Reduction, space: Space, chunks: int) -> KernelSource:
    """The last axis is kept: a work-item sums rows into a strip of columns."""
    kept, reduced = _split(space)
    index, real = _index_type(body), ctype(reduction.dtype.name)
    length = math.prod(space.extents[i] for i in reduced)
    columns, outer = space.extents[-1], [space.extents[i] for i in kept[:-1]]
    strip = min(columns, 256)
    strips = ceil_div(columns, strip)
    each = ceil_div(length, chunks)
    names = [f"i{axis}" for axis in range(len(space.extents))]
    take_outer = _decompose([names[i] for i in kept[:-1]], outer, "o", index)
    take_reduced = _decompose(
        [names[i] for i in reduced], [space.extents[i] for i in reduced], "r", index
    )
    inner = len(space.extents) - 1
    combined = reduction.combine("sum[k - start]", reduction.variable)
    total = reduction.combine("total[k]", "sum[k]")
    outputs = math.prod(outer) * columns
    code = f"""{_kernel_head(body, reduction)}
  const {index} start = get_global_id(0) * {strip}, o = get_global_id(1), chunk = get_global_id(2);
  const {index} end = start + {strip} < {columns} ? start + {strip} : {columns};
  const {index} first = chunk * {each};
  const {index} last = first + {each} < {length} ? first + {each} : {length};
  {take_outer}
  {real} sum[{strip}], total[{strip}];
  for ({index} k = 0; k < {strip}; k++) total[k] = {reduction.initial()};
  for ({index} block = first; block < last; block += {_BLOCK}) {{
    const {index} stop = block + {_BLOCK} < last ? block + {_BLOCK} : last;
    for ({index} k = 0; k < {strip}; k++) sum[k] = {reduction.initial()};
    for ({index} r = block; r < stop; r++) {{
      {take_reduced}
{_offsets(body, space, names, index, inner)}
      for ({index} k = start; k < end; k++) {{
{_element(body, space, inner, "k")}        sum[k - start] = {combined};
      }}
    }}
    for ({index} k = 0; k < {strip}; k++) total[k] = {total};
  }}
  for ({index} k = start; k < end; k++)
    out[chunk * {outputs} + o * {columns} + k] = total[k - start];
}}
"""
    size = (strips, max(math.prod(outer), 1), chunks)
    arguments = (*(n for n, _ in body.arguments), "out")
    flops = math.prod(body.shape) * (1 + len(body.statements))
    return _finish("reduce_columns", code, arguments, size, (1, 1, 1), flops)


def _rows(body: Body, reduction: Reduction, space: Space, chunks: int) -> KernelSource:
    """The last axis is reduced, in interleaved lanes that are combined in a fixed order."""
    kept, reduced = _split(space)
    index, real = _index_type(body), ctype(reduction.dtype.name)
    inner = len(space.extents) - 1 if reduced else None
    length = space.extents[-1] if reduced else int(math.prod(body.shape) > 0)
    if 0 in body.shape:
        length = 0
    turns = math.prod(space.extents[i] for i in reduced[:-1])
    outputs = math.prod(space.extents[i] for i in kept)
    # Chunks cut the inner axis if it is the only one, else the outer ones.
    cut_inner = turns == 1
    each = ceil_div(length if cut_inner else turns, chunks)
    names = [f"i{axis}" for axis in range(len(space.extents))]
    take_kept = _decompose([names[i] for i in kept], [space.extents[i] for i in kept], "o", index)
    take_turn = _decompose(
        [names[i] for i in reduced[:-1]], [space.extents[i] for i in reduced[:-1]], "t", index
    )
    lanes = _LANES if length >= _LANES else 1
    start, end = ("begin", "finish") if cut_inner else ("0", str(length))
    turn = ("0", "1") if cut_inner else ("begin", "finish")
    extent = length if cut_inner else turns
    combine: Callable[[str, str], str] = reduction.combine
    fold = "\n".join(
        f"  for (int e = 0; e < {half}; e++) "
        f"total[e] = {combine('total[e]', f'total[e + {half}]')};"
        for half in (8, 4, 2, 1)
        if half < lanes
    )
    code = f"""{_kernel_head(body, reduction)}
  const {index} o = get_global_id(0), chunk = get_global_id(1);
  const {index} begin = chunk * {each};
  const {index} finish = begin + {each} < {extent} ? begin + {each} : {extent};
  {take_kept}
  {real} total[{lanes}];
  for (int e = 0; e < {lanes}; e++) total[e] = {reduction.initial()};
  for ({index} t = {turn[0]}; t < {turn[1]}; t++) {{
    {take_turn}
{_offsets(body, space, names, index, inner)}
    for ({index} block = {start}; block < {end}; block += {_BLOCK * lanes}) {{
      const {index} stop = block + {_BLOCK * lanes} < {end} ? block + {_BLOCK * lanes} : {end};
      {real} sum[{lanes}];
      for (int e = 0; e < {lanes}; e++) sum[e] = {reduction.initial()};
      {index} k0 = block;
      for (; k0 + {lanes} <= stop; k0 += {lanes})
        for (int e = 0; e < {lanes}; e++) {{
          const {index} k = k0 + e;
{_element(body, space, inner, "k")}          sum[e] = {combine("sum[e]", reduction.variable)};
        }}
      for ({index} k = k0; k < stop; k++) {{
{_element(body, space, inner, "k")}        sum[0] = {combine("sum[0]", reduction.variable)};
      }}
      for (int e = 0; e < {lanes}; e++) total[e] = {combine("total[e]", "sum[e]")};
    }}
  }}
{fold}
  out[chunk * {outputs} + o] = total[0];
}}
"""
    size = (max(outputs, 1), chunks)
    arguments = (*(n for n, _ in body.arguments), "out")
    flops = math.prod(body.shape) * (1 + len(body.statements))
    return _finish("reduce_rows", code, arguments, size, (1, 1), flops)
