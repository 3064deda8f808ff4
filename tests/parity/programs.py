"""Random programs of the public functions, as source text.

A program is a list of statements, each the value of one expression of earlier values. It is
drawn with data at hand: an expression that NumPy's backend refuses, or whose result is not finite
or out of proportion, is dropped and another one drawn. So every program is valid, and none leaves
the range of its dtypes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import accelkit as ak
from accelkit import dtypes
from accelkit.errors import AccelkitError
from accelkit.primitives.batch_normalization import batch_norm
from accelkit.primitives.layer_normalization import layer_norm

__all__ = [
    "Program",
    "batch_norm",
    "draw_program",
    "drawn",
    "halved_slope",
    "is_finite",
    "layer_norm",
]

_HEADER = """\
import numpy as np
import accelkit as ak
from parity.programs import batch_norm, drawn, halved_slope, layer_norm
"""
_EXTENTS = (1, 2, 3, 4, 5, 7, 8, 2, 3, 4, 17, 0)
_MOST_ELEMENTS = 3000
_LARGEST = {"float16": 40.0, "bfloat16": 40.0}
_ATTEMPTS = 40  # at a statement


@ak.custom_vjp
def halved_slope(x: Any) -> Any:
    """sin(x), with half its derivative."""
    return ak.sin(x)


halved_slope.defvjp(lambda x: (ak.sin(x), (x,)), lambda kept, g: (g * ak.cos(kept[0]) * 0.5,))


def drawn(kind: str, shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Data of an input.

    Args:
        kind: ``"normal"``; ``"ties"``, few different numbers; ``"special"``, with zeros of both
            signs, infinities and NaN.
        shape: Its shape.
        dtype: Integers are small, and not negative where the dtype has no sign.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    target = dtypes.dtype(dtype)
    if target is dtypes.bool_:
        return np.asarray(generator.random(shape) < 0.5)
    if not target.is_floating:
        low = 0 if target.kind == "u" else -4
        return np.asarray(generator.integers(low, 8, shape)).astype(target.numpy)
    values = np.asarray(generator.standard_normal(shape))
    if kind == "ties":
        values = np.round(values * 2.0) / 2.0
    if kind == "special":
        special = generator.choice([0.0, -0.0, np.inf, -np.inf, np.nan], shape)
        values = np.where(generator.random(shape) < 0.3, special, values)
    return values.astype(target.numpy)


@dataclass(frozen=True, repr=False)
class Program:
    """A program; its ``repr`` is Python that can be pasted.

    Attributes:
        inputs: Names and expressions of the inputs.
        statements: Names and expressions of the values, in order.
        outputs: Names of the results.
    """

    inputs: tuple[tuple[str, str], ...]
    statements: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]

    def __repr__(self) -> str:
        lines = [_HEADER, *(f"{name} = {text}" for name, text in self.inputs)]
        names = ", ".join(name for name, _ in self.inputs)
        lines += [f"\n\ndef program({names}):"]
        lines += [f"    {name} = {text}" for name, text in self.statements]
        return "\n".join([*lines, f"    return [{', '.join(self.outputs)}]\n"])

    def load(self) -> tuple[Callable[..., list[Any]], list[np.ndarray]]:
        """The function, and the data of its inputs."""
        namespace: dict[str, Any] = {}
        exec(compile(repr(self), "<program>", "exec"), namespace)
        return namespace["program"], [namespace[name] for name, _ in self.inputs]

    def returning(self, outputs: Sequence[str]) -> Program:
        """The program for these results only, without what they do not need."""
        needed = set(outputs)
        kept = []
        for name, text in reversed(self.statements):
            if name in needed:
                needed |= _names(text)
                kept.append((name, text))
        inputs = tuple(pair for pair in self.inputs if pair[0] in needed)
        return replace(
            self, inputs=inputs, statements=tuple(reversed(kept)), outputs=tuple(outputs)
        )

    def given(self, name: str, text: str) -> Program:
        """The program with a statement's value as an input instead."""
        return replace(
            self,
            inputs=(*self.inputs, (name, text)),
            statements=tuple(pair for pair in self.statements if pair[0] != name),
        ).returning(self.outputs)


def _names(text: str) -> set[str]:
    code = compile(text, "<statement>", "eval")
    found: set[str] = set()
    pending = [code]
    while pending:
        part = pending.pop()
        found.update(part.co_names, part.co_freevars)
        pending += [c for c in part.co_consts if hasattr(c, "co_names")]
    return found


class _Unfit(Exception):
    """No value suits the operation."""


class Writer:
    """Draws expressions of the values so far.

    Attributes:
        random: Where choices come from.
        values: By name.
        floating, integers: Names of the device's dtypes.
    """

    def __init__(self, choices: random.Random, available: Sequence[dtypes.DType]) -> None:
        self.random = choices
        self.values: dict[str, np.ndarray] = {}
        self.floating = [d.name for d in available if d.is_floating]
        self.integers = [d.name for d in available if d.is_integer]

    def choose(self, *options: Any) -> Any:
        """One of the options."""
        return self.random.choice(options)

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return self.random.randrange(count)

    def pick(self, kinds: str = "f", fits: Callable[[np.ndarray], bool] = lambda a: True) -> str:
        """The name of a value whose dtype is of these kinds; late ones are likelier."""
        found = [n for n, a in self.values.items() if _kind(a) in kinds and fits(a)]
        if not found:
            raise _Unfit
        return self.random.choice(found[-3:] if self.random.random() < 0.5 else found)

    def pair(self, kinds: str = "f") -> tuple[str, str]:
        """Two values of one kind that broadcast together."""
        a = self.pick(kinds)
        x = self.values[a]
        return a, self.pick(_kind(x), lambda y: _broadcast(x, y) and _promote(x, y))

    def with_axes(self, kinds: str = "f", least: int = 1) -> tuple[str, np.ndarray, int]:
        """A value with axes, and one of them, counted from either end."""
        name = self.pick(kinds, lambda a: a.ndim >= least)
        x = self.values[name]
        return name, x, self.below(2 * x.ndim) - x.ndim

    def shape(self, most_axes: int = 4) -> tuple[int, ...]:
        """Any shape."""
        return tuple(self.choose(*_EXTENTS) for _ in range(self.below(most_axes + 1)))

    def axes(self, ndim: int) -> Any:
        """For a reduction: all axes, one, or several."""
        several = tuple(i for i in range(ndim) if self.below(2))
        return self.choose(None, several, self.below(ndim) - ndim if ndim else None)

    def image(self, *, finite: bool = False) -> tuple[str, tuple[int, ...]]:
        """A value (N, H, W, C). Convolutions may spread what is not finite over more elements."""
        name = self.pick("f", lambda a: a.ndim == 4 and (not finite or is_finite(a)))
        return name, self.values[name].shape

    def padding(self, most: int = 3) -> Any:
        """Zeros around an image."""
        return self.choose(
            0, 1, self.below(most + 1),
            ((self.below(most), self.below(most)), (self.below(most), self.below(most))),
        )  # fmt: skip


def is_finite(array: np.ndarray) -> bool:
    """Whether all elements are."""
    return bool(np.isfinite(array.astype(np.float64)).all())


def _kind(array: np.ndarray) -> str:
    return dtypes.dtype(array.dtype).kind


def _broadcast(x: np.ndarray, y: np.ndarray) -> bool:
    try:
        return math.prod(np.broadcast_shapes(x.shape, y.shape)) <= _MOST_ELEMENTS
    except ValueError:
        return False


def _promote(x: np.ndarray, y: np.ndarray) -> bool:
    try:
        dtypes.promote(dtypes.dtype(x.dtype), dtypes.dtype(y.dtype))
    except AccelkitError:
        return False
    return True


def draw_program(
    choices: random.Random, available: Sequence[dtypes.DType], *, special: bool = False
) -> Program:
    """A program of 3 to 25 statements.

    Args:
        choices: What it is drawn from.
        available: The device's dtypes.
        special: Whether inputs may hold infinities and NaN.
    """
    from parity.program_operations import OPERATIONS

    writer = Writer(choices, available)
    inputs, statements = [], []
    for number in range(choices.randint(2, 5)):
        name, text = f"v{number}", _input(writer, number, special=special)
        writer.values[name] = eval(text, _FUNCTIONS.copy())
        inputs.append((name, text))
    count = choices.randint(3, 25)
    for _ in range(_ATTEMPTS * count):
        if len(statements) == count:
            break
        try:
            text = choices.choice(OPERATIONS)(writer)
            value = _value(text, writer)
        except (_Unfit, AccelkitError):
            continue
        if value is None:
            continue
        name = f"v{len(writer.values)}"
        writer.values[name] = value
        statements.append((name, text))
    return _with_outputs(choices, inputs, statements)


def _input(writer: Writer, number: int, *, special: bool) -> str:
    wide = [d for d in ("float32", "float64") if d in writer.floating]
    dtype = writer.choose(
        "float32", "float32", "float32", "bool", "int32",
        writer.choose(*wide), writer.choose(*writer.floating), writer.choose(*writer.integers),
    ) if number else "float32"  # fmt: skip
    shape = writer.shape()
    if not number and writer.below(2):
        shape = (writer.choose(1, 2), *(writer.choose(3, 5, 8, 9) for _ in "hw"),
                 writer.choose(1, 2, 4, 6))  # fmt: skip
    kind = writer.choose("normal", "normal", "ties", *(["special"] * 2 if special else []))
    return f"drawn({kind!r}, {shape}, {dtype!r}, {writer.below(1000)})"


def _value(text: str, writer: Writer) -> np.ndarray | None:
    """What the expression gives; None if it is out of proportion."""
    used = _names(text) & writer.values.keys()
    names: dict[str, Any] = {"ak": ak, "np": np, **_FUNCTIONS}
    operands = [writer.values[name] for name in used]
    with ak.default_device("numpy"), np.errstate(all="ignore"):
        names |= {name: ak.asarray(writer.values[name], device="numpy") for name in used}
        value: np.ndarray = eval(text, names).numpy()
    if value.size > _MOST_ELEMENTS or value.ndim > 5:
        return None
    dtype = dtypes.dtype(value.dtype)
    if dtype.name not in [*writer.floating, *writer.integers, "bool"]:
        return None
    wide = value.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all() and all(map(is_finite, operands)):
        return None
    small = np.abs(wide[finite & (wide != 0)])
    if np.max(small, initial=0.0) > _LARGEST.get(dtype.name, 1000.0):
        return None
    if dtype.is_floating and np.min(small, initial=1.0) < 1e-4:
        return None
    return value


_FUNCTIONS = {
    "batch_norm": batch_norm,
    "drawn": drawn,
    "halved_slope": halved_slope,
    "layer_norm": layer_norm,
}


def _with_outputs(
    choices: random.Random,
    inputs: Sequence[tuple[str, str]],
    statements: Sequence[tuple[str, str]],
) -> Program:
    """The program that returns what nothing reads, and some other values."""
    read = set().union(*(_names(text) for _, text in statements))
    names = [name for name, _ in statements]
    outputs = [n for n in names if n not in read or choices.random() < 0.1]
    outputs = outputs[-6:] or [inputs[0][0]]
    return Program(tuple(inputs), tuple(statements), tuple(outputs)).returning(outputs)
