"""The kit itself: a toy third-party backend passes it, and faults do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from parity.toy_backend import WRONG

import accelkit as ak
import accelkit.parity
from accelkit import registry
from accelkit.errors import ParityError
from accelkit.parity import Case, Source, cases, check_values, deviation, replay, tolerance
from accelkit.parity.cases import GENERATORS, missing_generators
from accelkit.parity.checks import explain, guarded
from accelkit.primitives import PRIMITIVES
from accelkit.primitives.primitive import Primitive

pytestmark = pytest.mark.usefixtures("toys")


class TestToy(accelkit.parity.PrimitiveConformance):
    """What a third party writes."""

    backend = "toy"


class WrongConformance(accelkit.parity.PrimitiveConformance):
    """Not collected: its tests are called below, and must fail."""

    backend = "wrong"
    cases_per_graph = 48


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_fault_is_caught(name: str) -> None:
    with pytest.raises(ParityError, match=f"Reproduce it with:(?s:.*){name}") as caught:
        WrongConformance().test_values(name)
    assert "wrong:cpu:0" in str(caught.value)


def test_a_fault_is_caught_eagerly_and_in_derivatives() -> None:
    suite = WrongConformance()
    with pytest.raises(ParityError, match="the eager result deviates"):
        suite.test_eager("exp")
    with pytest.raises(ParityError, match="the cotangent of operand"):
        suite.test_gradients("exp")


def test_sound_primitives_of_the_wrong_backend_pass() -> None:
    WrongConformance().test_values("add")


def test_counters_past_32_bits_are_checked() -> None:
    with pytest.raises(ParityError, match="known answer"):
        WrongConformance().test_random_known_answers(True)


def test_backends_that_disagree_are_named() -> None:
    class Pair(accelkit.parity.BackendAgreement):
        backends = ("toy", "wrong")

    with pytest.raises(ParityError, match="wrong:cpu:0 against toy:cpu:0"):
        Pair().test_values()


def test_a_failure_can_be_replayed() -> None:
    device = ak.device("wrong")
    case = replay("exp", "float64", (0, 0, 77, 0), device="wrong")
    problems = guarded(check_values, [case], device)
    assert [p.case for p in problems] == [case]
    text = str(explain(problems, check_values, device))
    call = next(line for line in text.splitlines() if "case = " in line).split("= ", 1)[1]
    again = eval(call, {"replay": replay})
    assert check_values([again], device)
    assert not check_values([again], ak.device("toy"))


def test_every_core_primitive_has_a_generator() -> None:
    assert missing_generators() == []


@pytest.fixture
def added_primitive() -> Iterator[str]:
    def infer(x: ak.graph.TensorSpec) -> ak.graph.TensorSpec:
        return x

    infer.__module__ = "accelkit.primitives.elementwise"  # as if it were part of the core
    name = "test_softplus"
    PRIMITIVES[name] = Primitive(name, infer, definition=lambda x: ak.log1p(ak.exp(x)))
    yield name
    del PRIMITIVES[name]
    GENERATORS.pop(name, None)


def test_a_new_primitive_needs_a_generator(added_primitive: str) -> None:
    assert missing_generators() == [added_primitive]
    with pytest.raises(AssertionError):
        WrongConformance().test_every_primitive_has_cases()

    @cases(added_primitive)
    def softplus(name: str, source: Source) -> Case:
        return Case(name, (source.normal(source.shape()),), gradients=(0,), length=4)

    assert missing_generators() == []
    suite = accelkit.parity.PrimitiveConformance()
    suite.backend = "toy"  # type: ignore[misc]
    suite.test_values(added_primitive)
    suite.test_gradients(added_primitive)


def test_importing_the_kit_needs_no_test_framework() -> None:
    import subprocess
    import sys

    program = (
        "import sys, accelkit.parity; "
        "assert not {'pytest', 'hypothesis', 'torch', 'jax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class TestDeviation:
    """The measure of all comparisons."""

    def test_is_relative_to_the_largest_element(self) -> None:
        wanted = np.array([1e-8, 100.0])
        assert deviation(np.array([2e-8, 100.0]), wanted) == pytest.approx(1e-10)

    @pytest.mark.parametrize(
        ("found", "wanted"),
        [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (np.inf, -np.inf), (np.nan, np.inf)],
    )
    def test_of_special_values_that_differ_is_infinite(self, found: float, wanted: float) -> None:
        assert deviation(np.array([found, 1.0]), np.array([wanted, 1.0])) == np.inf

    def test_of_equal_special_values_is_zero(self) -> None:
        x = np.array([np.nan, np.inf, -np.inf, 2.0])
        assert deviation(x, x) == 0.0

    def test_expects_overflow_where_the_dtype_overflows(self) -> None:
        wanted = np.array([1e39, 1.0])
        assert deviation(np.array([np.inf, 1.0], np.float32), wanted) == 0.0
        assert deviation(np.array([3e38, 1.0], np.float32), wanted) == np.inf

    def test_counts_subnormals_as_zero(self) -> None:
        assert deviation(np.array([0.0], np.float32), np.array([1e-40])) == 0.0

    def test_of_nothing_is_zero(self) -> None:
        assert deviation(np.zeros((0, 3), np.float32), np.zeros((0, 3))) == 0.0


def test_tolerances_widen_with_the_length_of_sums() -> None:
    short = tolerance(ak.float32, gradient=False)
    assert tolerance(ak.float32, gradient=False, length=100) == pytest.approx(10 * short)
    assert tolerance(ak.int32, gradient=False, length=100) == 0.0


def test_toys_are_registered() -> None:
    assert {"toy", "wrong"} <= set(registry.backend_names())
