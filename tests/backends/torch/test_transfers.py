"""Uploads on a copy stream, against a fake device whose copies happen as late as they may."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import accelkit_torch  # noqa: E402
from accelkit_torch import TorchBackend, transfers  # noqa: E402
from accelkit_torch.transfers import BLOCKS, CopyStream  # noqa: E402

from accelkit import registry  # noqa: E402
from accelkit.data import ArraySource, Loader, Prefetcher, to_device  # noqa: E402
from accelkit.device import Device  # noqa: E402


class Event:
    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.done_after: int | None = None

    def record(self, stream: str) -> None:
        assert stream == "copy"
        self.done_after = len(self.driver.copies)

    def query(self) -> bool:
        return self.driver.finished >= (self.done_after or 0)

    def synchronize(self) -> None:
        if not self.query():
            self.driver.calls.append("synchronize")
        self.driver.run(self.done_after or 0)


class Stream:
    """The computing stream: waiting for an event makes the device run the copies before it."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver

    def wait_event(self, event: Event) -> None:
        self.driver.calls.append("wait")
        self.driver.run(event.done_after or 0)


class Result:
    """A tensor on the fake device."""

    def __init__(self, driver: FakeDriver, shape: tuple[int, ...], dtype: Any) -> None:
        assert driver.stream_now == "copy"  # memory of the copy stream
        self.driver = driver
        self.value = torch.zeros(shape, dtype=dtype)
        self.used_on: list[Stream] = []

    def copy_(self, source: Any, *, non_blocking: bool) -> None:
        assert non_blocking
        assert self.driver.stream_now == "copy"
        assert source.untyped_storage().data_ptr() in self.driver.pinned_places
        self.driver.copies.append((self.value, source))

    def record_stream(self, stream: Stream) -> None:
        self.used_on.append(stream)


class FakeDriver:
    def __init__(self) -> None:
        self.copies: list[tuple[Any, Any]] = []
        self.finished = 0
        self.pinned_places: set[int] = set()
        self.stream_now = "compute"
        self.calls: list[str] = []
        self.compute = Stream(self)

    def run(self, until: int) -> None:
        for target, source in self.copies[self.finished : until]:
            target.copy_(source)
        self.finished = max(self.finished, until)

    def stream(self) -> str:
        return "copy"

    def event(self) -> Event:
        return Event(self)

    @contextlib.contextmanager
    def within(self, stream: str) -> Iterator[None]:
        self.stream_now = stream
        yield
        self.stream_now = "compute"

    def current_stream(self) -> Stream:
        return self.compute

    def pinned(self, size_bytes: int) -> Any:
        memory = torch.empty(size_bytes, dtype=torch.uint8)
        self.pinned_places.add(memory.data_ptr())
        return memory

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Result:
        return Result(self, shape, dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "float16"])
def test_the_copy_is_started_at_once_and_waited_for_on_the_device(dtype: str) -> None:
    driver = FakeDriver()
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    use = CopyStream(driver).upload(array)
    assert len(driver.copies) == 1
    assert driver.calls == []  # the host waited for nothing
    expected = array.copy()
    array[...] = 0  # the caller may change it
    result: Any = use()
    assert driver.calls == ["wait"]  # the computing stream waits, not the host
    assert result.used_on == [driver.compute]
    np.testing.assert_array_equal(result.value.numpy(), expected)


def test_pinned_memory_is_used_again_but_never_too_early() -> None:
    driver = FakeDriver()
    stream = CopyStream(driver)
    arrays = [np.full((5, 7), number, np.uint8) for number in range(10)]
    uses = [stream.upload(array) for array in arrays]  # the device does nothing meanwhile
    assert len(driver.pinned_places) == BLOCKS
    assert driver.calls == ["synchronize"] * (10 - BLOCKS)  # the host slows down to the device
    for use, array in zip(uses, arrays, strict=True):
        result: Any = use()
        np.testing.assert_array_equal(result.value.numpy(), array)


def test_a_device_that_keeps_up_needs_one_block_and_no_waiting() -> None:
    driver = FakeDriver()
    stream = CopyStream(driver)
    for number in range(6):
        stream.upload(np.full(9, number, np.float32))
        driver.run(len(driver.copies))
    assert len(driver.pinned_places) == 1
    assert driver.calls == []


def test_blocks_of_sizes_no_longer_used_are_freed() -> None:
    driver = FakeDriver()
    stream = CopyStream(driver)
    uses = [stream.upload(np.full(size, size, np.uint8)) for size in range(1, 30)]
    assert len(stream._blocks) == transfers.MOST_SIZES
    for size, use in enumerate(uses, 1):
        result: Any = use()
        assert result.value.tolist() == [size] * size


def test_only_devices_with_streams_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeDriver] = []

    def driver(device: Any) -> FakeDriver:
        made.append(FakeDriver())
        return made[-1]

    monkeypatch.setattr(accelkit_torch, "Driver", driver)
    backend = TorchBackend()
    array = np.arange(6, dtype=np.uint8)
    np.testing.assert_array_equal(backend.upload(array, Device("torch", "cpu", 0))(), array)
    assert not made
    for index in (0, 1, 0):
        result = backend.upload(array, Device("torch", "cuda", index))()
        np.testing.assert_array_equal(result.value.numpy(), array)
    assert len(made) == 2


def test_a_prefetcher_starts_the_next_copy_before_a_batch_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = FakeDriver()
    stream = CopyStream(driver)
    backend = registry.backend("torch")

    def upload(array: np.ndarray, device: Device) -> Any:
        use = stream.upload(array)
        return lambda: use().value  # type: ignore[attr-defined]

    monkeypatch.setattr(backend, "upload", upload)
    images = np.arange(40, dtype=np.uint8).reshape(20, 2)
    loader = Loader(ArraySource(images, np.arange(20)), batch_size=4, shuffle=False)
    with Prefetcher(loader, to_device("torch")) as batches:
        for number, (arrays, _) in enumerate(batches):
            assert arrays["inputs"].numpy().tolist() == images[4 * number : 4 * number + 4].tolist()
            assert arrays["targets"].tolist() == list(range(4 * number, 4 * number + 4))
    assert driver.calls.count("wait") == 5
