"""Transfers ahead of the training step, so that copying and loading overlap computing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from accelkit import dtypes, registry
from accelkit.arguments import require_callable, require_integer
from accelkit.backend import translated
from accelkit.data.batches import Batch, Position
from accelkit.data.closing import Closing
from accelkit.data.loader import Loader
from accelkit.data.records import Array
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.ops.coercion import require_dtype
from accelkit.tensor import Tensor

__all__ = ["Prefetcher", "Transfer", "WaitTimes", "to_device"]

OnDevice = TypeVar("OnDevice")


class Transfer(Generic[OnDevice]):
    """A batch on its way to a device: what ``put_batch`` may return instead of the batch itself.

    Args:
        arrive: Gives the batch. The prefetcher calls it in the thread that uses the batch, where
            what is computed next can be ordered after the copy.
    """

    def __init__(self, arrive: Callable[[], OnDevice]) -> None:
        self.arrive = arrive


def to_device(device: str | Device) -> Callable[[dict[str, Array]], Transfer[dict[str, Any]]]:
    """The ``put_batch`` of a :class:`Prefetcher` for training on ``device``.

    Inputs become tensors of the device, copied beside its computations where it can do both.
    Targets and weights stay arrays: they are small, and the step checks labels on the host.

    Raises:
        DTypeError: by the returned function, if the device has no such dtype.
    """
    target = find_device(device)
    backend = registry.backend(target.backend)

    def start(arrays: dict[str, Array]) -> Transfer[dict[str, Any]]:
        inputs = arrays["inputs"]
        require_dtype(dtypes.dtype(inputs.dtype), target)
        with translated(backend):
            finish = backend.upload(inputs, target)

        def arrive() -> dict[str, Any]:
            with translated(backend):
                return {**arrays, "inputs": Tensor._eager(finish(), target)}

        return Transfer(arrive)

    return start


@dataclass
class WaitTimes:
    """Where the time between batches went, in seconds.

    Attributes:
        data_s: The transfer thread waited for the loader.
        transfer_s: It was in ``put_batch``.
        starved_s: The training step waited for a batch.
        step_s: The training step had the batch.
    """

    data_s: float = 0.0
    transfer_s: float = 0.0
    starved_s: float = 0.0
    step_s: float = 0.0

    def __sub__(self, earlier: WaitTimes) -> WaitTimes:
        """What was added since a copy was taken."""
        return WaitTimes(
            self.data_s - earlier.data_s,
            self.transfer_s - earlier.transfer_s,
            self.starved_s - earlier.starved_s,
            self.step_s - earlier.step_s,
        )

    @property
    def starved_share(self) -> float:
        """Share of the time that the step waited for a batch, 0 to 1."""
        total = self.starved_s + self.step_s
        return self.starved_s / total if total else 0.0

    def bottleneck(self) -> str:
        """``"compute"``, ``"data"`` or ``"transfer"``: what makes the run as slow as it is."""
        if self.starved_share < 0.03:
            return "compute"
        return "data" if self.data_s >= self.transfer_s else "transfer"


class Prefetcher(Closing, Generic[OnDevice]):
    """Yields ``(put_batch(batch.arrays()), batch)`` for a loader's epoch, ``depth`` batches ahead.

    A thread takes batches from the loader and calls ``put_batch``, which should start the
    transfer and return. With a depth of 2, one batch is computed on while the next one is
    transferred. At the end of an epoch the thread goes on with the next one, so that its first
    batches are there after an evaluation; :meth:`close` gives them back.

    Args:
        loader: Its batches are taken; nothing else may iterate over it meanwhile.
        put_batch: Sends a dict of arrays to the device, see :func:`to_device`; called in the
            thread. A :class:`Transfer` that it returns is completed in the thread that iterates.
        depth: Batches on the device or on their way, at least 1.

    Example:
        >>> from accelkit.data import Loader, Prefetcher, ShapesSource
        >>> loader = Loader(ShapesSource(64), batch_size=32)
        >>> with Prefetcher(loader, lambda arrays: arrays["targets"].sum()) as batches:
        ...     for total, batch in batches:
        ...         print(total, batch.image.shape)
        ...     batches.state()["epoch"]
        144 (32, 32, 32, 3)
        132 (32, 32, 32, 3)
        1
    """

    def __init__(
        self,
        loader: Loader,
        put_batch: Callable[[dict[str, Array]], OnDevice | Transfer[OnDevice]],
        *,
        depth: int = 2,
    ) -> None:
        require_integer("depth", depth)
        require_callable("put_batch", put_batch, "Make one by to_device(device).")
        self.times = WaitTimes()
        self._loader = loader
        self._put = put_batch
        self._depth = depth
        self._position = loader.position
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ready: queue.Queue[Any] = queue.Queue()
        self._is_between_epochs = False

    def __repr__(self) -> str:
        return f"<Prefetcher, depth {self._depth}, of {self._loader!r}>"

    @property
    def position(self) -> Position:
        """Where the batch after the last one that was yielded starts."""
        return self._position

    def __iter__(self) -> Iterator[tuple[OnDevice, Batch]]:
        """The rest of the current epoch."""
        if not self._is_between_epochs:
            self._start()
        self._is_between_epochs = False
        try:
            while (item := self._next()) is not None:
                on_device, batch = item
                given = time.perf_counter()
                self._position = batch.position
                yield on_device, batch
                self.times.step_s += time.perf_counter() - given
            self._is_between_epochs = True
        finally:
            if not self._is_between_epochs:
                self.close()

    def _start(self) -> None:
        self.close()
        self._stop.clear()
        # The step holds one batch and the thread another, beyond those in the queue.
        self._ready = queue.Queue(max(1, self._depth - 1))
        self._thread = threading.Thread(target=self._fill, name="accelkit-prefetch", daemon=True)
        self._thread.start()

    def _next(self) -> tuple[OnDevice, Batch] | None:
        """Wait for a batch; None at the end of the epoch."""
        start = time.perf_counter()
        item = self._ready.get()
        self.times.starved_s += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return None
        on_device, batch = item
        return on_device.arrive() if isinstance(on_device, Transfer) else on_device, batch

    def _fill(self) -> None:
        try:
            while not self._stop.is_set():
                start = time.perf_counter()
                for batch in self._loader:
                    loaded = time.perf_counter()
                    self.times.data_s += loaded - start
                    item = (self._put(batch.arrays()), batch)
                    self.times.transfer_s += time.perf_counter() - loaded
                    self._offer(item)
                    if self._stop.is_set():
                        return
                    start = time.perf_counter()
                self._offer(None)
        except BaseException as error:  # it belongs to the consumer, whatever it is
            self._offer(error)

    def _offer(self, item: object) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def state(self) -> dict[str, Any]:
        """The loader's state after the last batch that was yielded; what a checkpoint needs."""
        return self._loader.state(self._position)

    def close(self) -> None:
        """Stop the thread. The loader goes back to just after the last batch that was yielded."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._is_between_epochs = False
            self._loader.seek(self._position)
