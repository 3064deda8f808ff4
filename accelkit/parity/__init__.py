"""The parity kit: proof that a backend computes what accelkit's primitives mean.

A third-party backend runs the whole suite with one small test file (needs pytest and
hypothesis)::

    import accelkit.parity

    class TestMyBackend(accelkit.parity.PrimitiveConformance):
        backend = "mine"

Every primitive is drawn with random shapes, strides, padding, groups, dtypes, broadcast patterns
and special values; results and derivatives are compared with NumPy's in float64, by the table in
:mod:`accelkit.parity.tolerances`. What is compared depends on the dtypes and capabilities that
the backend declares, never on its name.

``python -m accelkit.parity`` compares whole training runs instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from accelkit.parity.cases import BITS, CLOSE, EQUAL, Case, cases
from accelkit.parity.checks import (
    Mismatch,
    check_definitions,
    check_eager,
    check_gradients,
    check_second_derivatives,
    check_values,
    replay,
)
from accelkit.parity.source import Source
from accelkit.parity.tolerances import TOLERANCES, TRAINING_BOUNDS, deviation, tolerance

if TYPE_CHECKING:
    from accelkit.parity.suite import BackendAgreement, PrimitiveConformance

__all__ = [
    "BITS",
    "CLOSE",
    "EQUAL",
    "TOLERANCES",
    "TRAINING_BOUNDS",
    "BackendAgreement",
    "Case",
    "Mismatch",
    "PrimitiveConformance",
    "Source",
    "cases",
    "check_definitions",
    "check_eager",
    "check_gradients",
    "check_second_derivatives",
    "check_values",
    "deviation",
    "replay",
    "tolerance",
]


def __getattr__(name: str) -> Any:
    if name in ("BackendAgreement", "PrimitiveConformance"):  # these need pytest and hypothesis
        return getattr(import_module("accelkit.parity.suite"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
