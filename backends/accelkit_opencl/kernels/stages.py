"""Stages of row-wise kernels: see :mod:`~accelkit_opencl.kernels.rowwise`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from accelkit.graph import Value
from accelkit_opencl.kernels.fused import Body, Read
from accelkit_opencl.kernels.reductions import Reduction

__all__ = ["Stage", "is_strided", "one_column", "operands", "spreads"]

_EQUAL = re.compile(r"\((x\d+) == (x\d+)\)")
_CHOICE = re.compile(r"\((v\d+) \? \w+ : (x\d+)\)")


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


def one_column(stage: Stage) -> Read | None:
    """The number of the only column whose term is not zero, as in the loss of a label.

    Such sums are of ``label == column ? term : 0``, which is what a graph says for want of a
    primitive that reads one element of each row.
    """
    reduction, reads = stage.reduction, {read.name: read for read in stage.body.reads}
    if reduction is None or reduction.name != "reduce_sum" or reduction.dtype.kind != "f":
        return None
    code = {s.name: s.expression for s in stage.body.statements}
    choice = _CHOICE.fullmatch(code.get(reduction.variable, ""))
    if choice is None or reads[choice[2]].view.constant != 0:
        return None
    equal = _EQUAL.fullmatch(code.get(choice[1], ""))
    for label, column in (equal.groups(), equal.groups()[::-1]) if equal else ():
        number = reads[column]
        is_column = number.argument is None and number.view.constant is None
        if is_column and stage.steps[column] == (0, 1) and number.view.offset == 0:
            found = reads[label]
            is_label = found.argument is not None and stage.steps[label][1] == 0
            return found if is_label and found.view.dtype.kind in "iu" else None
    return None


def operands(stage: Stage) -> set[Value]:
    """The values that a stage reads."""
    reads = (read.argument for read in stage.body.reads)
    return {stage.values[argument] for argument in reads if argument is not None}
