"""Types of command line options: each reads one argument, and says what it must be."""

from __future__ import annotations

import argparse
import math

from accelkit.errors import OptionError
from accelkit.train.memory import parse_bytes

__all__ = ["amount", "fraction", "magnitude", "natural", "positive", "rate", "seed", "share"]


def natural(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def seed(text: str) -> int:
    """An integer of 64 bits."""
    value = _integer(text, 0)
    if value >= 2**64:
        raise argparse.ArgumentTypeError(f"{value} is not below 2^64")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    value = _number(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not in [0, 1)")
    return value


def rate(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not positive and finite")
    return value


def magnitude(text: str) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a finite number of at least 0")
    return value


def amount(text: str) -> str:
    """An amount of memory, as it was written."""
    try:
        parse_bytes(text)
    except OptionError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no amount of memory; expected one such as '8GiB' or '500MB'"
        ) from None
    return text


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no integer; expected one of at least {least}"
        ) from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is below {least}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
