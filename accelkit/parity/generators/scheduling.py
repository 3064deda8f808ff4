"""Cases of primitives that say when, not what."""

from __future__ import annotations

from accelkit.parity.cases import BITS, Case, cases
from accelkit.parity.source import Source


@cases("barrier", kinds="f")
def barrier(name: str, source: Source) -> Case:
    """Operands of several shapes come out as they are."""
    arrays = tuple(source.normal(shape) for shape in ((3, 4), (), (5,))[: source.choose((1, 2, 3))])
    return Case(name, arrays, {}, comparison=BITS, gradients=tuple(range(len(arrays))))
