"""Where a test case comes from: a sequence of choices, and the arrays that follow from them.

A :class:`Source` hides who chooses. Hypothesis does in the suite, a recorded sequence does when a
failure is replayed or made smaller. Options are listed simplest first, so that smaller numbers
make simpler cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.parity.tolerances import smallest_normal

__all__ = ["Shape", "Source"]

T = TypeVar("T")
Shape = tuple[int, ...]

# A bounded pool: a new shape costs a compiler tens of milliseconds, new data costs nothing.
SHAPES: tuple[Shape, ...] = ((5,), (3, 4), (), (2, 1, 3), (1,), (0, 3), (2, 3, 2, 2), (33,))
_SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.5, -2.5)


class Source:
    """Makes the choices of one case.

    Attributes:
        dtype: The dtype that the case is about.
        available: Every dtype that the device has.
        smooth: True for derivative checks: no special values, no ties, nothing near a kink.
        choices: What was chosen so far: it determines the case.
    """

    def __init__(
        self,
        decide: Callable[[int], int],
        dtype: DType,
        available: Sequence[DType],
        *,
        smooth: bool = False,
    ) -> None:
        self._decide = decide
        self.dtype = dtype
        self.available = tuple(available)
        self.smooth = smooth
        self.choices: list[int] = []
        self._generator: np.random.Generator | None = None

    # --- choices ----------------------------------------------------------------------------

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        index = self._decide(count)
        self.choices.append(index)
        return index

    def choose(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def flag(self) -> bool:
        """False or True."""
        return bool(self.below(2))

    def dtype_of(self, kinds: str) -> DType:
        """One of the device's dtypes of these kinds."""
        return self.choose([d for d in self.available if d.kind in kinds])

    def shape(self, pool: Sequence[Shape] = SHAPES) -> Shape:
        """A shape from a pool; without an empty one in derivative checks."""
        return self.choose([s for s in pool if 0 not in s] if self.smooth else pool)

    def broadcast_shapes(self, count: int) -> list[Shape]:
        """Shapes that broadcast together: axes shrunk to 1 or dropped from the front."""
        full = self.shape()
        shapes = [full]
        for _ in range(count - 1):
            pattern = self.choose(("same", "scalar", "ones", "shorter", "first", "last"))
            shapes.append(_pattern(full, pattern))
        turn = self.below(count)
        return shapes[turn:] + shapes[:turn]

    def axes(self, ndim: int) -> Shape:
        """A subset of the axes, in order."""
        return tuple(axis for axis in range(ndim) if self.flag())

    # --- data -------------------------------------------------------------------------------

    @property
    def generator(self) -> np.random.Generator:
        """The generator of the case's arrays, seeded by one choice."""
        if self._generator is None:
            self._generator = np.random.default_rng(self.below(1 << 32))
        return self._generator

    def rounded(self, values: Any) -> np.ndarray:
        """Values in the case's dtype, with subnormals (outside the contract) made zero."""
        dtype = self.dtype.numpy
        with np.errstate(over="ignore"):
            array = np.asarray(values).astype(dtype)
        if self.dtype.is_floating:
            small = np.abs(array.astype(np.float64)) < smallest_normal(dtype)
            array = np.where(small & (array != 0), array.dtype.type(0), array)
        return array

    def normal(self, shape: Shape, scale: float = 1.0) -> np.ndarray:
        """Normal numbers of this standard deviation."""
        return self.rounded(self.generator.standard_normal(shape) * scale)

    def between(self, shape: Shape, low: float, high: float) -> np.ndarray:
        """Uniform numbers."""
        return self.rounded(self.generator.uniform(low, high, shape))

    def special(self, array: np.ndarray) -> np.ndarray:
        """The array with zeros of both signs, infinities and NaN in places."""
        if self.smooth or not self.dtype.is_floating:
            return array
        if not self.choose((False, True, True)):
            return array
        values = self.generator.choice(_SPECIAL, array.shape).astype(array.dtype)
        return np.where(self.generator.random(array.shape) < 0.4, values, array)

    def ties(self, shape: Shape) -> np.ndarray:
        """Few different values, zeros of both signs among the floating ones."""
        if self.smooth:
            return self.distinct(shape)
        low = 0 if self.dtype.kind == "u" else -2
        values = self.generator.integers(low, 3, shape)
        if not self.dtype.is_floating:
            return self.rounded(values)
        signs = self.generator.choice((-1.0, 1.0), shape)
        return self.rounded(np.where(values == 0, 0.0 * signs, values))

    def distinct(self, shape: Shape) -> np.ndarray:
        """Numbers that differ by an eighth at least, exact in every floating dtype."""
        count = math.prod(shape)
        grid = (np.arange(count) - count // 2) / 8 + 1 / 16
        return self.rounded(self.generator.permutation(grid).reshape(shape))

    def integers(self, shape: Shape) -> np.ndarray:
        """Integers of the case's dtype: its limits, small ones, and all between."""
        limits = np.iinfo(self.dtype.numpy)
        everything = self.generator.integers(
            limits.min, limits.max, shape, self.dtype.numpy, endpoint=True
        )
        small = [limits.min, limits.max, 0, 1, 2, 7, *([-1, -2] if limits.min else [])]
        chosen = self.generator.choice(np.array(small, self.dtype.numpy), shape)
        return np.where(self.generator.random(shape) < 0.5, chosen, everything)

    def numbers(self, shape: Shape) -> np.ndarray:
        """Numbers without infinities or NaN: sums of those have no defined order."""
        return self.normal(shape) if self.dtype.is_floating else self.integers(shape)

    def bools(self, shape: Shape) -> np.ndarray:
        """Random bools."""
        return np.asarray(self.generator.random(shape) < 0.5)

    def anything(self, shape: Shape) -> np.ndarray:
        """Whatever the case's dtype can hold, special values included."""
        if self.dtype.is_floating:
            return self.special(self.normal(shape))
        return self.bools(shape) if self.dtype is dtypes.bool_ else self.integers(shape)

    def indices(self, shape: Shape, extent: int, *, dtype: DType | None = None) -> np.ndarray:
        """Integers in [0, extent), of a chosen integer dtype unless given."""
        chosen = dtype or self.dtype_of("iu")
        return self.generator.integers(0, max(extent, 1), shape).astype(chosen.numpy)


def _pattern(full: Shape, name: str) -> Shape:
    if name == "same" or not full:
        return full
    if name == "scalar":
        return ()
    if name == "ones":
        return (1,) * len(full)
    if name == "shorter":
        return full[1:]
    return (1, *full[1:]) if name == "first" else (*full[:-1], 1)
