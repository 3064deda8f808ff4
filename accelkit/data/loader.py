"""Batches of a source, epoch after epoch, from a position that a checkpoint can hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final, Literal

from accelkit.arguments import require_integer
from accelkit.data.batches import Batch, BatchPlan, Position
from accelkit.data.closing import Closing
from accelkit.data.images import MAX_PIXELS
from accelkit.data.records import Source
from accelkit.data.streams import ProcessStream, SerialStream, Stream, ThreadStream
from accelkit.data.transforms import Transform
from accelkit.errors import IncompatibleCheckpointError, OptionError

__all__ = ["Loader"]

_log = logging.getLogger("accelkit.data")

# Each worker is a process and each thread holds a batch: more than the largest hosts have cores
# is a slip of the pen, which would fill the memory before the first batch.
_MOST_AT_ONCE: Final = 1024


class Loader(Closing):
    """Batches in an order, and with pixels, that depend on ``seed`` and the data alone.

    Neither the number of workers or threads, nor shards, nor an interruption changes them. Each
    ``for`` loop over the loader runs to the end of the current epoch.

    Args:
        source: Where the samples come from.
        batch_size: Samples in a batch, over all shards.
        transform: What makes an array of each image; None keeps them as they are.
        shuffle: Visit each epoch in an order of its own.
        seed: Decides the order and the augmentation.
        shard_index: Which part of each batch this host loads.
        shard_count: Number of hosts. All together load what one host would.
        partial: The samples left at the end of an epoch: ``"drop"`` them, ``"pad"`` the batch
            with rows of weight 0, or ``"keep"`` a smaller batch.
        on_corrupt: A sample that cannot be read: ``"raise"``, or ``"skip"`` it (a row of weight
            0), name it in the log and count it.
        workers: Worker processes (needs Grain), at most 1,024; 0 for none.
        threads: Threads instead of workers, at most 1,024; 0 makes batches when they are asked for.
        buffer: Batches to make ahead, beyond the one that each worker or thread is busy with; at
            most 1,024.
        worker_restarts: How many deaths of workers to recover from before giving up.
        max_pixels: Larger images count as unreadable.

    Raises:
        OptionError: for a value outside its range.
        DataError: if the data do not fill a batch, or no sample can be read.

    Example:
        >>> from accelkit.data import Loader, ShapesSource
        >>> loader = Loader(ShapesSource(100), batch_size=32, seed=1)
        >>> [batch.image.shape for batch in loader]
        [(32, 32, 32, 3), (32, 32, 32, 3), (32, 32, 32, 3)]
        >>> loader.position
        Position(epoch=1, sample=0)
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        transform: Transform | None = None,
        shuffle: bool = True,
        seed: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
        partial: Literal["drop", "pad", "keep"] = "drop",
        on_corrupt: Literal["raise", "skip"] = "raise",
        workers: int = 0,
        threads: int = 0,
        buffer: int = 2,
        worker_restarts: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for name, count in {"workers": workers, "threads": threads, "buffer": buffer}.items():
            require_integer(name, count, least=0, most=_MOST_AT_ONCE)
        require_integer("worker_restarts", worker_restarts, least=0)
        if workers and threads:
            raise OptionError(
                f"workers is {workers} and threads is {threads}; expected one of them, not both."
            )
        self.plan = BatchPlan(
            source,
            batch_size,
            transform,
            shuffle,
            seed,
            shard_index,
            shard_count,
            partial,
            on_corrupt,
            max_pixels,
        )
        self.skipped = 0
        self._position = Position()
        self._workers = workers
        self._threads = threads
        self._buffer = buffer
        self._restarts = worker_restarts
        self._stream: Stream | None = None

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"<Loader of {plan.source!r}, batch_size {plan.batch_size}, seed {plan.seed}, "
            f"{len(self)} batches an epoch, at epoch {self._position.epoch} sample "
            f"{self._position.sample}>"
        )

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return self.plan.batches_from(0)

    @property
    def position(self) -> Position:
        """Where the next batch starts."""
        return self._position

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        epoch = self._position.epoch
        while self._position.epoch == epoch:
            yield self._next()

    def _next(self) -> Batch:
        if self._stream is None:
            self._stream = self._open()
        try:
            batch = self._stream.next()
        except BaseException:
            self.close()  # trying again then starts with this batch, not with the one after it
            raise
        for entry in batch.skipped:
            _log.warning("Skipped sample %d, %s: %s", entry.index, entry.name, entry.reason)
        self.skipped += len(batch.skipped)
        self._position = batch.position
        return batch

    def _open(self) -> Stream:
        plan, start = self.plan, self._position
        if self._workers:
            return ProcessStream(
                plan, start, workers=self._workers, buffer=self._buffer, restarts=self._restarts
            )
        if self._threads:
            return ThreadStream(plan, start, threads=self._threads, buffer=self._buffer)
        return SerialStream(plan, start)

    def seek(self, position: Position) -> None:
        """Continue from another place; batches made ahead are dropped.

        Raises:
            OptionError: if it lies outside of the data.
        """
        if position.epoch < 0 or position.sample < 0 or not self.plan.batches_from(position.sample):
            raise OptionError(
                f"{position} lies outside of the {len(self.plan.source)} samples of an epoch."
            )
        if position != self._position:
            self.close()
        self._position = position

    def state(self, position: Position | None = None) -> dict[str, Any]:
        """What a checkpoint needs to continue from ``position``, by default the current one.

        With batches on their way to a device, give the ``position`` of the last batch that was
        used; :class:`accelkit.data.Prefetcher` does.
        """
        place = position or self._position
        return {
            "epoch": place.epoch,
            "sample": place.sample,
            "seed": self.plan.seed,
            "shuffle": self.plan.shuffle,
            "count": len(self.plan.source),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken. Batch size, shards and workers may have changed.

        Raises:
            IncompatibleCheckpointError: if the state belongs to other data, or to another order.
        """
        expected = {k: v for k, v in self.state().items() if k not in ("epoch", "sample")}
        given = {name: state.get(name) for name in expected}
        if given != expected:
            raise IncompatibleCheckpointError(
                f"The data position belongs to other data or another order: it was taken with "
                f"{given}, this loader has {expected}."
            )
        try:
            self.seek(Position(state["epoch"], state["sample"]))
        except (KeyError, TypeError, OptionError) as error:
            raise IncompatibleCheckpointError(f"{state} is no position of a loader.") from error

    def close(self) -> None:
        """Stop threads and workers; iterating again starts them again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
