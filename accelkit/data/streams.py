"""Makers of batches in order: in this thread, in several threads, or in worker processes.

All of them deliver the same batches in the same order; they differ in speed alone. Worker
processes are Grain's (https://github.com/google/grain). Grain spreads the elements of a dataset
over the workers in turn and collects them in order; here an element is a whole batch, which makes
the order independent of the number of workers and lets a stream start at any batch.
"""

from __future__ import annotations

import collections
import importlib
import logging
import multiprocessing
import os
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from accelkit.data.batches import Batch, BatchPlan, BatchSequence, Position
from accelkit.data.shared import SharedArrays, free
from accelkit.errors import DataError

__all__ = ["ProcessStream", "SerialStream", "Stream", "ThreadStream"]

_log = logging.getLogger("accelkit.data")


class Stream(Protocol):
    """An endless supply of batches."""

    def next(self) -> Batch:
        """The next batch in order."""

    def close(self) -> None:
        """Stop its threads or processes."""


class SerialStream:
    """Makes each batch when it is asked for."""

    def __init__(self, plan: BatchPlan, start: Position) -> None:
        self._sequence = BatchSequence(plan, start)
        self._number = 0

    def next(self) -> Batch:
        """Make the next batch."""
        batch = self._sequence[self._number]
        self._number += 1
        return batch

    def close(self) -> None:
        """Nothing to stop."""


class ThreadStream:
    """Makes batches ahead in threads; decoding and resizing run outside of Python's lock.

    Args:
        plan: What decides the batches' content.
        start: Where the first batch starts.
        threads: Number of threads, each busy with a batch of its own.
        buffer: Finished batches to hold beyond those.
    """

    def __init__(self, plan: BatchPlan, start: Position, *, threads: int, buffer: int) -> None:
        self._sequence = BatchSequence(plan, start)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="accelkit-data")
        self._pending: collections.deque[Future[Batch]] = collections.deque()
        self._number = 0
        self._depth = threads + buffer

    def next(self) -> Batch:
        """Wait for the next batch."""
        while len(self._pending) < self._depth:
            self._pending.append(self._executor.submit(self._sequence.__getitem__, self._number))
            self._number += 1
        return self._pending.popleft().result()

    def close(self) -> None:
        """Drop the batches that are under way and stop the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()


class _ShippedBatches:
    """What Grain's workers make: batches whose arrays travel through shared memory."""

    def __init__(self, plan: BatchPlan, start: Position, token: str) -> None:
        self._sequence = BatchSequence(plan, start)
        self._token = token

    def __len__(self) -> int:
        return len(self._sequence)

    def __getitem__(self, number: int, /) -> tuple[SharedArrays, tuple[Any, ...]]:
        batch = self._sequence[number]
        arrays = (batch.image, batch.label, batch.weight, batch.index)
        shared = SharedArrays.write(self.block_name(number), arrays)
        return shared, (batch.position, batch.skipped, batch.work_s, batch.worker)

    def block_name(self, number: int) -> str:
        """Name of the block of shared memory of one batch; macOS allows 30 characters."""
        return f"accelkit-{self._token}-{number:x}"


def _exit_with_parent(worker: int, workers: int) -> None:
    """End this worker when the training process is killed; it would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="accelkit-parent-watch", daemon=True).start()


class ProcessStream:
    """Makes batches in Grain's worker processes.

    A worker that dies (out of memory, SIGKILL) is named in the log and the workers are started
    again from the first batch that was not delivered, so that none is lost or repeated; after
    ``restarts`` such deaths the stream stops with an error.

    Args:
        plan: What decides the batches' content; it is pickled.
        start: Where the first batch starts.
        workers: Number of processes.
        buffer: Finished batches that each worker may hold.
        restarts: How many deaths to tolerate.

    Raises:
        DataError: if Grain is not installed.
    """

    def __init__(
        self, plan: BatchPlan, start: Position, *, workers: int, buffer: int, restarts: int
    ) -> None:
        try:
            self._grain: Any = importlib.import_module("grain")
        except ImportError as error:
            raise DataError(
                "Worker processes need Grain, which is not installed: pip install "
                "'accelkit[data]'. Or use threads instead of workers: the batches are the same."
            ) from error
        flags: Any = importlib.import_module("absl.flags").FLAGS
        if not flags.is_parsed():  # Grain reads its flags; a program may be no absl application
            flags.mark_as_parsed()
        plan.form  # noqa: B018 - computed once here, not in every worker
        self._plan = plan
        self._next = start
        self._workers = workers
        self._buffer = max(1, buffer)
        self._restarts = restarts
        self._delivered = 0
        self._pids: dict[int, int] = {}
        self._iterator = self._start()

    def _start(self) -> Any:
        grain = self._grain
        options = grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=self._buffer
        )
        token = f"{os.getpid():x}-{secrets.token_hex(2)}"
        self._batches = _ShippedBatches(self._plan, self._next, token)
        dataset = grain.MapDataset.source(self._batches)
        reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._delivered = 0
        return iter(dataset.to_iter_dataset(reading).mp_prefetch(options, _exit_with_parent))

    def next(self) -> Batch:
        """Wait for the next batch.

        Raises:
            DataError: if a worker died once too often; the message names it.
        """
        while True:
            worker = self._delivered % self._workers
            try:
                shared, rest = next(self._iterator)
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                self._replace(worker, error)
                continue
            break
        image, label, weight, index = shared.take()
        batch = Batch(image, label, weight, index, *rest)
        self._pids[worker] = batch.worker
        self._delivered += 1
        self._next = batch.position
        return batch

    def _replace(self, worker: int, error: RuntimeError) -> None:
        pid = self._pids.get(worker, "not known yet")
        death = (
            f"The data worker {worker} of {self._workers} (process {pid}) died while it made the "
            f"batch at sample {self._next.sample} of epoch {self._next.epoch}: {error}"
        )
        self.close()
        if self._restarts == 0:
            raise DataError(
                f"{death} No restart is left. The position is still valid: fix the cause (often "
                "too little memory), use fewer workers or threads, and resume."
            ) from error
        self._restarts -= 1
        _log.warning("%s Starting the workers again from there, nothing is lost.", death)
        self._pids.clear()
        self._iterator = self._start()

    def close(self) -> None:
        """Stop the workers."""
        # A worker killed at the wrong instant holds a lock that closing waits for.
        closing = threading.Thread(target=self._iterator.close, daemon=True)
        closing.start()
        closing.join(30)
        ahead = self._workers * (2 * self._buffer + 2)  # in Grain's two buffers and in the making
        for number in range(self._delivered, self._delivered + ahead):
            free(self._batches.block_name(number))
