"""Philox4x32-10 on the device, the same bits as :mod:`accelkit.random.philox`.

On the host that reference itself is used: NumPy has unsigned arithmetic, and is faster. Only masks
of the size that layers of a network have are drawn by torch: the reference would start threads
for them, which then wait for torch's, since these keep the processors for a while after each
operation. There keys are Python's numbers, which saves most of the first two rounds; elsewhere
they stay on the device.

Here words are held in int64, since torch has no unsigned arithmetic: a product of two 32-bit words
fills all 64 bits, and masking after the shift takes care of its sign.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.random import philox
from accelkit.random.philox import keep_threshold

Shape = tuple[int, ...]
_ROUNDS: Final = 10
_WORD: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
# 2^22 elements take 0.2 GB of work space.
_CHUNK_BLOCKS: Final = 1 << 20
# Elements of a mask from which on the host's reference uses threads.
_MASK_FOR_TORCH: Final = 1 << 17
# Blocks of a mask that the host draws at once, about: enough for torch's threads to share each
# operation, and few enough for the four work arrays to stay near their cores.
_HOST_BLOCKS: Final = 3 << 15
# Of pairs of 32-bit words, all but the last from the first low word or from the first high word.
_LOW_WORDS, _HIGH_WORDS = (
    (slice(0, -1), slice(1, None)) if sys.byteorder == "little" else (slice(1, None), slice(0, -1))
)


def _key_schedule(key: Tensor) -> tuple[list[Tensor], Tensor]:
    """The two key words of every round, (10,) each, and those of the first round."""
    words = key.to(torch.int64)
    steps = torch.tensor(
        [[r * weyl & _WORD for r in range(_ROUNDS)] for weyl in _WEYL], device=key.device
    )
    schedule = words[:, None] + steps
    schedule &= _WORD
    return [*schedule.unbind(0)], words


def _rounds(
    c: list[Tensor], spare: list[Tensor], schedule: Sequence[Sequence[Tensor | int]]
) -> None:
    """Rounds in place on the four words ``c``; ``spare`` are two arrays of their shape.

    ``schedule`` has the two key words of each.
    """
    c0, c1, c2, c3 = c
    p0, p1 = spare
    for k0, k1 in zip(*schedule, strict=True):
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0)
        c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_WORD)
        torch.bitwise_right_shift(p0, 32, out=c2)
        c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_WORD)
        # The low words keep what stands above their 32 bits until the next exclusive or.
        c1, p1 = p1, c1
        c3, p0 = p0, c3
    c1.bitwise_and_(_WORD)
    c3.bitwise_and_(_WORD)
    c[:] = c0, c1, c2, c3


def _blocks(words: Tensor, schedule: list[list[Tensor]], first: int, count: int) -> list[Tensor]:
    """The four words of ``count`` blocks from block ``first`` on, each (count,) int64."""
    index = torch.arange(first, first + count, device=words.device)
    c = [index & _WORD, index >> 32, *(word.repeat(count) for word in words.split(1))]
    _rounds(c, [torch.empty_like(index), torch.empty_like(index)], schedule)
    return c


def random_words(
    key: Tensor, start: int, out: Tensor, convert: Callable[[Tensor, Tensor], Any]
) -> None:
    """Draw the stream from element ``start`` on and convert it into ``out``, piece by piece.

    Args:
        key: uint32 (2,).
        start: Index of the first element within the stream.
        out: (count,) of any dtype.
        convert: ``convert(words, part)`` with int64 words and the piece of ``out`` they are for.
    """
    keys, words = _key_schedule(key)
    schedule = [[*k.unbind(0)] for k in keys]
    stop = start + out.numel()
    first, last = start // 4, -(-stop // 4)
    for block in range(first, last, _CHUNK_BLOCKS):
        c = _blocks(words, schedule, block, min(_CHUNK_BLOCKS, last - block))
        begin, end = max(start, 4 * block), min(stop, 4 * (block + _CHUNK_BLOCKS))
        drawn = torch.stack(c, dim=1).view(-1)[begin - 4 * block : end - 4 * block]
        convert(drawn, out[begin - start : end - start])


def random_keep_mask(key: Tensor, *, shape: Shape, rate: float, offset: int) -> Tensor:
    """True where the random word is at least ``round(rate * 2^32)``."""
    if key.device.type != "cpu":
        return _drawn_mask(key, shape, rate, offset)
    words = key.tolist()
    if math.prod(shape) < _MASK_FOR_TORCH:
        return torch.from_numpy(philox.random_keep_mask(words, shape, rate, offset=offset))
    return host_mask((words[0], words[1]), shape, rate, offset)


def host_mask(key: tuple[int, int], shape: Shape, rate: float, offset: int) -> Tensor:
    """The mask in host memory, drawn by torch's threads.

    Args:
        key: Two unsigned 32-bit words.
        shape: Of the mask.
        rate: Probability that an element is dropped.
        offset: Index of the first element within the stream.
    """
    threshold, size = keep_threshold(rate), math.prod(shape)
    first, last = offset // 4, -(-(offset + size) // 4)
    mask = torch.empty((last - first, 4), dtype=torch.bool)
    # Pieces of one size: a short one at the end would not be worth torch's threads.
    pieces = max(1, round((last - first) / _HOST_BLOCKS))
    length = -(-(last - first) // pieces)
    work = torch.empty((4, length), dtype=torch.int64)
    block = first
    while block < last:
        # The counter's second word stays the same within a piece.
        count = min(length, last - block, _WORD + 1 - (block & _WORD))
        part = mask[block - first : block - first + count]
        for column, word in enumerate(_host_blocks(key, block, work[:, :count])):
            torch.ge(word, threshold, out=part[:, column])
        block += count
    begin = offset - 4 * first
    return mask.view(-1)[begin : begin + size].view(shape)


class _Row:
    """A row of words in int64, of which the upper halves may hold anything.

    The high word of a product needs no shift: seen as 32-bit words it stands one place further on,
    where an exclusive or of 32-bit words finds it. What gets into upper halves by that is masked
    away before a product needs the words.
    """

    __slots__ = ("_high", "_low", "words")

    def __init__(self, words: Tensor) -> None:
        self.words = words
        halves = words.view(torch.int32)
        self._low, self._high = halves[_LOW_WORDS], halves[_HIGH_WORDS]

    def multiply(self, multiplier: int) -> _Row:
        """The products, over the factors; their low words are the row's."""
        self.words.mul_(multiplier)
        return self

    def mix(self, product: _Row, key: int) -> _Row:
        """Exclusive or with the high words of a product and with a number; clean."""
        self._low.bitwise_xor_(product._high)
        self.words.bitwise_xor_(key).bitwise_and_(_WORD)
        return self

    def take(self, product: _Row, number: int) -> _Row:
        """Become the high words of a product, exclusive or a number; clean."""
        torch.bitwise_xor(product._high, _signed(number, 32), out=self._low)
        self.words.bitwise_and_(_WORD)
        return self


def _host_blocks(key: tuple[int, int], first: int, work: Tensor) -> list[Tensor]:
    """The four words of the blocks from ``first`` on, in the rows of ``work``."""
    row0, row1, row2, row3 = map(_Row, work.unbind(0))
    m0, m1 = _MULTIPLIERS
    # Three rounds from the counter (c0, high, *key), of which one word varies: parts are numbers.
    (k0, k1), (k2, k3), (k4, k5), *rest = zip(*(_key_words(key)), strict=True)
    product = k0 * m1
    s0, s1 = (product >> 32) ^ (first >> 32) ^ k0, product & _WORD
    start = _signed((first & _WORD) * m0, 64)
    torch.add(_first_products(work.shape[1]), start, out=row0.words)
    c1 = row1.take(row0, 0).multiply(m1)  # the counter's fourth word is the first key's second
    product = s0 * m0
    c0 = row2.take(c1, s1 ^ k2)
    row0.words.bitwise_xor_((product >> 32) ^ k3).bitwise_and_(_WORD)
    c3, c1_next = c0.multiply(m0), row0.multiply(m1)
    c0, c2 = c1.mix(c1_next, k4), row3.take(c3, (product & _WORD) ^ k5)
    c1 = c1_next
    for k0, k1 in rest:
        product0, product1 = c0.multiply(m0), c2.multiply(m1)
        c0, c1, c2, c3 = c1.mix(product1, k0), product1, c3.mix(product0, k1), product0
    return [c0.words, c1.words.bitwise_and_(_WORD), c2.words, c3.words.bitwise_and_(_WORD)]


def _key_words(key: tuple[int, int]) -> list[list[int]]:
    """The two key words of every round, as numbers."""
    return [
        [(word + r * weyl) & _WORD for r in range(_ROUNDS)]
        for word, weyl in zip(key, _WEYL, strict=True)
    ]


def _signed(number: int, bits: int) -> int:
    """The signed integer of so many bits that ``number`` is modulo 2^bits."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


@functools.cache
def _products_of_counters(count: int) -> Tensor:
    """The first product of the counters from 0 on, modulo 2^64, int64 (count,)."""
    return torch.arange(count).mul_(_MULTIPLIERS[0])


def _first_products(count: int) -> Tensor:
    # Pieces of all lengths share one array: at most half as long again as they are on average.
    most = max(3 * _HOST_BLOCKS // 2 + 1, count)
    return _products_of_counters(most)[:count]


def _drawn_mask(key: Tensor, shape: Shape, rate: float, offset: int) -> Tensor:
    threshold = keep_threshold(rate)
    out = torch.empty(math.prod(shape), dtype=torch.bool, device=key.device)
    random_words(key, offset, out, lambda words, part: torch.ge(words, threshold, out=part))
    return out.view(shape)


def random_uniform(key: Tensor, *, shape: Shape, dtype: DType, offset: int) -> Tensor:
    """Uniform in [0, 1): one word per float32, two per float64."""
    if key.device.type == "cpu":
        return torch.from_numpy(philox.random_uniform(key.tolist(), shape, dtype, offset=offset))
    return _drawn_uniform(key, shape, dtype, offset)


def _drawn_uniform(key: Tensor, shape: Shape, dtype: DType, offset: int) -> Tensor:
    size = math.prod(shape)
    if dtype is dtypes.float32:
        out = torch.empty(size, dtype=torch.float32, device=key.device)
        random_words(key, offset, out, lambda words, part: part.copy_(words >> 8).mul_(2.0**-24))
        return out.view(shape)
    drawn = torch.empty(2 * size, dtype=torch.int64, device=key.device)
    random_words(key, 2 * offset, drawn, lambda words, part: part.copy_(words))
    pairs = drawn.view(-1, 2)
    bits = ((pairs[:, 0] >> 5) << 26) + (pairs[:, 1] >> 6)
    return bits.to(torch.float64).mul_(2.0**-53).view(shape)


RANDOM: dict[str, Callable[..., Any]] = {
    "random_keep_mask": random_keep_mask,
    "random_uniform": random_uniform,
}
