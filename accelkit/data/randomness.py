"""The order of an epoch and each sample's randomness, as pure functions.

Both come from Philox4x32-10 (:mod:`accelkit.random`): the order depends on the seed and the
epoch alone, a sample's draws on the seed, the epoch and the sample's index. So neither depends
on the number of workers, on the batch size, or on where a run was interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from accelkit.random import philox4x32, philox4x32_block, subkey
from accelkit.random.normals import normals_of_words

__all__ = [
    "SampleRandom",
    "epoch_order",
    "integers",
    "normals",
    "sample_randoms",
    "sample_words",
]

_WORD: Final = 0xFFFFFFFF
_FIRST_BLOCKS: Final = 4


def epoch_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A uniformly random permutation of ``range(count)``, a pure function of its arguments.

    Every index gets a random 64-bit key, and the indices are sorted by it.
    """
    blocks = np.arange((count + 1) // 2)
    key = subkey(seed, epoch, "accelkit.data.order", 0)
    words = philox4x32((blocks & _WORD, blocks >> 32, 0, 0), key)
    keys = np.stack(words, axis=-1).view(np.uint64).reshape(-1)[:count]
    return np.argsort(keys, kind="stable")


class SampleRandom:
    """The random draws for one sample, in the order in which a transform asks for them."""

    __slots__ = ("_index", "_key", "_next", "_words")

    def __init__(self, key: tuple[int, int], index: int, words: Sequence[int] = ()) -> None:
        self._key = key
        self._index = index
        self._words = list(words)
        self._next = 0

    def word(self) -> int:
        """A uniform 32-bit integer."""
        if self._next == len(self._words):
            counter = (self._index & _WORD, self._index >> 32, len(self._words) // 4, 0)
            self._words.extend(philox4x32_block(counter, self._key))
        self._next += 1
        return self._words[self._next - 1]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform number in [low, high), from 24 random bits."""
        return low + (high - low) * ((self.word() >> 8) * 2.0**-24)

    def integer(self, count: int) -> int:
        """A uniform integer in [0, count); the bias is at most ``count * 2**-32``."""
        return (self.word() * count) >> 32

    def normal(self) -> float:
        """A standard normal, by the inverse of the distribution function."""
        return float(normals(np.array(self.word(), np.uint32)))


def sample_words(
    seed: int, epoch: int, indices: npt.NDArray[np.int64], blocks: int = _FIRST_BLOCKS
) -> npt.NDArray[np.uint32]:
    """The first words of the draws of N samples, shape (N, 4 * blocks), computed together."""
    key = _sample_key(seed, epoch)
    column = indices.reshape(-1, 1)
    counter = (column & _WORD, column >> 32, np.arange(blocks), 0)
    return np.stack(philox4x32(counter, key), axis=-1).reshape(len(indices), 4 * blocks)


def sample_randoms(seed: int, epoch: int, indices: npt.NDArray[np.int64]) -> list[SampleRandom]:
    """The draws of many samples."""
    key = _sample_key(seed, epoch)
    words = sample_words(seed, epoch, indices)
    return [
        SampleRandom(key, index, row)
        for index, row in zip(indices.tolist(), words.tolist(), strict=True)
    ]


def integers(words: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.int64]:
    """:meth:`SampleRandom.integer` of many words."""
    return ((words.astype(np.uint64) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def normals(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """:meth:`SampleRandom.normal` of many words."""
    return normals_of_words(words)


@functools.lru_cache(maxsize=64)
def _sample_key(seed: int, epoch: int) -> tuple[int, int]:
    return subkey(seed, epoch, "accelkit.data.sample", 0)
