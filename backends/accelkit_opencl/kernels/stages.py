"""Stages of row-wise kernels: see :mod:`~accelkit_opencl.kernels.rowwise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accelkit.graph import Value
from accelkit_opencl.kernels.fused import Body, Read, Statement
from accelkit_opencl.kernels.reductions import Reduction

__all__ = ["Stage", "is_strided", "one_column", "operands", "spreads"]


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


def spreads(stage: Stage) -> bool:
    """Whether it computes something for each element of the row."""
    return stage.whole and stage.reduction is None


def is_strided(stage: Stage) -> bool:
    """Whether it reads memory other than in order."""
    return any(column not in (0, 1) for _, column in stage.steps.values())


def _label(stage: Stage, test: Statement | None) -> Read | None:
    """The row's label that a statement compares with the number of the column, or None."""
    reads = {read.name: read for read in stage.body.reads}
    if test is None or test.primitive != "equal" or not reads.keys() >= set(test.operands):
        return None
    a, b = (reads[operand] for operand in test.operands)
    pairs = ((a, b), (b, a))
    return next((x for x, y in pairs if _is_label(stage, x) and _is_number(stage, y)), None)


def _is_label(stage: Stage, read: Read) -> bool:
    """Whether it is an integer of the row."""
    in_row = read.argument is not None and stage.steps[read.name][1] == 0
    return in_row and read.view.dtype.kind in "iu"


def _is_number(stage: Stage, read: Read) -> bool:
    """Whether it is the number of the column."""
    counts = read.argument is None and read.view.constant is None
    return counts and stage.steps[read.name] == (0, 1) and read.view.offset == 0


def one_column(stage: Stage) -> Read | None:
    """The number of the only column whose term is not zero, as in the loss of a label.

    Such sums are of ``label == column ? term : 0``, which is what a graph says for want of a
    primitive that reads one element of each row.
    """
    reduction = stage.reduction
    if reduction is None or reduction.name != "reduce_sum" or reduction.dtype.kind != "f":
        return None
    made = {statement.name: statement for statement in stage.body.statements}
    term = made.get(reduction.variable)
    if term is None or term.primitive != "select":
        return None
    zeros = {read.name for read in stage.body.reads if read.view.constant == 0}
    condition, _, other = term.operands
    return _label(stage, made.get(condition)) if other in zeros else None


def operands(stage: Stage) -> set[Value]:
    """The values that a stage reads."""
    reads = (read.argument for read in stage.body.reads)
    return {stage.values[argument] for argument in reads if argument is not None}
