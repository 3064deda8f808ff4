"""The steps of a schedule: what becomes one kernel, or a primitive's own kernels."""

from __future__ import annotations

from dataclasses import dataclass

from accelkit.graph import Node, Value
from accelkit_opencl.kernels.fused import Body
from accelkit_opencl.kernels.reductions import Reduction

__all__ = ["ElementwiseStep", "NodeStep", "ReductionStep", "Step"]


@dataclass(eq=False)
class ElementwiseStep:
    """One fused kernel: ``values`` maps the body's arguments to graph values."""

    body: Body
    values: dict[str, Value]
    identity: frozenset[str]  # arguments read at the element's own place only


@dataclass(eq=False)
class ReductionStep:
    """A reduction of a fused expression into ``out``."""

    body: Body
    values: dict[str, Value]
    reduction: Reduction
    out: Value


@dataclass(eq=False)
class NodeStep:
    """A primitive with kernels of its own, on dense operands."""

    node: Node
    operands: tuple[Value, ...]


Step = ElementwiseStep | ReductionStep | NodeStep
