"""The conformance suite, as classes of tests to subclass. Needs pytest and hypothesis.

Hypothesis draws structure (shapes, strides, dtypes, where special values go); several cases are
compiled as one graph, because compilers charge per program more than per operation. The number
of graphs follows the profile in force: a hundredth of its examples, and at least two per primitive
where the profile is not derandomised.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accelkit import dtypes
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import ParityError
from accelkit.parity import agreement, checks, known_answers
from accelkit.parity.cases import GENERATORS, Case, build_case, case_dtypes, missing_generators
from accelkit.primitives import PRIMITIVES

__all__ = [
    "SECOND_DERIVATIVES",
    "BackendAgreement",
    "PrimitiveConformance",
    "batches",
    "is_differentiable",
    "property_test",
]

# Derivatives of derivatives: every kind of rule, not every primitive.
SECOND_DERIVATIVES = (
    "avg_pool2d",
    "cond",
    "conv2d",
    "depthwise_conv2d",
    "divide",
    "exp",
    "local_response_norm",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "power",
    "reduce_product",
    "relu",
    "scan",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "take",
    "tanh",
)


@st.composite
def batches(
    draw: Any,
    names: Sequence[str],
    available: Sequence[DType],
    count: int,
    kinds: str = "biuf",
    *,
    smooth: bool = False,
) -> list[Case]:
    """A strategy for ``count`` cases of primitives in turn, whose dtypes are of these kinds.

    ``smooth`` cases have neither special values nor ties, for derivatives by differences.

    Each choice is turned by a fixed amount that depends on its place, so that the simplest
    example, with which hypothesis begins, is a mixed batch and not ``count`` times one case.
    """
    found = []
    for position in range(count):
        name = names[position % len(names)]
        turn = random.Random(f"{name}/{position}")

        def decide(options: int, turn: random.Random = turn) -> int:
            drawn: int = draw(st.integers(0, options - 1))
            return (drawn + turn.randrange(options)) % options

        usable = [d for d in case_dtypes(name, available) if d.kind in kinds]
        wide = [d for d in (dtypes.float32, dtypes.float64) if d in usable]
        certain = wide * 2  # twice each, whatever else is drawn
        dtype = certain[position] if position < len(certain) else usable[decide(len(usable))]
        found.append(build_case(name, decide, dtype, available, smooth=smooth))
    return found


def property_test(strategy: Any, body: Callable[[list[Case]], None]) -> None:
    """Run ``body`` on drawn batches, in the number that the profile in force asks for.

    Failures are made small by :func:`accelkit.parity.checks.explain`, case by case, which is
    far cheaper than compiling whole batches again as hypothesis would.
    """
    profile = settings()
    least = 1 if profile.derandomize else 2  # the first example is the same in every run

    @settings(
        max_examples=max(least, profile.max_examples // 100),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def run(batch: list[Case]) -> None:
        body(batch)

    run()


def is_differentiable(name: str) -> bool:
    """Whether cases of the primitive ask for derivatives."""
    wide = [d for d in case_dtypes(name, dtypes.ALL) if d.is_floating]
    if not wide:
        return False
    return bool(build_case(name, lambda count: 0, wide[0], dtypes.ALL, smooth=True).gradients)


class PrimitiveConformance:
    """Every primitive on one backend: results, derivatives, definitions, random bits.

    Subclass it in a test file. Dtypes that the device lacks are not drawn.

    Attributes:
        backend: Name of the backend, registered by an entry point or
            :func:`accelkit.registry.register_backend`.
        device: Name of the device, if not the backend's preferred one.
        exclude: Names of primitives that the backend refuses, each with the reason.
        cases_per_graph: How many cases are compiled as one graph; fewer where compiling is slow.
    """

    backend: ClassVar[str]
    device: ClassVar[str | None] = None
    exclude: ClassVar[dict[str, str]] = {}
    cases_per_graph: ClassVar[int] = 16

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise the tests by primitive, those of the user's that have generators too."""
        if "primitive" not in metafunc.fixturenames:
            return
        missing_generators()  # loads the table
        tested = sorted(set(GENERATORS) & set(PRIMITIVES))
        wanted = {
            "test_gradients": [n for n in tested if is_differentiable(n)],
            "test_second_derivatives": list(SECOND_DERIVATIVES),
            "test_definitions": [n for n in tested if PRIMITIVES[n].definition is not None],
        }.get(metafunc.definition.originalname, tested)
        marks = {name: pytest.mark.skip(reason=why) for name, why in self.exclude.items()}
        metafunc.parametrize(
            "primitive", [pytest.param(n, marks=marks[n]) if n in marks else n for n in wanted]
        )

    @property
    def target(self) -> Device:
        """The device under test."""
        return find_device(self.device or self.backend)

    def _check(self, check: checks.Check, name: str, count: int, kinds: str = "biuf") -> None:
        device = self.target
        failures: list[list[checks.Mismatch]] = []

        def body(batch: list[Case]) -> None:
            problems = checks.guarded(check, batch, device)
            if problems:
                failures.append(problems)
                raise ParityError(str(problems[0].case))

        available = checks.available_dtypes(device)
        try:
            property_test(batches([name], available, count, kinds), body)
        except ParityError:
            raise checks.explain(failures[0], check, device) from None

    def test_every_primitive_has_cases(self) -> None:
        """Whoever adds a primitive to the core adds a generator of test cases."""
        assert missing_generators() == []

    def test_values(self, primitive: str) -> None:
        """Compiled results equal the reference's."""
        self._check(checks.check_values, primitive, self.cases_per_graph)

    def test_eager(self, primitive: str) -> None:
        """So do the results of single calls."""
        self._check(checks.check_eager, primitive, 1)

    def test_gradients(self, primitive: str) -> None:
        """Vector-Jacobian products equal the reference's."""
        self._check(checks.check_gradients, primitive, max(1, self.cases_per_graph * 5 // 8), "f")

    def test_second_derivatives(self, primitive: str) -> None:
        """So do the derivatives of derivatives."""
        self._check(checks.check_second_derivatives, primitive, 1, "f")

    def test_definitions(self, primitive: str) -> None:
        """A composite's definition and its native form mean the same."""
        self._check(checks.check_definitions, primitive, 2)

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
    def test_random_known_answers(self, compiled: bool) -> None:
        """Random123's zero vector and counters past 2^32, bit for bit."""
        known_answers.check(self.target, compiled=compiled)


class BackendAgreement:
    """Several backends live against each other, on the same graphs and the same data.

    Attributes:
        backends: Names of the backends.
    """

    backends: ClassVar[Sequence[str]]

    def _check(self, *, gradient: bool, count: int) -> None:
        devices = [find_device(name) for name in self.backends]
        everywhere = [
            d for d in dtypes.ALL if all(d in checks.available_dtypes(device) for device in devices)
        ]
        missing_generators()  # loads the table
        names = sorted(n for n in GENERATORS if not gradient or is_differentiable(n))
        shuffled = random.Random(0).sample(names, len(names))
        for start in range(0, len(names), count):
            chosen = shuffled[start : start + count]
            kinds = "f" if gradient else "biuf"

            def body(batch: list[Case]) -> None:
                problems = agreement.compare(batch, devices, gradient=gradient)
                if problems:
                    raise ParityError("\n".join(f"{p.case} {p.what}" for p in problems))

            property_test(batches(chosen, everywhere, len(chosen), kinds), body)

    def test_values(self) -> None:
        """All pairs give the same results."""
        self._check(gradient=False, count=16)

    def test_gradients(self) -> None:
        """All pairs give the same derivatives."""
        self._check(gradient=True, count=12)
