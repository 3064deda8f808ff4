"""Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).

The generator is counter-based: word ``w`` of block ``b`` is a pure function of ``b`` and a key, so
any element of any draw can be computed alone, on any device, in any order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accelkit.errors import OptionError
from accelkit.random.arguments import WORD, Key, check_counter_word, check_key, check_span

__all__ = ["Words", "for_each_chunk", "philox4x32", "philox4x32_block"]

Words: TypeAlias = NDArray[np.uint32]
Convert: TypeAlias = Callable[[Words, slice], None]

_ROUNDS: Final = 10
# The constants of Philox4x32: two multipliers, and the Weyl increments of the two key words.
_MULTIPLIER_0: Final = 0xD2511F53
_MULTIPLIER_1: Final = 0xCD9E8D57
_WEYL_0: Final = 0x9E3779B9
_WEYL_1: Final = 0xBB67AE85

# As arrays without dimensions: NumPy takes them 0.3 us faster than scalars, in each of 100 calls.
_MULTIPLIER_0_ARRAY: Final = np.array(_MULTIPLIER_0, np.uint64)
_MULTIPLIER_1_ARRAY: Final = np.array(_MULTIPLIER_1, np.uint64)
_WORD_ARRAY: Final = np.array(WORD, np.uint64)
_HALF_ARRAY: Final = np.array(32, np.uint64)

# Threads pass the interpreter's lock around at every NumPy call, so a call must be long beside
# that: with 8192 blocks two threads are no faster than one, with 32768 they nearly halve the
# time, and the six work arrays (256 KB each) still stay near their core.
_CHUNK_BLOCKS: Final = 32768
# About half a millisecond of work.
_BLOCKS_WORTH_A_THREAD: Final = 16384


def philox4x32_block(counter: tuple[int, int, int, int], key: Key) -> tuple[int, int, int, int]:
    """Compute one block of Philox4x32-10 with Python integers, in a few microseconds.

    Args:
        counter: Four unsigned 32-bit words, lowest first.
        key: Two unsigned 32-bit words.

    Returns:
        The block's four words.

    Example:
        >>> [f"{word:08x}" for word in philox4x32_block((0, 0, 0, 0), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIER_0
        product1 = c2 * _MULTIPLIER_1
        c0 = (product1 >> 32) ^ c1 ^ k0
        c1 = product1 & WORD
        c2 = (product0 >> 32) ^ c3 ^ k1
        c3 = product0 & WORD
        k0 = (k0 + _WEYL_0) & WORD
        k1 = (k1 + _WEYL_1) & WORD
    return c0, c1, c2, c3


def philox4x32(counter: Sequence[ArrayLike], key: Key) -> tuple[Words, Words, Words, Words]:
    """Compute many blocks of Philox4x32-10 under one key.

    Args:
        counter: The four words of the counters, lowest first: integers or integer arrays that
            broadcast with each other, values in [0, 2^32).
        key: Two unsigned 32-bit words.

    Returns:
        The four words of every block, each a uint32 array of the broadcast shape.

    Raises:
        OptionError: if a word is not an unsigned 32-bit integer or there are not four of them.
    """
    key = check_key(key)
    if len(counter) != 4:
        raise OptionError(f"A Philox4x32 counter has 4 words, got {len(counter)}.")
    words = [check_counter_word(word) for word in counter]
    shape = np.broadcast_shapes(*(word.shape for word in words))
    work = [np.array(np.broadcast_to(word, shape), dtype=np.uint64, ndmin=1) for word in words]
    _rounds(work, [np.empty_like(work[0]) for _ in range(2)], key)
    c0, c1, c2, c3 = (word.astype(np.uint32).reshape(shape) for word in work)
    return c0, c1, c2, c3


def for_each_chunk(
    key: Key,
    start: int,
    count: int,
    make_convert: Callable[[], Convert],
    *,
    threads: int | None = None,
) -> None:
    """Draw a range of a stream piece by piece and hand every piece to a conversion.

    Args:
        key: Two unsigned 32-bit words.
        start: Index of the first element.
        count: Number of elements.
        make_convert: Called once per thread; returns the conversion ``convert(words, part)``,
            which may own scratch arrays. ``words`` holds the elements ``part`` of the draw (0
            is its first element), may be overwritten, and is valid during the call only. A
            piece begins at a multiple of 4 within the stream, except for the first one.
        threads: Number of threads; by default one per CPU that this process may use, and only
            one for small draws.
    """
    key = check_key(key)
    start, count = check_span(start, count)
    first_block, last_block = start // 4, -(-(start + count) // 4)
    blocks = last_block - first_block
    if threads is None:
        threads = min(_usable_cpus(), blocks // _BLOCKS_WORTH_A_THREAD)
    threads = max(1, threads)
    size = max(1, min(_CHUNK_BLOCKS, -(-blocks // threads)))
    chunks = range(first_block, last_block, size)

    def work(thread: int) -> None:
        convert = make_convert()
        scratch = _Scratch(size)
        for block in chunks[thread::threads]:
            words = scratch.draw(key, block, min(size, last_block - block))
            begin = max(start, 4 * block)
            end = min(start + count, 4 * block + len(words))
            convert(words[begin - 4 * block : end - 4 * block], slice(begin - start, end - start))

    if threads == 1:
        work(0)
        return
    from concurrent.futures import ThreadPoolExecutor  # not needed to import accelkit

    with ThreadPoolExecutor(threads, thread_name_prefix="accelkit-random") as pool:
        for _ in pool.map(work, range(threads)):
            pass


class _Scratch:
    """The work arrays of one thread for chunks of up to ``blocks`` blocks."""

    def __init__(self, blocks: int) -> None:
        self.index = np.arange(blocks, dtype=np.uint64)
        self.work = np.empty((4, blocks), np.uint64)
        self.products = np.empty((2, blocks), np.uint64)
        self.words = np.empty((blocks, 4), np.uint32)

    def draw(self, key: Key, block: int, blocks: int) -> Words:
        """The ``4 * blocks`` words from ``block`` on, in an array that the next call reuses."""
        work, products = list(self.work[:, :blocks]), list(self.products[:, :blocks])
        words = self.words[:blocks]
        high, low = block >> 32, block & WORD
        if low + blocks <= WORD + 1:
            np.add(self.index[:blocks], np.uint64(low), out=work[0])
            _first_rounds(work, products, high, key)
            _rounds(work, products, key, done=2)
        else:
            np.add(self.index[:blocks], np.uint64(block), out=products[0])
            np.bitwise_and(products[0], _WORD_ARRAY, out=work[0])
            np.right_shift(products[0], _HALF_ARRAY, out=work[1])
            work[2].fill(key[0])
            work[3].fill(key[1])
            _rounds(work, products, key)
        for column, word in enumerate(work):
            words[:, column] = word
        return words.reshape(-1)


def _first_rounds(
    counter: list[NDArray[np.uint64]], products: list[NDArray[np.uint64]], high: int, key: Key
) -> None:
    """Two rounds from the counter ``(counter[0], high, *key)``, of which one word varies.

    That leaves a third of the operations: the rest is done with Python's integers.
    """
    c0, c1, c2, c3 = counter
    product0, product1 = products
    k0, k1 = key
    product = k0 * _MULTIPLIER_1
    s0, s1 = (product >> 32) ^ high ^ k0, product & WORD
    np.multiply(c0, _MULTIPLIER_0_ARRAY, out=product0)
    np.right_shift(product0, _HALF_ARRAY, out=c2)  # the counter's fourth word is k1 as well
    np.bitwise_and(product0, _WORD_ARRAY, out=c3)
    k0, k1 = (k0 + _WEYL_0) & WORD, (k1 + _WEYL_1) & WORD
    product = s0 * _MULTIPLIER_0
    np.multiply(c2, _MULTIPLIER_1_ARRAY, out=product1)
    np.right_shift(product1, _HALF_ARRAY, out=c0)
    np.bitwise_xor(c0, np.array(s1 ^ k0, np.uint64), out=c0)
    np.bitwise_and(product1, _WORD_ARRAY, out=c1)
    np.bitwise_xor(c3, np.array((product >> 32) ^ k1, np.uint64), out=c2)
    c3.fill(product & WORD)


def _rounds(
    counter: list[NDArray[np.uint64]],
    products: list[NDArray[np.uint64]],
    key: Key,
    *,
    done: int = 0,
) -> None:
    """Apply the ten rounds in place to counter words that are held in 64-bit elements.

    ``done`` of them have been applied already.
    """
    c0, c1, c2, c3 = counter
    product0, product1 = products
    k0, k1 = (key[0] + done * _WEYL_0) & WORD, (key[1] + done * _WEYL_1) & WORD
    for _ in range(_ROUNDS - done):
        np.multiply(c0, _MULTIPLIER_0_ARRAY, out=product0)
        np.multiply(c2, _MULTIPLIER_1_ARRAY, out=product1)
        np.right_shift(product1, _HALF_ARRAY, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, np.array(k0, np.uint64), out=c0)
        np.bitwise_and(product1, _WORD_ARRAY, out=c1)
        np.right_shift(product0, _HALF_ARRAY, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, np.array(k1, np.uint64), out=c2)
        np.bitwise_and(product0, _WORD_ARRAY, out=c3)
        k0 = (k0 + _WEYL_0) & WORD
        k1 = (k1 + _WEYL_1) & WORD


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
