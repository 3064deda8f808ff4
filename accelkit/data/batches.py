"""How one batch is made: a pure function of the epoch and the place in it.

Because nothing else enters, any number of threads, processes or machines can make the batches,
in any order, and a run can continue from any place.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from accelkit.arguments import require_bool, require_integer
from accelkit.data.buffers import BufferPool
from accelkit.data.gathering import Gatherer
from accelkit.data.images import MAX_PIXELS
from accelkit.data.randomness import SampleRandom, epoch_order, sample_randoms
from accelkit.data.records import MOST_SAMPLES, Array, Record, Source, image_of
from accelkit.data.transforms import Transform
from accelkit.errors import CorruptDataError, DataError, OptionError
from accelkit.host import within_memory

__all__ = ["Batch", "BatchPlan", "BatchSequence", "Position", "Skipped"]


@dataclass(frozen=True)
class Position:
    """A place in the stream of samples.

    Attributes:
        epoch: Passes over the data that are complete.
        sample: Samples of the current pass that are done, over all shards.
    """

    epoch: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples side by side, on the host.

    Attributes:
        image: What the transform returned, stacked along a new first axis.
        label: int64 of shape (B,), or the stacked label arrays.
        weight: float32 of shape (B,): 1, or 0 for padding and for skipped samples.
        index: int64 of shape (B,): each row's index in the source, -1 for padding.
        position: Where the next batch starts.
        skipped: Samples of this batch that could not be read.
        work_s: Time that reading, decoding and augmenting took, in one process or thread.
        worker: Process id of the maker.
    """

    image: Array
    label: Array
    weight: npt.NDArray[np.float32]
    index: npt.NDArray[np.int64]
    position: Position
    skipped: tuple[Skipped, ...]
    work_s: float
    worker: int

    def arrays(self) -> dict[str, Array]:
        """What a training step takes: ``inputs``, ``targets``, and ``weights`` unless all are 1."""
        arrays: dict[str, Array] = {"inputs": self.image, "targets": self.label}
        return arrays if self.weight.all() else {**arrays, "weights": self.weight}


@dataclass(frozen=True)
class BatchPlan:
    """Everything that decides the content of batches; see :class:`accelkit.data.Loader`."""

    source: Source
    batch_size: int
    transform: Transform | None = None
    shuffle: bool = True
    seed: int = 0
    shard_index: int = 0
    shard_count: int = 1
    partial: Literal["drop", "pad", "keep"] = "drop"
    on_corrupt: Literal["raise", "skip"] = "raise"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not all(hasattr(self.source, name) for name in ("classes", "__len__", "__getitem__")):
            raise OptionError(
                f"`source` must be a source of accelkit.data, got {type(self.source).__name__}. "
                "Open a folder, a pack or a name by open_source(...), and wrap pairs of image and "
                "label in SequenceSource(...) or arrays in ArraySource(...)."
            )
        require_bool("shuffle", self.shuffle)
        require_integer("seed", self.seed, least=0)
        require_integer("batch_size", self.batch_size, most=MOST_SAMPLES)
        require_integer("shard_count", self.shard_count)
        if self.batch_size % self.shard_count:
            raise OptionError(
                f"batch_size is {self.batch_size} for {self.shard_count} shards; expected a "
                "positive multiple of the number of shards (it counts the samples of all)."
            )
        require_integer("shard_index", self.shard_index, least=0)
        if self.shard_index >= self.shard_count:
            raise OptionError(
                f"shard_index is {self.shard_index}, expected 0 to {self.shard_count - 1}."
            )
        if self.partial not in ("drop", "pad", "keep"):
            raise OptionError(f"partial is {self.partial!r}, expected 'drop', 'pad' or 'keep'.")
        if self.partial == "keep" and self.shard_count > 1:
            raise OptionError("partial='keep' leaves shards without samples; use 'pad' or 'drop'.")
        if self.on_corrupt not in ("raise", "skip"):
            raise OptionError(f"on_corrupt is {self.on_corrupt!r}, expected 'raise' or 'skip'.")
        if self.batches_from(0) == 0:
            raise DataError(
                f"The {len(self.source)} samples do not fill one batch of {self.batch_size}. "
                "Use a smaller batch, or partial='pad'."
            )

    def batches_from(self, sample: int) -> int:
        """How many batches of an epoch start at place ``sample`` or after it."""
        remaining = max(0, len(self.source) - sample)
        return (
            remaining // self.batch_size
            if self.partial == "drop"
            else -(-remaining // self.batch_size)
        )

    def following(self, position: Position) -> Position:
        """Where the batch after the one at ``position`` starts."""
        sample = position.sample + self.batch_size
        if self.batches_from(sample):
            return Position(position.epoch, sample)
        return Position(position.epoch + 1, 0)

    @functools.cached_property
    def form(self) -> tuple[tuple[int, ...], np.dtype[Any], tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of one image and of one label, from the first sample that can be read.

        Raises:
            DataError: if none of the first hundred can be.
        """
        failures = []
        for index in range(min(100, len(self.source))):
            random = sample_randoms(self.seed, 0, np.array([index]))[0]
            try:
                image, label = self._sample(index, random)
            except CorruptDataError as error:
                if self.on_corrupt == "raise":
                    raise
                failures.append(str(error))
                continue
            return image.shape, image.dtype, label.shape, label.dtype
        raise DataError(f"None of the first {len(failures)} samples can be read: {failures[0]}")

    @functools.cached_property
    def _buffers(self) -> BufferPool:
        return BufferPool()

    @functools.cached_property
    def _gatherer(self) -> Gatherer:
        return Gatherer(self.source, self.transform, self.seed, self._indices)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_buffers", "_gatherer")  # each process has its own
        return {name: value for name, value in self.__dict__.items() if name not in own}

    @within_memory("a batch, or the order of an epoch", "Use a smaller batch, or fewer samples")
    def build(self, position: Position) -> Batch:
        """Make this shard's part of the batch that starts at ``position``.

        Raises:
            OutOfMemoryError: if the host's memory does not hold it.
            CorruptDataError: for a sample that cannot be read, unless they are skipped.
            DataError: for a sample whose shape, dtype or label does not fit.
        """
        start = time.perf_counter()
        rows = self.batch_size // self.shard_count
        first = position.sample + self.shard_index * rows
        stop = min(first + rows, position.sample + self.batch_size, len(self.source))
        indices = self._indices(position.epoch, first, stop)
        if self.partial == "keep":
            rows = len(indices)
        shape, dtype, label_shape, label_dtype = self.form
        images = self._buffers.empty((rows, *shape), dtype)
        labels = np.zeros((rows, *label_shape), label_dtype)
        weights = np.zeros(rows, np.float32)
        numbers = np.full(rows, -1, np.int64)
        numbers[: len(indices)] = indices
        images[len(indices) :] = 0
        skipped: list[Skipped] = []
        if self._gathered(position.epoch, first, indices, images, labels):
            weights[: len(indices)] = 1.0
        else:
            skipped = self._fill(position.epoch, indices, images, labels, weights)
        return Batch(
            images,
            labels,
            weights,
            numbers,
            self.following(position),
            tuple(skipped),
            time.perf_counter() - start,
            os.getpid(),
        )

    def _gathered(
        self, epoch: int, first: int, indices: npt.NDArray[np.int64], images: Array, labels: Array
    ) -> bool:
        """Copy all records at once, where that can be done and none of them is damaged."""
        count = len(indices)
        try:
            return self._gatherer.fill(epoch, first, indices, images[:count], labels[:count])
        except CorruptDataError:
            return False  # one by one, to find which

    def _fill(
        self,
        epoch: int,
        indices: npt.NDArray[np.int64],
        images: Array,
        labels: Array,
        weights: npt.NDArray[np.float32],
    ) -> list[Skipped]:
        """Make the samples one by one; returns those that could not be read."""
        skipped = []
        randoms = sample_randoms(self.seed, epoch, indices)
        for row, (index, random) in enumerate(zip(indices.tolist(), randoms, strict=True)):
            try:
                image, label = self._sample(index, random)
            except CorruptDataError as error:
                if self.on_corrupt == "raise":
                    raise
                skipped.append(Skipped(index, self._name(index), str(error)))
                images[row] = 0
                continue
            self._check(index, image, label)
            images[row] = image
            labels[row] = label
            weights[row] = 1.0
        return skipped

    def _indices(self, epoch: int, first: int, stop: int) -> npt.NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(first, max(first, stop))
        return _cached_order(self.seed, epoch, len(self.source))[first : max(first, stop)]

    def _sample(self, index: int, random: SampleRandom) -> tuple[Array, Array]:
        record = self.source[index]
        if self.transform is not None:
            image: Array = self.transform(image_of(record, max_pixels=self.max_pixels), random)
        elif isinstance(record.content, bytes):
            image = image_of(record, max_pixels=self.max_pixels).pixels()
        else:
            image = record.content
        return image, self._label(record)

    def _label(self, record: Record) -> Array:
        if not isinstance(record.label, int):
            return record.label
        count = len(self.source.classes)
        if record.label < 0 or (count and record.label >= count):
            raise DataError(
                f"{record.name} has the label {record.label}, expected 0 to {count - 1}: the "
                f"source has {count} classes."
                if count
                else f"{record.name} has the negative label {record.label}."
            )
        return np.asarray(record.label, np.int64)

    def _check(self, index: int, image: Array, label: Array) -> None:
        shape, dtype, label_shape, label_dtype = self.form
        if (image.shape, image.dtype, label.shape, label.dtype) != self.form:
            raise DataError(
                f"Samples of one batch must have one shape: {self._name(index)} is "
                f"{image.dtype}{list(image.shape)} with a label {label.dtype}{list(label.shape)}, "
                f"others are {dtype}{list(shape)} with {label_dtype}{list(label_shape)}. Pass a "
                "transform that gives all of them the same size."
            )

    def _name(self, index: int) -> str:
        try:
            return self.source[index].name
        except CorruptDataError:
            return f"[{index}]"


@functools.lru_cache(maxsize=3)
def _cached_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return epoch_order(seed, epoch, count)


class BatchSequence:
    """The endless stream of batches from a position on, with random access.

    Args:
        plan: What decides the batches' content.
        start: Where batch 0 starts.
    """

    def __init__(self, plan: BatchPlan, start: Position) -> None:
        self.plan = plan
        self.start = start

    def __len__(self) -> int:
        return 1 << 40

    def position(self, number: int) -> Position:
        """Where batch ``number`` starts."""
        plan, start = self.plan, self.start
        first, each = plan.batches_from(start.sample), plan.batches_from(0)
        if number < first:
            return Position(start.epoch, start.sample + number * plan.batch_size)
        epochs, batch = divmod(number - first, each)
        return Position(start.epoch + 1 + epochs, batch * plan.batch_size)

    def __getitem__(self, number: int, /) -> Batch:
        return self.plan.build(self.position(number))
