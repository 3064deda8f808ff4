"""What says when things are computed, not what."""

from __future__ import annotations

from typing import Any

from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import no_flops, primitive


def _barrier_infer(*operands: TensorSpec) -> tuple[TensorSpec, ...]:
    return operands


def _barrier_definition(*operands: Any) -> tuple[Any, ...]:
    return operands


barrier = primitive(
    "barrier",
    _barrier_infer,
    vjp=lambda g, y, *operands: g,
    definition=_barrier_definition,
    flops=no_flops,
    multiple_outputs=True,
    doc="""Its operands as they are, once all of them are known.

    A compiler must not look through it: what is computed from its results is neither merged with
    what is computed from its operands, nor begun before the last of them is there. Backends that
    run nodes in the order of the graph and merge none have no need of it: its definition is
    nothing at all.""",
)
