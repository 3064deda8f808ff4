"""Batches made by copying memory alone: regions of packed records, straight into the batch.

A source with ``record_shape`` and ``gather`` holds records of one shape in memory (or mapped); a
transform with ``plain_crops`` can say, for many samples at once, which regions it would take if
it need not resample them. Together they make a batch at nearly the speed of a plain copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from accelkit.data.randomness import sample_words
from accelkit.data.records import Array, Source
from accelkit.data.transforms import PlainCrops, Transform

__all__ = ["Gatherer"]

Indices = npt.NDArray[np.int64]

_CHUNK: Final = 4096  # samples; a batch's own draws would cost a quarter of its copy
_CHUNKS_KEPT: Final = 3
_BLOCKS: Final = 2  # of random words: as many as the transforms here take


class Gatherer:
    """Copies batches of a source, where source and transform allow it.

    Args:
        source: Where the records are.
        transform: What is to be done with them; None for nothing.
        seed: Decides the draws.
        order: Gives the indices of the samples from one place of an epoch to another.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | None,
        seed: int,
        order: Callable[[int, int, int], Indices],
    ) -> None:
        self._source: Any = source
        self._plan = None if transform is None else getattr(transform, "plain_crops", None)
        self._is_possible = getattr(source, "gather", None) is not None and (
            transform is None or self._plan is not None
        )
        self._seed = seed
        self._order = order
        self._chunks: dict[tuple[int, int], PlainCrops | None] = {}
        self._lock = threading.Lock()

    def fill(self, epoch: int, first: int, indices: Indices, images: Array, labels: Array) -> bool:
        """Make the samples from place ``first`` of an epoch on; whether that was possible.

        Args:
            epoch: Which pass over the data.
            first: Place of the first sample in the epoch's order.
            indices: The samples, shape (N,).
            images: Where they go, shape (N, ...).
            labels: Where their labels go, shape (N,).

        Raises:
            CorruptDataError: for a damaged record.
        """
        crops = self._crops(epoch, first, len(indices)) if self._is_possible else None
        if crops is None:
            return False
        labels[...] = self._source.gather(indices, images[:, : crops.size[0]], crops.corners)
        crops.complete(images)
        return True

    def _crops(self, epoch: int, first: int, count: int) -> PlainCrops | None:
        parts = []
        for chunk in range(first // _CHUNK, -(-(first + count) // _CHUNK)):
            crops = self._chunk(epoch, chunk)
            if crops is None:
                return None
            start = first - chunk * _CHUNK
            parts.append(crops[max(start, 0) : start + count])
        return parts[0] if len(parts) == 1 else PlainCrops.joined(parts)

    def _chunk(self, epoch: int, chunk: int) -> PlainCrops | None:
        """The crops of all samples of a chunk; the last few chunks are kept."""
        with self._lock:
            if (epoch, chunk) in self._chunks:
                return self._chunks[epoch, chunk]
            shape = self._source.record_shape
            start, stop = chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self._source))
            if self._plan is None:
                corners = np.zeros((stop - start, 2), np.int64)
                crops: PlainCrops | None = PlainCrops(corners, shape[:2])
            else:
                indices = self._order(epoch, start, stop)
                crops = self._plan(shape, sample_words(self._seed, epoch, indices, _BLOCKS))
            while len(self._chunks) >= _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[epoch, chunk] = crops
            return crops
