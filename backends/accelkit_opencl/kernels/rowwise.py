"""Normalisations in one kernel: reductions of rows and what is computed from them.

A softmax, a layer norm or a cross-entropy reads its rows several times: for the maximum, for the
sum, for the result. One work-item takes a row through all *stages* while it lies in the cache, so
that memory sees it once. Values of a whole row that only later stages want stay in a scratch row
of the work-item. Reductions that do not need each other share a loop, with the stage that computes
what they reduce. The loop with most to compute asks for a row to come meanwhile, a little at a
time: memory answers only so many requests together, and not at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from accelkit.graph import Value
from accelkit_opencl.expressions import literal
from accelkit_opencl.kernels.fused import LANES, Read, element_at, finish, index_type
from accelkit_opencl.kernels.loops import FETCH, Run, element_loop, needs_blocks
from accelkit_opencl.kernels.philox import drawn_run
from accelkit_opencl.kernels.reductions import (
    Terms,
    accumulate,
    clear,
    fold,
    lane_count,
    partial_name,
)
from accelkit_opencl.kernels.source import KernelSource, ceil_div, ctype, round_up
from accelkit_opencl.kernels.stages import Stage, is_strided, one_column, operands, spreads

__all__ = ["rowwise_kernel"]

_ITEM_ELEMENTS = 16384  # of one work-item at least: long beside the cost of starting it
_ITEMS = 16  # per compute unit at most
_LINE_BYTES = 64  # of a cache
_AHEAD_BYTES = 8192  # from a row that is computed to one that memory is asked for, at least
_ROW_TO_COME = "/* ask for a row to come */\n"  # stands for that until all arguments are known
_OWN = re.compile(r"\b([vx]\d+)\b")  # a variable of a body


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
        self._ahead = ""  # what the next loop asks memory for

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
{work}  }}
}}
"""
        flops = self._rows * self._columns * sum(1 + len(s.body.statements) for s in self._stages)
        size = (ceil_div(self._rows, each),)
        source = finish("rowwise", code, tuple(names), size, (1,), flops)
        return source, tuple(self._arguments), self._row_bytes * size[0]

    def _fetches(self, columns: tuple[str, str]) -> str:
        """Ask for a row to come while this one is computed: processors look ahead within a page."""
        dense = {
            stage.values[read.argument]: None
            for stage in self._stages
            for read in stage.body.reads
            if read.argument is not None and read.view.draw is None
            if stage.steps[read.name] == (self._columns, 1)
        }
        code = ""
        for value in dense:
            if value in self._arguments and value not in self._written:
                itemsize = value.spec.dtype.itemsize
                rows = ceil_div(_AHEAD_BYTES, self._columns * itemsize)
                code += (
                    f"    for ({self._index} k = {columns[0]}; k < {columns[1]}; "
                    f"k += {_LINE_BYTES // itemsize}) "
                    f"FETCH({self._arguments[value]} + (row + {rows}) * {self._columns} + k);\n"
                )
        return code

    def _argument(self, value: Value) -> str:
        return self._arguments.setdefault(value, f"a{len(self._arguments)}")

    def _work(self) -> str:
        """The code of all stages; reductions share a loop, which computes what they reduce."""
        groups: list[Sequence[Stage]] = []
        first = 0
        while first < len(self._stages):
            stop = max(self._shared(first), first + 1)
            groups.append(self._stages[first:stop])
            first = stop
        longest = max(groups, key=self._busyness)
        code, done = "", 0
        for group in groups:
            done += len(group)
            self._ahead = _ROW_TO_COME if group is longest else ""
            code += (
                self._joined(group, self._stages[done:])
                if len(group) > 1
                else self._stage(group[0])
            )
        lanes = lane_count(self._columns)
        if _ROW_TO_COME in code:
            return code.replace(_ROW_TO_COME, self._fetches(("k0", f"k0 + {lanes}")))
        return self._fetches(("0", str(self._columns))) + code

    def _busyness(self, group: Sequence[Stage]) -> int:
        """Statements of a loop that can ask for memory as it goes, 0 for others."""
        reduces = any(stage.reduction and not one_column(stage) for stage in group)
        if not reduces or lane_count(self._columns) == 1:
            return 0
        return 1 + sum(len(stage.body.statements) for stage in group)

    def _shared(self, first: int) -> int:
        """The end of the stages from ``first`` on that share a loop.

        They are reductions that do not read each other's results, and before them one stage that
        spreads over the row and computes what the next one reduces.
        """
        stop, stage = first, self._stages[first]
        made: set[Value] = set()
        if lane_count(self._columns) == 1:
            return first
        if spreads(stage) and first + 1 < len(self._stages):
            made = {value for _, value in stage.results}
            if not (self._is_shareable(stage) and made & operands(self._stages[first + 1])):
                return first
            stop += 1
        reduced: set[Value] = set()
        for stage in self._stages[stop:]:
            apart = stage.reduction is None or not self._is_shareable(stage)
            if apart or operands(stage) & reduced:
                break
            if stop > first and not operands(stage) & (made | self._read_by(first, stop)):
                break  # nothing in common
            reduced |= {value for _, value in stage.results}
            stop += 1
        in_loop = [s for s in self._stages[first:stop] if s.reduction and not one_column(s)]
        return stop if in_loop else first

    def _read_by(self, first: int, stop: int) -> set[Value]:
        return set().union(*map(operands, self._stages[first:stop]))

    def _is_shareable(self, stage: Stage) -> bool:
        lines = [s.expression for s in stage.body.statements]
        drawn = any(read.view.draw for read in stage.body.reads)
        return not (is_strided(stage) or needs_blocks(lines) or drawn)

    def _joined(self, stages: Sequence[Stage], rest: Sequence[Stage]) -> str:
        """One loop; what nothing later reads is never stored."""
        later = self._wanted.union(*map(operands, rest))
        lines: list[str] = []
        spread: list[str] = []  # without what is stored
        reductions: list[Stage] = []
        places: dict[Value, str] = {}
        picked = ""
        for number, stage in enumerate(stages):
            own = [_OWN.sub(rf"\1_{number}", line) for line in self._lines(stage)]
            if stage.reduction is None:
                lines, spread = list(own), own
                places = {v: self._place(v) for _, v in stage.results if v in later}
                for variable, value in stage.results:
                    self._inside[value] = f"{variable}_{number}"
                    if value in places:
                        lines.append(f"{places[value]} = {variable}_{number};")
                continue
            variable = f"{stage.reduction.variable}_{number}"
            renamed = replace(stage, reduction=replace(stage.reduction, variable=variable))
            label = one_column(stage)
            if label is not None:
                picked += self._picked(renamed, label, [*spread, *own])
            else:
                lines += own
                reductions.append(renamed)
        code = self._reduced(reductions, lines)
        self._inside.update(places)
        return code + picked

    def _picked(self, stage: Stage, label: Read, lines: list[str]) -> str:
        """A sum of which all terms are zero but that of the column ``label``."""
        assert stage.reduction is not None
        ((_, value),) = stage.results
        kind, name = ctype(label.view.dtype.name), self._scalar(value)
        code = "\n".join(lines)
        return f"""{ctype(value.spec.dtype.name)} {name} = {stage.reduction.initial()};
{{
  const {kind} label = {self._expression(stage, label)};
  if (label >= 0 && label < {self._columns}) {{
    const {self._index} k = label;
{code}
    {name} = {name} + {stage.reduction.variable};
  }}
}}
{self._keep(value, name)}"""

    def _lines(self, stage: Stage) -> list[str]:
        lines = [self._read(stage, read) for read in stage.body.reads]
        return lines + [
            f"const {ctype(s.dtype.name)} {s.name} = {s.expression};" for s in stage.body.statements
        ]

    def _stage(self, stage: Stage) -> str:
        lines = self._lines(stage)
        label = one_column(stage)
        if label is not None:
            return self._picked(stage, label, lines)
        if stage.reduction is not None:
            return self._reduced([stage], lines)
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

    def _reduced(self, stages: Sequence[Stage], lines: list[str]) -> str:
        """One loop of reductions."""
        reductions = [stage.reduction for stage in stages if stage.reduction is not None]
        lanes = lane_count(self._columns)
        declared = cleared = folded = kept = ""
        for number, (stage, reduction) in enumerate(zip(stages, reductions, strict=True)):
            ((_, value),) = stage.results
            name, total = self._scalar(value), partial_name("total", number)
            declared += f"{ctype(reduction.dtype.name)} {name};\n"
            cleared += clear(reduction, total, lanes)
            folded += f"{fold(reduction, lanes, total)}\n  {name} = {total}[0];\n"
            kept += self._keep(value, name)
        bounds, strided = ("0", str(self._columns)), any(map(is_strided, stages))
        terms = Terms(lines, bounds, lanes, self._index, strided, self._columns)
        loops = accumulate(reductions, terms, self._ahead if lanes > 1 else "")
        return f"{declared}{{\n{cleared}{loops}{folded}}}\n{kept}"

    def _spread(self, stage: Stage, lines: list[str]) -> str:
        places = {value: self._place(value) for _, value in stage.results}
        stores = "".join(f"{places[value]} = {variable};\n" for variable, value in stage.results)
        self._inside.update(places)
        strided = is_strided(stage) or self._columns < 4 * LANES
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
        return f"const {kind} {read.name} = {self._expression(stage, read)};"

    def _expression(self, stage: Stage, read: Read) -> str:
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
