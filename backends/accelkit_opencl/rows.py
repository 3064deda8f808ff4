"""Fusing steps that work on the same rows: see :mod:`accelkit_opencl.kernels.rowwise`.

Steps that follow each other are fused if each is a reduction of the last axis, an elementwise
kernel of the same shape, or an elementwise kernel of one element per row, and reads of what the
others compute only what belongs to its own row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from accelkit.graph import Value
from accelkit_opencl.kernels.fused import Body, collapse
from accelkit_opencl.kernels.reductions import Reduction
from accelkit_opencl.kernels.stages import Stage
from accelkit_opencl.steps import ElementwiseStep, ReductionStep

__all__ = ["RowStep", "fuse_rows"]

_MOST_COLUMN_BYTES = 65536  # of one array's row: a few of them stay in a second-level cache
_MOST_ARGUMENTS = 24  # of one kernel


@dataclass(eq=False)
class RowStep:
    """Stages over the rows of one matrix.

    Attributes:
        stages: In order.
        rows, columns: Extents.
        reads: Values from elsewhere.
        wanted: Results that are read by later steps or are outputs.
    """

    stages: list[Stage]
    rows: int
    columns: int
    reads: list[Value]
    wanted: list[Value]


def fuse_rows(
    steps: Sequence[Any], outputs: Iterable[Value], reads_of: Callable[[Any], Iterable[Value]]
) -> list[Any]:
    """The steps with runs of row-wise ones joined.

    Args:
        steps: In order, of any kind.
        outputs: Values that the program returns: they are stored.
        reads_of: The values that a step reads.
    """
    readers: dict[Value, set[int]] = {}
    for step in steps:
        for value in reads_of(step):
            readers.setdefault(value, set()).add(id(step))
    kept = set(outputs)
    found: list[Any] = []
    group = _Group()
    for step in [*steps, None]:
        if step is not None and group.add(step):
            continue
        members = {id(member) for member in group.steps}
        wanted = [v for v in group.written if v in kept or readers.get(v, set()) - members]
        found += group.fused(wanted)
        group = _Group()
        if step is not None and not group.add(step):
            found.append(step)
    return found


class _Group:
    """Steps over the same rows, as far as they are known."""

    def __init__(self) -> None:
        self.steps: list[ElementwiseStep | ReductionStep] = []
        self.written: dict[Value, bool] = {}  # whether it spreads over the columns
        self._stages: list[Stage] = []
        self._shape: tuple[int, ...] = ()
        self._reads: dict[Value, None] = {}

    def add(self, step: Any) -> bool:
        """Take the step in if it belongs to the rows; returns whether it does."""
        if not isinstance(step, ElementwiseStep | ReductionStep) or step.body.target is not None:
            return False
        shape = step.body.shape
        if not self.steps:
            if len(shape) < 2 or math.prod(shape) == 0:
                return False
            self._shape = shape
        stage = self._stage(step)
        if stage is None:
            return False
        own = dict.fromkeys(value for _, value in stage.results)  # in order, as plans must be
        reads = [v for v in step.values.values() if v not in own and v not in self.written]
        inside = any(v in self.written for v in step.values.values())
        if self.steps and not inside and not any(v in self._reads for v in reads):
            return False  # it has nothing to do with the others
        arguments = {*self._reads, *reads, *self.written, *own}
        if len(arguments) > _MOST_ARGUMENTS:
            return False
        self.steps.append(step)
        self._stages.append(stage)
        self._reads.update(dict.fromkeys(reads))
        self.written.update(dict.fromkeys(own, stage.whole and stage.reduction is None))
        return True

    def fused(self, wanted: list[Value]) -> list[Any]:
        """One step if that saves passes over the matrix, else the steps as they were."""
        whole = sum(stage.whole for stage in self._stages)
        if whole < 2 or not any(stage.reduction for stage in self._stages):
            return list(self.steps)
        rows = math.prod(self._shape[:-1])
        return [RowStep(self._stages, rows, self._shape[-1], list(self._reads), wanted)]

    def _stage(self, step: ElementwiseStep | ReductionStep) -> Stage | None:
        body = step.body
        if isinstance(step, ReductionStep):
            if body.shape != self._shape or step.reduction.axes != (len(body.shape) - 1,):
                return None
            results: tuple[tuple[str, Value], ...] = ((step.reduction.variable, step.out),)
            reduction: Reduction | None = step.reduction
        else:
            results = tuple((variable, step.values[name]) for variable, name in body.outputs)
            reduction = None
        whole = body.shape == self._shape
        steps = self._steps(body, whole)
        if steps is None or not self._is_own_row(step, steps, whole):
            return None
        return Stage(body, step.values, steps, results, reduction, whole)

    def _steps(self, body: Body, whole: bool) -> dict[str, tuple[int, int]] | None:
        """Strides of every read per row and column; None if rows are not evenly spaced."""
        *lead, columns = self._shape
        rows = math.prod(lead)
        widest = max((r.view.dtype.itemsize for r in body.reads), default=1)
        if columns * widest > _MOST_COLUMN_BYTES or (not whole and math.prod(body.shape) != rows):
            return None
        axes = len(body.shape)
        space = collapse(body, [False] * (axes - 1) + [True] if whole else [False] * axes)
        if space.extents != ((rows, columns) if whole else (rows,)):
            return None
        return {
            read.name: (space.strides[read.name][0], space.strides[read.name][1] if whole else 0)
            for read in body.reads
        }

    def _is_own_row(
        self,
        step: ElementwiseStep | ReductionStep,
        steps: dict[str, tuple[int, int]],
        whole: bool,
    ) -> bool:
        """Whether all reads of the group's results stay in the row."""
        for read in step.body.reads:
            value = step.values[read.argument] if read.argument is not None else None
            if value is None or value not in self.written:
                continue
            if read.view.draw is not None:
                return False  # its key is not of this row
            spread = self.written[value]
            expected = (self._shape[-1], 1) if spread else (1, 0)
            if read.view.offset or steps[read.name] != expected or (spread and not whole):
                return False
        return True
