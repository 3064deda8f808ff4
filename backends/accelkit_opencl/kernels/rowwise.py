"""Normalisations in one kernel: reductions of rows and what is computed from them.

A softmax, a layer norm or a cross-entropy reads its rows several times: for the maximum, for the
sum, for the result. One work-item takes a row through all *stages* while it lies in the cache, so
that memory sees it once. Values of a whole row that only later stages want stay in a scratch row
of the work-item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from accelkit.graph import Value
from accelkit_opencl.expressions import literal
from accelkit_opencl.kernels.fused import LANES, Body, Read, element_at, finish, index_type
from accelkit_opencl.kernels.loops import FETCH, Run, element_loop, needs_blocks
from accelkit_opencl.kernels.philox import drawn_run
from accelkit_opencl.kernels.reductions import Reduction, accumulate, clear, fold, lane_count
from accelkit_opencl.kernels.source import KernelSource, ceil_div, ctype, round_up

__all__ = ["Stage", "rowwise_kernel"]

_ITEM_ELEMENTS = 16384  # of one work-item at least: long beside the cost of starting it
_ITEMS = 16  # per compute unit at most
_LINE_BYTES = 64  # of a cache
_OWN = re.compile(r"\b([vx]\d+)\b")  # a variable of a body


@dataclass(frozen=True)
class Stage:
    """One pass over a row.

    Attributes:
        body: What it computes per element, or per row if ``steps`` has no column step.
        values: Of the body's arguments.
        steps: For each read the strides per row and per column.
        results: (variable, value) pairs; of a reduction what is reduced, and its result.
        reduction: Of the row, or None.
        whole: Whether the body runs over the row's elements; otherwise once per row.
    """

    body: Body
    values: Mapping[str, Value]
    steps: Mapping[str, tuple[int, int]]
    results: tuple[tuple[str, Value], ...]
    reduction: Reduction | None
    whole: bool


def rowwise_kernel(
    stages: Sequence[Stage], rows: int, columns: int, wanted: Sequence[Value], *, compute_units: int
) -> tuple[KernelSource, tuple[Value, ...], int]:
    """One kernel of all stages.

    Args:
        stages: In order.
        rows, columns: Extents.
        wanted: Results that are needed afterwards.
        compute_units: Of the device.

    Returns:
        The kernel; the values of its arguments, but for the last one, which is scratch memory;
        the bytes of that, 0 for none and no such argument.
    """
    return _Writer(stages, rows, columns, wanted, compute_units).kernel()


class _Writer:
    def __init__(
        self,
        stages: Sequence[Stage],
        rows: int,
        columns: int,
        wanted: Sequence[Value],
        compute_units: int,
    ) -> None:
        self._stages, self._rows, self._columns = stages, rows, columns
        self._wanted = set(wanted)
        self._items = max(
            1, min(rows, ceil_div(rows * columns, _ITEM_ELEMENTS), _ITEMS * compute_units)
        )
        types = {index_type(stage.body) for stage in stages}
        self._index = "long" if "long" in types else "int"
        self._inside: dict[Value, str] = {}  # an element of what earlier stages computed
        self._arguments: dict[Value, str] = {}
        self._written = {v for stage in stages for _, v in stage.results if v in self._wanted}
        self._scratch: dict[Value, tuple[str, int]] = {}  # names, offsets in bytes
        self._row_bytes = self._scalars = 0

    def kernel(self) -> tuple[KernelSource, tuple[Value, ...], int]:
        index, each = self._index, ceil_div(self._rows, self._items)
        work = self._work()
        parts = [
            f"__global {'' if value in self._written else 'const '}"
            f"{ctype(value.spec.dtype.name)}* restrict {name}"
            for value, name in self._arguments.items()
        ]
        names = list(self._arguments.values())
        local = ""
        if self._scratch:
            parts.append("__global uchar* restrict scratch")
            names.append("scratch")
            local = "".join(
                f"  __global {ctype(value.spec.dtype.name)}* const {name} = "
                f"(__global {ctype(value.spec.dtype.name)}*)"
                f"(scratch + item * {self._row_bytes} + {offset});\n"
                for value, (name, offset) in self._scratch.items()
            )
        code = f"""{FETCH}__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL({", ".join(parts)}) {{
  const {index} item = get_global_id(0);
  const {index} bound = (item + 1) * {each};
  const {index} last = bound < {self._rows} ? bound : {self._rows};
{local}  for ({index} row = item * {each}; row < last; row++) {{
{self._fetches()}{work}  }}
}}
"""
        flops = self._rows * self._columns * sum(1 + len(s.body.statements) for s in self._stages)
        size = (ceil_div(self._rows, each),)
        source = finish("rowwise", code, tuple(names), size, (1,), flops)
        return source, tuple(self._arguments), self._row_bytes * size[0]

    def _fetches(self) -> str:
        """Ask for the next row while this one is computed: processors look ahead within a page."""
        dense = {
            stage.values[read.argument]: None
            for stage in self._stages
            for read in stage.body.reads
            if read.argument is not None and read.view.draw is None
            if stage.steps[read.name] == (self._columns, 1)
        }
        return "".join(
            f"    for ({self._index} k = 0; k < {self._columns}; k += "
            f"{_LINE_BYTES // value.spec.dtype.itemsize}) "
            f"FETCH({self._arguments[value]} + (row + 1) * {self._columns} + k);\n"
            for value in dense
            if value in self._arguments and value not in self._written
        )

    def _argument(self, value: Value) -> str:
        return self._arguments.setdefault(value, f"a{len(self._arguments)}")

    def _work(self) -> str:
        """The code of all stages; a reduction joins the loop that computes what it reduces."""
        code, first = "", 0
        while first < len(self._stages):
            stage, *after = self._stages[first:]
            if after and self._joins(stage, after[0]):
                code += self._joined(stage, after[0], after[1:])
                first += 2
            else:
                code += self._stage(stage)
                first += 1
        return code

    def _joins(self, stage: Stage, after: Stage) -> bool:
        lines = [s.expression for s in stage.body.statements]
        return (
            _spreads(stage)
            and after.reduction is not None
            and lane_count(self._columns) > 1
            and not (_is_strided(stage) or _is_strided(after))
            and not needs_blocks(lines)
            and not any(read.view.draw for read in stage.body.reads)
            and bool(_operands(after) & {value for _, value in stage.results})
        )

    def _joined(self, stage: Stage, after: Stage, rest: Sequence[Stage]) -> str:
        """One loop; what nothing later reads is never stored."""
        assert after.reduction is not None
        lines = [_OWN.sub(r"\1_", line) for line in self._lines(stage)]
        later = self._wanted.union(*map(_operands, rest))
        places = {v: self._place(v) for _, v in stage.results if v in later}
        for variable, value in stage.results:
            self._inside[value] = f"{variable}_"
            if value in places:
                lines.append(f"{places[value]} = {variable}_;")
        lines += self._lines(after)
        self._inside.update(places)
        return self._reduced(after, after.reduction, lines)

    def _lines(self, stage: Stage) -> list[str]:
        lines = [self._read(stage, read) for read in stage.body.reads]
        return lines + [
            f"const {ctype(s.dtype.name)} {s.name} = {s.expression};" for s in stage.body.statements
        ]

    def _stage(self, stage: Stage) -> str:
        lines = self._lines(stage)
        if stage.reduction is not None:
            return self._reduced(stage, stage.reduction, lines)
        if stage.whole:
            return self._spread(stage, lines)
        names = [self._scalar(value) for _, value in stage.results]
        declared = "".join(
            f"{ctype(value.spec.dtype.name)} {name};\n"
            for name, (_, value) in zip(names, stage.results, strict=True)
        )
        stores = "".join(
            f"{name} = {variable};\n{self._keep(value, name)}"
            for name, (variable, value) in zip(names, stage.results, strict=True)
        )
        return declared + "{\n" + "\n".join(lines) + "\n" + stores + "}\n"

    def _reduced(self, stage: Stage, reduction: Reduction, lines: list[str]) -> str:
        ((_, value),) = stage.results
        name, real = self._scalar(value), ctype(reduction.dtype.name)
        lanes, strided = lane_count(self._columns), _is_strided(stage)
        terms = accumulate(
            reduction,
            lines,
            ("0", str(self._columns)),
            lanes,
            self._index,
            strided=strided,
            most=self._columns,
        )
        return f"""{real} {name};
{{
{clear(reduction, "total", lanes)}{terms}{fold(reduction, lanes)}
  {name} = total[0];
}}
{self._keep(value, name)}"""

    def _spread(self, stage: Stage, lines: list[str]) -> str:
        places = {value: self._place(value) for _, value in stage.results}
        stores = "".join(f"{places[value]} = {variable};\n" for variable, value in stage.results)
        self._inside.update(places)
        strided = _is_strided(stage) or self._columns < 4 * LANES
        bounds = ("0", str(self._columns))
        runs = self._runs(stage)
        return element_loop(lines, stores, bounds, self._index, strided=strided, runs=runs)

    def _scalar(self, value: Value) -> str:
        name = self._inside[value] = f"r{self._scalars}"
        self._scalars += 1
        return name

    def _keep(self, value: Value, name: str) -> str:
        return f"{self._argument(value)}[row] = {name};\n" if value in self._wanted else ""

    def _place(self, value: Value) -> str:
        """Where an element of a whole row is stored: in a result, or in scratch memory."""
        if value in self._wanted:
            return f"{self._argument(value)}[row * {self._columns} + k]"
        name = f"t{len(self._scratch)}"
        self._scratch[value] = name, self._row_bytes
        self._row_bytes += round_up(self._columns * value.spec.dtype.itemsize, 128)
        return f"{name}[k]"

    def _read(self, stage: Stage, read: Read) -> str:
        kind = ctype(read.view.dtype.name)
        return f"const {kind} {read.name} = {self._expression(stage, read, kind)};"

    def _expression(self, stage: Stage, read: Read, kind: str) -> str:
        if read.view.constant is not None:
            return literal(read.view.constant, read.view.dtype)
        value = stage.values[read.argument] if read.argument is not None else None
        if value in self._inside:
            return self._inside[value]
        argument = None if value is None else self._argument(value)
        column = stage.steps[read.name][1]
        place = [
            *_row_start(stage, read),
            *([f"k * {column}" if column != 1 else "k"] * bool(column)),
        ]
        return element_at(replace(read, argument=argument), " + ".join(place) or "0")

    def _runs(self, stage: Stage) -> list[Run]:
        """The random numbers that are drawn for many columns at a time."""
        return [
            drawn_run(
                read.name,
                read.view.draw,
                read.view.dtype,
                self._argument(stage.values[read.argument]),
                " + ".join(_row_start(stage, read)) or "0",
            )
            for read in stage.body.reads
            if read.view.draw is not None and read.argument is not None
            if stage.steps[read.name][1] == 1
        ]


def _row_start(stage: Stage, read: Read) -> list[str]:
    """Terms of the place where a row begins."""
    row = stage.steps[read.name][0]
    return [str(read.view.offset)] * bool(read.view.offset) + [f"row * {row}"] * bool(row)


def _spreads(stage: Stage) -> bool:
    return stage.whole and stage.reduction is None


def _is_strided(stage: Stage) -> bool:
    return any(column not in (0, 1) for _, column in stage.steps.values())


def _operands(stage: Stage) -> set[Value]:
    """The values that a stage reads."""
    reads = (read.argument for read in stage.body.reads)
    return {stage.values[argument] for argument in reads if argument is not None}
