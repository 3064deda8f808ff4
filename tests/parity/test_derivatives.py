"""Every derivative rule against numeric differentiation, in float64."""

from __future__ import annotations

import pytest
from parity.numeric_derivatives import derivative_error, second_derivative_error

import accelkit as ak
from accelkit import dtypes
from accelkit.errors import ParityError
from accelkit.parity.cases import GENERATORS, Case, missing_generators
from accelkit.parity.suite import SECOND_DERIVATIVES, batches, is_differentiable, property_test
from accelkit.primitives import PRIMITIVES
from accelkit.primitives.primitive import Primitive

# Central differences with one extrapolation in float64 are good to about 1e-10 of the terms.
BOUND = 1e-8
DTYPES = [d for d in dtypes.ALL if not d.is_floating or d is dtypes.float64]

assert missing_generators() == []  # loads the table
DIFFERENTIABLE = sorted(n for n in GENERATORS if is_differentiable(n))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_rule(name: str) -> None:
    def body(batch: list[Case]) -> None:
        for case in batch:
            error = derivative_error(case)
            assert error < BOUND, f"{case} {case!r}: relative error {error:.2e}"

    property_test(batches([name], DTYPES, 6, "f", smooth=True), body)


@pytest.mark.parametrize("name", sorted(SECOND_DERIVATIVES))
def test_rules_of_rules(name: str) -> None:
    def body(batch: list[Case]) -> None:
        for case in batch:
            error = second_derivative_error(case)
            assert error < BOUND, f"{case} {case!r}: relative error {error:.2e}"

    property_test(batches([name], DTYPES, 3, "f", smooth=True), body)


def test_all_primitives_with_a_derivative_are_differentiated() -> None:
    """The others move or compare discrete things, or have no derivative by definition."""
    flat = {"sign", "floor", "ceil", "round", "trunc", "floor_divide", "stop_gradient"}
    exempt = flat | {"full", "iota", "constant", "argmax", "argmin", "argsort", "is_nan"}
    exempt |= {n for n in PRIMITIVES if n.startswith(("random_", "bitwise_", "logical_", "shift_"))}
    exempt |= {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
    exempt |= {"is_finite", "reduce_any", "reduce_all", "max_pool2d_winners"}
    exempt |= {"labels_in_range", "step_report", "evaluation_report"}  # what a step observes
    core = {n for n, p in PRIMITIVES.items() if p._infer.__module__.startswith("accelkit.")}
    assert core - exempt == set(DIFFERENTIABLE)


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sine: Primitive = PRIMITIVES["sin"]
    monkeypatch.setattr(sine, "vjp", lambda g, y, x: (g * ak.cos(x) * 1.000001,))
    with pytest.raises((AssertionError, ParityError), match="relative error"):
        test_every_rule("sin")
