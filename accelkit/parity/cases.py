"""Test cases of primitives, and the table of their generators.

A case is one call: operands, static parameters, and how its results are compared. A generator
makes cases of one or several primitives from the choices of a
:class:`~accelkit.parity.source.Source`::

    @cases("softplus", kinds="f")
    def softplus(name, source):
        return Case(name, (source.special(source.normal(source.shape())),))

Every primitive of the core must have one: the suite fails where one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.errors import UnknownNameError
from accelkit.graph import TensorSpec
from accelkit.parity.source import Source
from accelkit.primitives import PRIMITIVES

__all__ = [
    "BITS",
    "CLOSE",
    "EQUAL",
    "GENERATORS",
    "Case",
    "build_case",
    "case_dtypes",
    "cases",
    "missing_generators",
]

BITS: Final = "bits"  # every bit, signs of zeros included (NaN is NaN)
EQUAL: Final = "equal"  # equal numbers; 0.0 and -0.0 are equal
CLOSE: Final = "close"  # within the table of tolerances


@dataclass(frozen=True, repr=False)
class Case:
    """One call of a primitive.

    Attributes:
        primitive: Its name.
        arrays: The operands.
        parameters: The static parameters.
        comparison: ``BITS``, ``EQUAL`` or ``CLOSE``.
        gradients: Positions of the operands to differentiate by.
        floor: Size of the terms that results are sums of, where those may cancel.
        length: Number of terms that one element of a result sums.
        gradient_length: The same for cotangents.
        widen: Whether the reference is computed in float64 (False where the dtype is part of
            the meaning, as for random numbers).
        dtype: What the case is about.
        choices: What it was built from.
    """

    primitive: str
    arrays: tuple[np.ndarray, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    comparison: str = CLOSE
    gradients: tuple[int, ...] = ()
    floor: float = 0.0
    length: int = 1
    gradient_length: int = 1
    widen: bool = True
    dtype: DType = dtypes.float32
    choices: tuple[int, ...] = ()

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Shapes and dtypes of the operands."""
        return tuple(TensorSpec(a.shape, dtypes.dtype(a.dtype)) for a in self.arrays)

    def __repr__(self) -> str:
        return f"replay({self.primitive!r}, {self.dtype.name!r}, {self.choices})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis and IPython show: the short form, not the arrays."""
        printer.text(repr(self))

    def __str__(self) -> str:
        operands = ", ".join(map(str, self.specs))
        parameters = ", ".join(f"{k}={v}" for k, v in self.parameters.items())
        return f"{self.primitive}({'; '.join(filter(None, (operands, parameters)))})"


Generate = Callable[[str, Source], Case]


class Generator(NamedTuple):
    """How cases of a primitive are made.

    Attributes:
        generate: ``generate(name, source) -> Case``.
        kinds: Kinds of dtype that the primitive is tested with.
        only: Names of the dtypes that it is restricted to, if any.
    """

    generate: Generate
    kinds: str
    only: tuple[str, ...] | None


GENERATORS: dict[str, Generator] = {}


def cases(
    *names: str, kinds: str = "f", only: Sequence[str] | None = None
) -> Callable[[Generate], Generate]:
    """Decorator: a generator for these primitives.

    Args:
        names: Names of primitives.
        kinds: Kinds of the dtypes to draw: ``b``, ``i``, ``u``, ``f``.
        only: Names of dtypes, where not all of those kinds are meant.
    """

    def add(generate: Generate) -> Generate:
        for name in names:
            GENERATORS[name] = Generator(generate, kinds, tuple(only) if only else None)
        return generate

    return add


def case_dtypes(name: str, available: Sequence[DType]) -> list[DType]:
    """The dtypes to test a primitive with, simplest first, the wide floats several times."""
    found = _generator(name)
    chosen = [
        d
        for d in available
        if d.kind in found.kinds and (found.only is None or d.name in found.only)
    ]
    wide = [d for d in (dtypes.float32, dtypes.float64) if d in chosen]
    return [*wide * 5, *(d for d in chosen if d not in wide)]


def _generator(name: str) -> Generator:
    from accelkit.parity import generators  # noqa: F401 - fills the table

    if name not in GENERATORS:
        raise UnknownNameError.of("case generator", name, GENERATORS)
    return GENERATORS[name]


def build_case(
    name: str,
    decide: Callable[[int], int],
    dtype: DType,
    available: Sequence[DType],
    *,
    smooth: bool = False,
) -> Case:
    """Make one case; ``decide(n)`` returns an integer in [0, n) for each choice."""
    source = Source(decide, dtype, available, smooth=smooth)
    case = _generator(name).generate(name, source)
    return replace(case, dtype=dtype, choices=tuple(source.choices))


def missing_generators() -> list[str]:
    """Primitives of the core that have no case generator."""
    from accelkit.parity import generators  # noqa: F401 - fills the table

    core = [n for n, p in PRIMITIVES.items() if p._infer.__module__.startswith("accelkit.")]
    return sorted(set(core) - set(GENERATORS))
