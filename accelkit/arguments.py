"""Checks of arguments, in one wording: what its name is, what it must be, what was given."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from accelkit.errors import OptionError

__all__ = [
    "as_positions",
    "require_bool",
    "require_callable",
    "require_finite",
    "require_fraction",
    "require_instance",
    "require_integer",
    "require_number",
    "require_path",
]

_NUMBERS = (int, float, np.integer, np.floating)


def require_bool(name: str, value: Any) -> None:
    """Refuse what is neither True nor False: a text such as ``"no"`` would count as true.

    Raises:
        OptionError: with the name and the value.
    """
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"`{name}` must be True or False, got {value!r}.")


def require_callable(name: str, value: Any, hint: str = "") -> None:
    """Refuse what is no function.

    Args:
        name: The argument's name.
        value: What was given.
        hint: What to do instead.

    Raises:
        OptionError: with the name, what was given and the hint.
    """
    if not callable(value):
        given = type(value).__name__
        raise OptionError(f"`{name}` must be a function, got {given}." + f" {hint}".rstrip())


def require_path(name: str, value: Any) -> None:
    """Refuse what names no place in the file system.

    Raises:
        OptionError: with the name and what was given.
    """
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"`{name}` must be a path, got {type(value).__name__}.")


def as_positions(name: str, value: Any) -> tuple[int, ...]:
    """Positions of arguments, from one or several; negative ones count from the end.

    Raises:
        OptionError: with the name and the value.
    """
    is_several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    given = value if is_several else (value,)
    try:
        if any(isinstance(position, bool) for position in given):
            raise TypeError
        return tuple(operator.index(position) for position in given)
    except TypeError:
        raise OptionError(
            f"`{name}` must be an integer or a list of integers, got {value!r}."
        ) from None


def require_integer(name: str, value: Any, *, least: float = 1, most: float = math.inf) -> None:
    """Refuse what is no integer in [least, most]; NumPy's integers are fine, bools are not.

    With ``least=-math.inf`` any integer will do.

    Raises:
        OptionError: with the name, the bound and the value.
    """
    try:
        fits = not isinstance(value, bool) and least <= operator.index(value) <= most
    except TypeError:
        fits = False
    if not fits:
        kinds = {-math.inf: "an integer", 1: "a positive integer"}
        expected = kinds.get(least, f"an integer of at least {least}")
        if most < math.inf:
            expected = f"an integer from {least} to {most}"
        raise OptionError(f"`{name}` must be {expected}, got {value!r}.")


def require_number(
    name: str, value: Any, *, positive: bool = False, below: float = math.inf
) -> None:
    """Refuse what is no finite number of at least 0 (or above it), and below a bound.

    Raises:
        OptionError: with the name, the range and the value.
    """
    if _is_number(value) and (value > 0 if positive else value >= 0) and value < below:
        return
    if below < math.inf:
        expected = f"in {'(' if positive else '['}0, {below:g})"
    else:
        expected = "positive and finite" if positive else "a finite number of at least 0"
    raise OptionError(f"`{name}` must be {expected}, got {value!r}.")


def require_finite(name: str, value: Any) -> None:
    """Refuse what is no finite number, of whatever sign.

    Raises:
        OptionError: with the name and the value.
    """
    if not _is_number(value) or not math.isfinite(value):
        raise OptionError(f"`{name}` must be a finite number, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def require_fraction(name: str, value: Any) -> None:
    """Refuse what is no number in [0, 1).

    Raises:
        OptionError: with the name, the range and the value.
    """
    require_number(name, value, below=1.0)


def require_instance(name: str, value: Any, expected: type, hint: str = "") -> None:
    """Refuse an object of another class.

    Args:
        name: The argument's name.
        value: What was given.
        expected: The class that it must have.
        hint: What to do instead.

    Raises:
        OptionError: with the name, both classes and the hint.
    """
    if not isinstance(value, expected):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise OptionError(
            f"`{name}` must be {_article(expected.__name__)}, got {given}." + f" {hint}".rstrip()
        )


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
