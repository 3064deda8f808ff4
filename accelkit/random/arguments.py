"""Checks of the arguments that the random functions share."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accelkit.errors import OptionError

__all__ = [
    "WORD",
    "Key",
    "check_counter_word",
    "check_key",
    "check_range",
    "check_shape",
    "check_span",
]

Key: TypeAlias = tuple[int, int]
"""Two unsigned 32-bit words, low word first."""

WORD: Final = 0xFFFFFFFF
"""The largest 32-bit word."""

# A stream has 2^64 blocks of four words.
_STREAM_WORDS: Final = 1 << 66


def check_range(what: str, value: int, limit: int) -> int:
    """``value`` as a Python integer if it is in [0, limit), a power of two; else an OptionError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"The {what} must be an integer, got {value!r}.") from None
    if not 0 <= number < limit:
        raise OptionError(
            f"The {what} must be at least 0 and below 2^{limit.bit_length() - 1}, got {number}."
        )
    return number


def check_key(key: Key) -> Key:
    """``key`` with both words as Python integers."""
    if len(key) != 2:
        raise OptionError(f"A Philox4x32 key has 2 words, got {len(key)}.")
    word0 = check_range("key's first word", key[0], 1 << 32)
    word1 = check_range("key's second word", key[1], 1 << 32)
    return word0, word1


def check_counter_word(word: ArrayLike) -> NDArray[Any]:
    """``word`` as an integer array with values in [0, 2^32)."""
    array = np.asarray(word)
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() > WORD)):
        raise OptionError(
            f"A counter word must hold integers in [0, 2^32), got {array.dtype} {word!r}."
        )
    return array


def check_span(start: int, count: int) -> tuple[int, int]:
    """``start`` and ``count`` as Python integers, if a stream has that many elements."""
    start = check_range("offset", start, _STREAM_WORDS)
    count = check_range("number of elements", count, _STREAM_WORDS)
    if start + count > _STREAM_WORDS:
        raise OptionError(
            f"A random stream has 2^66 elements; {count} of them do not fit after {start}."
        )
    return start, count


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape`` as a tuple of Python integers that are not negative."""
    return tuple(check_range("dimension of a shape", dim, 1 << 63) for dim in shape)
