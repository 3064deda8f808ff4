"""Draws from streams of Philox4x32-10 on the host: the reference for every random bit.

Element ``i`` of the stream of a key ``(key0, key1)`` is word ``i % 4`` of block ``b = i // 4``,
whose counter is ``(b low, b high, key0, key1)`` under that key; see
:mod:`accelkit.random.blocks`. This is the form that XLA's own generator produces.

A backend that draws on its device must give the same bits as the functions here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from accelkit import dtypes
from accelkit.errors import DTypeError, OptionError
from accelkit.random.arguments import WORD, Key, check_range, check_shape, check_span
from accelkit.random.blocks import Words, for_each_chunk, philox4x32_block

__all__ = [
    "keep_threshold",
    "random_bits",
    "random_keep_mask",
    "random_uniform",
    "subkey",
]

# Significant bits of a uniform draw that needs one word; float64 takes 53 bits from two words.
_UNIFORM_BITS: Final = {dtypes.bfloat16: 8, dtypes.float16: 11, dtypes.float32: 24}


def subkey(seed: int, step: int, path: str, ordinal: int) -> Key:
    """Derive the key of one random call site at one training step.

    The key is the first two words of Philox4x32-10 with the seed as its key and
    ``(step low, step high, site low, site high)`` as its counter, where ``site`` is the 64-bit
    BLAKE2b hash of the module path and of the call's ordinal within that module. So the key
    depends on the site's own name only: adding a layer elsewhere changes no other draw.

    Args:
        seed: The run's seed, in [0, 2^64).
        step: The step counter, in [0, 2^64).
        path: The module's dotted path, e.g. ``"classifier.0"``.
        ordinal: Which of the module's random calls this is, from 0.

    Raises:
        OptionError: if the seed, the step or the ordinal is out of range.
    """
    seed = check_range("seed", seed, 1 << 64)
    step = check_range("step", step, 1 << 64)
    site = _site_hash(path, check_range("ordinal", ordinal, 1 << 64))
    counter = (step & WORD, step >> 32, site & WORD, site >> 32)
    word0, word1, _, _ = philox4x32_block(counter, (seed & WORD, seed >> 32))
    return word0, word1


def random_bits(key: Key, start: int, count: int) -> Words:
    """Draw elements ``start`` to ``start + count`` of the stream of ``key``.

    Args:
        key: Two unsigned 32-bit words.
        start: Index of the first element; any value, also past 2^34, where the low counter
            word has wrapped around.
        count: Number of elements.

    Returns:
        uint32 array of shape ``(count,)``. It depends on nothing but the arguments: neither on
        the number of threads nor on how the draw is cut into pieces.

    Raises:
        OptionError: if the key is invalid or the range leaves the stream of 2^66 elements.
    """
    start, count = check_span(start, count)
    out: Words = np.empty(count, np.uint32)

    def copy(words: Words, part: slice) -> None:
        out[part] = words

    for_each_chunk(key, start, count, lambda: copy)
    return out


def random_uniform(
    key: Key, shape: Sequence[int], dtype: object = dtypes.float32, *, offset: int = 0
) -> NDArray[Any]:
    """Draw uniform numbers in [0, 1), all multiples of one power of two.

    ========  ==================  ==================================================
    dtype     words per element   value
    ========  ==================  ==================================================
    bfloat16  1: ``i``            ``(word >> 24) * 2^-8``
    float16   1: ``i``            ``(word >> 21) * 2^-11``
    float32   1: ``i``            ``(word >> 8) * 2^-24``
    float64   2: ``2i``, ``2i+1``  ``((word[2i] >> 5) * 2^26 + (word[2i+1] >> 6)) * 2^-53``
    ========  ==================  ==================================================

    Each dtype gets as many bits as its significand holds, so that every value is exact and 1 is
    never reached, as it would be by rounding. The 16-bit draws are the float32 draw, truncated.

    Args:
        key: Two unsigned 32-bit words.
        shape: Shape of the result.
        dtype: A floating-point dtype.
        offset: Index, in elements, of the result's first element within the stream.

    Raises:
        DTypeError: if ``dtype`` is not a floating-point type.
        OptionError: if the key, the shape or the offset is invalid.
    """
    target = dtypes.dtype(dtype)
    if not target.is_floating:
        raise DTypeError(
            f"Uniform numbers need a floating-point dtype, got {target}. Draw a float dtype and "
            f"convert it, or use random_bits for integers."
        )
    shape = check_shape(shape)
    out = np.empty(math.prod(shape), target.numpy)
    if target is dtypes.float64:
        _fill_uniform_float64(key, offset, out)
    else:
        _fill_uniform(key, offset, out, _UNIFORM_BITS[target])
    return out.reshape(shape)


def keep_threshold(rate: float) -> int:
    """The 32-bit word below which an element is dropped: ``round(rate * 2^32)``.

    An element is kept where its random word is ``>= keep_threshold(rate)``, an integer
    comparison that is exact on every device. Half-way cases round to even. Rates within 2^-33
    of 1 give 2^32 - 1, so that the threshold is always a 32-bit word.

    Args:
        rate: Probability that an element is dropped, in [0, 1).

    Raises:
        OptionError: if ``rate`` is outside [0, 1) or NaN.
    """
    rate = float(rate)
    if not 0.0 <= rate < 1.0:
        raise OptionError(f"A dropout rate must be at least 0 and below 1, got {rate!r}.")
    return min(round(rate * 2.0**32), WORD)


def random_keep_mask(
    key: Key, shape: Sequence[int], rate: float, *, offset: int = 0
) -> NDArray[np.bool_]:
    """Draw a dropout mask: True where ``word >= keep_threshold(rate)``.

    Args:
        key: Two unsigned 32-bit words.
        shape: Shape of the result.
        rate: Probability that an element is dropped, in [0, 1).
        offset: Index of the result's first element within the stream.

    Returns:
        bool array of ``shape``.

    Raises:
        OptionError: if the rate, the key, the shape or the offset is invalid.
    """
    threshold = np.uint32(keep_threshold(rate))
    shape = check_shape(shape)
    start, count = check_span(offset, math.prod(shape))
    out = np.empty(count, np.bool_)

    def compare(words: Words, part: slice) -> None:
        np.greater_equal(words, threshold, out=out[part])

    for_each_chunk(key, start, count, lambda: compare)
    return out.reshape(shape)


def _fill_uniform(key: Key, offset: int, out: NDArray[Any], bits: int) -> None:
    start, count = check_span(offset, out.size)
    shift, scale = np.uint32(32 - bits), np.float32(2.0**-bits)

    exact = out.dtype == np.float32

    def convert(words: Words, part: slice) -> None:
        np.right_shift(words, shift, out=words)
        # At most 24 bits: exact, and signed integers, which processors convert faster.
        numbers = out[part] if exact else np.empty(len(words), np.float32)
        np.copyto(numbers, words.view(np.int32), casting="same_kind")
        numbers *= scale
        if not exact:
            out[part] = numbers

    for_each_chunk(key, start, count, lambda: convert)


def _fill_uniform_float64(key: Key, offset: int, out: NDArray[Any]) -> None:
    start, count = check_span(offset, out.size)

    def convert(words: Words, part: slice) -> None:
        pairs = words.reshape(-1, 2)
        values = (pairs[:, 0] >> np.uint32(5)).astype(np.float64)
        values *= 2.0**26
        values += pairs[:, 1] >> np.uint32(6)
        values *= 2.0**-53
        out[part.start // 2 : part.stop // 2] = values

    for_each_chunk(key, 2 * start, 2 * count, lambda: convert)


@functools.lru_cache(maxsize=65536)
def _site_hash(path: str, ordinal: int) -> int:
    import hashlib  # not needed to import accelkit

    # A NUL cannot occur in a module path, so no two (path, ordinal) pairs share their bytes.
    site = f"{path}\0{ordinal}".encode()
    return int.from_bytes(hashlib.blake2b(site, digest_size=8).digest(), "little")
