"""Reductions of fused expressions.

The expression is a :class:`~accelkit_opencl.kernels.fused.Body`. Long sums run in interleaved
lanes and in blocks, whose results are added afterwards: the order is fixed, the bits are the
same every time, and rounding errors grow with the block's length only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from accelkit.dtypes import DType
from accelkit_opencl.expressions import literal
from accelkit_opencl.kernels.fused import (
    LANES,
    Body,
    Read,
    Space,
    collapse,
    decompose,
    element_code,
    element_lines,
    finish,
    index_type,
    offsets,
    parameters,
)
from accelkit_opencl.kernels.loops import vector_hint
from accelkit_opencl.kernels.source import KernelSource, ceil_div, ctype
from accelkit_opencl.views import View

__all__ = [
    "Reduction",
    "Terms",
    "accumulate",
    "clear",
    "fold",
    "lane_count",
    "partial_name",
    "reduction_kernels",
]

_BLOCK = 512  # terms of one partial sum
_STRIP = 1024  # columns of one work-item: long runs of memory, sums in the first-level cache


@dataclass(frozen=True)
class Reduction:
    """How elements are combined.

    Attributes:
        name: The primitive's.
        variable: What is reduced.
        dtype: Of the elements and of the result.
        axes: Of the operand, over which it is reduced.
        heeds_nan: Whether an extremum is NaN if an element is; otherwise it may pass it over.
    """

    name: str
    variable: str
    dtype: DType
    axes: tuple[int, ...]
    heeds_nan: bool = True

    @property
    def is_float_extremum(self) -> bool:
        """Whether NaN needs care."""
        return self.name in ("reduce_max", "reduce_min") and self.dtype.kind == "f"

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
        if self.dtype.kind == "f" and self.heeds_nan:
            return f"((({b} {operator} {a}) | ({b} != {b})) ? {b} : {a})"
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
    space = collapse(body, reduced)
    if space.reduced and not space.reduced[-1]:
        emit, chunks = _columns, _column_chunks(space, compute_units)
    else:
        emit, chunks = _rows, _row_chunks(space, compute_units)
    first = emit(body, reduction, space, chunks)
    if chunks == 1:
        return [first], 0
    outputs = math.prod(n for n, r in zip(space.extents, space.reduced, strict=True) if not r)
    scratch = View(None, (chunks, outputs), reduction.dtype, (outputs, 1))
    again = Body(
        (chunks, outputs),
        (Read("x", scratch, "partials"),),
        (),
        (),
        (("partials", reduction.dtype),),
    )
    last = Reduction(reduction.name, "x", reduction.dtype, (0,))
    merged = collapse(again, [True, False])
    emit = _columns if merged.reduced and not merged.reduced[-1] else _rows
    return [first, emit(again, last, merged, 1)], chunks * outputs


def _split(space: Space) -> tuple[list[int], list[int]]:
    """Positions of kept and of reduced axes."""
    kept = [i for i, r in enumerate(space.reduced) if not r]
    return kept, [i for i, r in enumerate(space.reduced) if r]


def _column_chunks(space: Space, compute_units: int) -> int:
    kept, reduced = _split(space)
    length = math.prod(space.extents[i] for i in reduced)
    outputs = math.prod(space.extents[i] for i in kept[:-1]) * ceil_div(space.extents[-1], _STRIP)
    return max(1, min(ceil_div(4 * compute_units, max(outputs, 1)), length // 64))


def _row_chunks(space: Space, compute_units: int) -> int:
    kept, reduced = _split(space)
    length = math.prod(space.extents[i] for i in reduced)
    outputs = math.prod(space.extents[i] for i in kept)
    return max(1, min(ceil_div(4 * compute_units, max(outputs, 1)), length // 4096))


def _kernel_head(body: Body, reduction: Reduction) -> str:
    arguments = parameters(body)
    out = f"__global {ctype(reduction.dtype.name)}* restrict out"
    return f"__kernel void KERNEL({', '.join(part for part in (arguments, out) if part)}) {{\n"


def _columns(body: Body, reduction: Reduction, space: Space, chunks: int) -> KernelSource:
    """The last axis is kept: a work-item sums rows into a strip of columns."""
    kept, reduced = _split(space)
    index, real = index_type(body), ctype(reduction.dtype.name)
    length = math.prod(space.extents[i] for i in reduced)
    columns, outer = space.extents[-1], [space.extents[i] for i in kept[:-1]]
    strip = min(columns, _STRIP)
    strips = ceil_div(columns, strip)
    each = ceil_div(length, chunks)
    names = [f"i{axis}" for axis in range(len(space.extents))]
    take_outer = decompose([names[i] for i in kept[:-1]], outer, "o", index)
    take_reduced = decompose(
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
{offsets(body, space, names, index, inner)}
      for ({index} k = start; k < end; k++) {{
{element_code(body, space, inner, "k")}        sum[k - start] = {combined};
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
    return finish("reduce_columns", code, arguments, size, (1, 1, 1), flops)


def _rows(body: Body, reduction: Reduction, space: Space, chunks: int) -> KernelSource:
    """The last axis is reduced, in interleaved lanes that are combined in a fixed order."""
    kept, reduced = _split(space)
    index = index_type(body)
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
    take_kept = decompose([names[i] for i in kept], [space.extents[i] for i in kept], "o", index)
    take_turn = decompose(
        [names[i] for i in reduced[:-1]], [space.extents[i] for i in reduced[:-1]], "t", index
    )
    lanes, lines = lane_count(length), element_lines(body, space, inner, "k")
    strided = any(strides[-1] not in (0, 1) for strides in space.strides.values() if strides)
    start, end = ("begin", "finish") if cut_inner and chunks > 1 else ("0", str(length))
    most = min(each, length) if cut_inner else length * _BLOCK * lanes  # or many times
    terms = Terms(lines, (start, end), lanes, index, strided, most)
    turn = ("0", "1") if cut_inner else ("begin", "finish")
    extent = length if cut_inner else turns
    code = f"""{_kernel_head(body, reduction)}
  const {index} o = get_global_id(0), chunk = get_global_id(1);
  const {index} begin = chunk * {each};
  const {index} finish = begin + {each} < {extent} ? begin + {each} : {extent};
  {take_kept}
{clear(reduction, "total", lanes)}  for ({index} t = {turn[0]}; t < {turn[1]}; t++) {{
    {take_turn}
{offsets(body, space, names, index, inner)}
{accumulate([reduction], terms)}  }}
{fold(reduction, lanes)}
  out[chunk * {outputs} + o] = total[0];
}}
"""
    size = (max(outputs, 1), chunks)
    arguments = (*(n for n, _ in body.arguments), "out")
    flops = math.prod(body.shape) * (1 + len(body.statements))
    return finish("reduce_rows", code, arguments, size, (1, 1), flops)


def lane_count(length: int) -> int:
    """Partial results of a row of this length: each adds up a separate chain.

    There are several vectors of them, because an addition to the same one has to wait for the
    one before.
    """
    return next((lanes for lanes in (4 * LANES, LANES) if length >= lanes), 1)


def partial_name(name: str, number: int) -> str:
    """Of the array of partial results of one of several reductions in a loop."""
    return f"{name}{number}" if number else name


@dataclass(frozen=True)
class Terms:
    """The elements ``k`` that a loop combines.

    Attributes:
        lines: Declarations of one element's variables.
        bounds: Names of the first ``k`` and of the one after the last.
        lanes: Of :func:`lane_count`.
        index: Type of ``k``.
        strided: Whether memory is read other than in order.
        most: Elements between the bounds at most.
    """

    lines: Sequence[str]
    bounds: tuple[str, str]
    lanes: int
    index: str
    strided: bool
    most: int


def accumulate(reductions: Sequence[Reduction], terms: Terms, beside: str = "") -> str:
    """Add elements to ``total[lanes]``, by way of partial results.

    The elements of a single block need none: they are added to what ``total`` holds, which must
    be the neutral element then.

    Args:
        reductions: How; the second one's array is ``total1``, and so on.
        terms: What.
        beside: Code for each so many elements, from ``k0`` on.
    """
    lanes = terms.lanes
    if lanes < LANES or not all(reduction.is_float_extremum for reduction in reductions):
        return _blocks(reductions, terms, beside)
    # A comparison that finds NaN costs as much as three that pass it over. A sum is NaN if a term
    # is; it may be so without, of two infinities, and then the loops run again for nothing.
    doubts = [replace(r, name="reduce_sum") for r in reductions]
    names = [partial_name("total", len(reductions) + i) for i in range(len(doubts))]
    quick = [*(replace(r, heeds_nan=False) for r in reductions), *doubts]
    cleared = "".join(clear(r, name, lanes) for r, name in zip(doubts, names, strict=True))
    folded = "\n".join(fold(r, lanes, name) for r, name in zip(doubts, names, strict=True))
    unsure = " || ".join(f"{name}[0] != {name}[0]" for name in names)
    again = "".join(_reset(r, partial_name("total", i), lanes) for i, r in enumerate(reductions))
    return f"""{cleared}{_blocks(quick, terms, beside)}{folded}
  if ({unsure}) {{
{again}{_blocks(reductions, terms)}  }}
"""


def _blocks(reductions: Sequence[Reduction], terms: Terms, beside: str = "") -> str:
    """The loops of :func:`accumulate`: blocks of a sum are added up apart."""
    (start, end), lanes, index = terms.bounds, terms.lanes, terms.index
    step = _BLOCK * lanes
    if lanes >= LANES and not terms.strided:
        beside += vector_hint(terms.lines, lanes)
    if terms.most <= step:
        return _lane_loops(reductions, terms, "total", beside)
    cleared = merged = ""
    for number, reduction in enumerate(reductions):
        part, whole = partial_name("sum", number), partial_name("total", number)
        cleared += clear(reduction, part, lanes)
        merged += f"""{_side_by_side(reduction, lanes)}      for (int e = 0; e < {lanes}; e++)
        {whole}[e] = {reduction.combine(f"{whole}[e]", f"{part}[e]")};
"""
    return f"""    for ({index} block = {start}; block < {end}; block += {step}) {{
      const {index} stop = block + {step} < {end} ? block + {step} : {end};
{cleared}
{_lane_loops(reductions, replace(terms, bounds=("block", "stop")), "sum", beside)}
{merged}    }}
"""


def _lane_loops(reductions: Sequence[Reduction], terms: Terms, name: str, before: str) -> str:
    """Combine elements with the lanes of arrays, so many at a time and then the rest."""
    (start, end), lanes, index = terms.bounds, terms.lanes, terms.index
    combined = []
    for number, reduction in enumerate(reductions):
        lane = f"{partial_name(name, number)}[e]"
        combined.append(f"{lane} = {reduction.combine(lane, reduction.variable)};")
    element = "\n".join((*terms.lines, *combined))
    return f"""      {index} k0 = {start};
      for (; k0 + {lanes} <= {end}; k0 += {lanes}) {{
{before}        for (int e = 0; e < {lanes}; e++) {{
          const {index} k = k0 + e;
{element}
        }}
      }}
      for (int e = 0; e < {end} - k0; e++) {{
        const {index} k = k0 + e;
{element}
      }}
"""


def clear(reduction: Reduction, name: str, lanes: int) -> str:
    """Declare an array of partial results, all neutral."""
    declared = f"  {ctype(reduction.dtype.name)} {name}[{lanes}];\n"
    return declared + _reset(reduction, name, lanes)


def _reset(reduction: Reduction, name: str, lanes: int) -> str:
    return f"""{_side_by_side(reduction, lanes)}  for (int e = 0; e < {lanes}; e++)
    {name}[e] = {reduction.initial()};
"""


def fold(reduction: Reduction, lanes: int, name: str = "total") -> str:
    """Combine an array of partial results into its first element, in a fixed order."""
    halves = [1 << bit for bit in reversed(range(lanes.bit_length() - 1))]
    return "\n".join(
        f"{_side_by_side(reduction, half)}  for (int e = 0; e < {half}; e++) "
        f"{name}[e] = {reduction.combine(f'{name}[e]', f'{name}[e + {half}]')};"
        for half in halves
    )


def _side_by_side(reduction: Reduction, count: int) -> str:
    """The hint for a loop over partial results: a loop that stays one keeps them in memory."""
    element = f"const {ctype(reduction.dtype.name)} x = total[e];"
    return vector_hint([element], count) if count > 1 else ""
