"""Copies between host and device, mapped and staged, beside running kernels."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import accelkit_opencl
import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl import OpenclBackend, transfers
from accelkit_opencl.runtime import DeviceArray, Runtime
from accelkit_opencl.transfers import SLOTS, StagedTransfers

import accelkit as ak
from accelkit import dtypes, registry
from accelkit.data import Loader, Prefetcher, ShapesSource
from accelkit.data.prefetch import to_device

SLOT_BYTES = 64


@pytest.fixture(params=["mapped", "staged"])
def opened(request: pytest.FixtureRequest, runtime: Runtime) -> Runtime:
    """The device under test, opened anew with one form of transfers."""
    fresh = Runtime(runtime.device, runtime.handle)
    if request.param == "mapped" and not fresh.shares_host_memory:
        pytest.skip("the device does not share the host's memory")
    fresh.use_host_memory(request.param == "mapped")
    if request.param == "staged":
        fresh.transfers = StagedTransfers(fresh.context, fresh._transfer_queue, SLOT_BYTES)
    return fresh


class Gate:
    """Kernels queued after it wait until it is opened."""

    def __init__(self, runtime: Runtime) -> None:
        self._event = cl.UserEvent(runtime.context)
        cl.enqueue_barrier(runtime.queue, wait_for=[self._event])

    def open(self) -> None:
        self._event.set_status(cl.command_execution_status.COMPLETE)


@pytest.fixture
def gate(opened: Runtime) -> Iterator[Gate]:
    found = Gate(opened)
    yield found
    opened.synchronize()


def finishes(action: Callable[[], object]) -> bool:
    """Whether it returns although kernels do not run."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 64 * SLOTS, 64 * (2 * SLOTS + 1) + 5])
def test_round_trip(opened: Runtime, count: int) -> None:
    array = np.arange(count, dtype=np.uint8)
    held = opened.put(array)
    array[...] = 255  # later changes have no effect
    np.testing.assert_array_equal(opened.get(held), np.arange(count, dtype=np.uint8))


def test_strided_arrays_and_scalars(opened: Runtime) -> None:
    for array in (np.arange(240.0).reshape(12, 20).T[::3], np.float32(3.5).reshape(())):
        np.testing.assert_array_equal(opened.get(opened.put(array)), array)


def test_transfers_do_not_wait_for_kernels(opened: Runtime) -> None:
    before = opened.put(np.arange(1000))
    gate = Gate(opened)
    found: list[np.ndarray] = []

    def exchange() -> None:
        found.append(opened.get(opened.put(np.arange(1000) * 2)))
        found.append(opened.get(before))

    done = finishes(exchange)
    gate.open()
    assert done, "a transfer waited for kernels that do not concern it"
    np.testing.assert_array_equal(found[0], np.arange(1000) * 2)
    np.testing.assert_array_equal(found[1], np.arange(1000))


def test_kernels_wait_for_the_transfer(opened: Runtime) -> None:
    """Many uploads, each read at once: none may be read before it has arrived."""
    for index in range(50):
        copied = opened.copy(opened.put(np.full(300, index)))
        assert (opened.get(copied) == index).all()


def test_a_freed_buffer_is_not_overwritten_while_kernels_read_it(
    opened: Runtime, gate: Gate
) -> None:
    source = opened.put(np.arange(1000))
    copied = opened.copy(source)  # waits behind the gate
    held = source.buffer
    del source
    gc.collect()
    timer = threading.Timer(0.3, gate.open)
    timer.start()
    later = opened.put(np.zeros(1000, np.int64))
    assert later.buffer is held
    np.testing.assert_array_equal(opened.get(copied), np.arange(1000))
    np.testing.assert_array_equal(opened.get(later), np.zeros(1000))


def test_results_are_read_without_waiting_for_later_programs(opened: Runtime) -> None:
    result = opened.copy(opened.put(np.arange(10)))
    gate = Gate(opened)
    later = opened.copy(result)
    found: list[np.ndarray] = []
    done = finishes(lambda: found.append(opened.get(result)))
    gate.open()
    assert done
    np.testing.assert_array_equal(found[0], np.arange(10))
    np.testing.assert_array_equal(opened.get(later), np.arange(10))


def test_staging_uses_pinned_slots_and_the_second_queue(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Runtime(runtime.device, runtime.handle)
    opened.use_host_memory(False)
    opened.transfers = StagedTransfers(opened.context, opened._transfer_queue, SLOT_BYTES)
    copies: list[tuple[object, bool]] = []
    made: list[int] = []
    enqueue, buffer = cl.enqueue_copy, cl.Buffer

    def count(queue: cl.CommandQueue, *args: object, is_blocking: bool, **rest: object) -> cl.Event:
        copies.append((queue, is_blocking))
        return enqueue(queue, *args, is_blocking=is_blocking, **rest)

    def make(context: cl.Context, flags: int, *args: object, **rest: object) -> cl.Buffer:
        made.append(flags)
        return buffer(context, flags, *args, **rest)

    monkeypatch.setattr(transfers.cl, "enqueue_copy", count)
    monkeypatch.setattr(transfers.cl, "Buffer", make)
    slots = 3 * SLOTS
    array = np.arange(slots * SLOT_BYTES, dtype=np.uint8)
    held = opened.put(array)
    opened.get(held)
    opened.put(array)
    assert copies == [(opened._transfer_queue, False)] * (3 * slots)
    pinned = [flags for flags in made if flags & cl.mem_flags.ALLOC_HOST_PTR]
    assert len(pinned) == 2 * SLOTS  # each direction has a ring, made once


# --- memory that is shared ----------------------------------------------------------------------


def aligned(runtime: Runtime, count: int, offset: int = 0) -> np.ndarray:
    """Float32 numbers at a multiple of the device's alignment, plus some bytes."""
    room = np.empty(count * 4 + 2 * runtime.alignment_bytes, np.uint8)
    start = -room.ctypes.data % runtime.alignment_bytes + offset
    array = room[start : start + count * 4].view(np.float32)
    array[...] = np.arange(count)
    return array


def address(array: DeviceArray) -> int:
    view = array.runtime.view(array)
    assert view is not None
    return view.ctypes.data


@pytest.fixture
def shared(runtime: Runtime) -> Runtime:
    if not runtime.shares_host_memory:
        pytest.skip("the device does not share the host's memory")
    return runtime


class Immutable:
    """An exporter whose memory nobody can write to, as JAX's arrays are."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array.view()
        self._array.flags.writeable = False

    def __dlpack__(self, **options: object) -> object:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_immutable_memory_is_imported_without_a_copy(shared: Runtime) -> None:
    array = aligned(shared, 100)
    tensor = ak.from_dlpack(Immutable(array), device=str(shared.device))
    assert address(tensor.native) == array.ctypes.data
    np.testing.assert_array_equal((tensor + 1.0).numpy(), np.arange(100) + 1)


def test_memory_that_can_be_written_to_is_copied(shared: Runtime) -> None:
    array = aligned(shared, 100)
    frozen = array.view()
    frozen.flags.writeable = False  # but not its base
    for source in (array, frozen):
        tensor = ak.from_dlpack(source, device=str(shared.device))
        array[...] = -1.0
        np.testing.assert_array_equal(tensor.numpy(), np.arange(100))
        array[...] = np.arange(100)


def test_copy_false_shares_or_refuses(shared: Runtime) -> None:
    name = str(shared.device)
    array = aligned(shared, 100)
    tensor = ak.from_dlpack(array, device=name, copy=False)
    assert address(tensor.native) == array.ctypes.data
    for other in (aligned(shared, 100, offset=4), array[::2]):
        with pytest.raises(ak.errors.OptionError, match="cannot use this memory without a copy"):
            ak.from_dlpack(other, device=name, copy=False)
        assert ak.from_dlpack(other, device=name).numpy().tolist() == other.tolist()


def test_borrowed_memory_is_kept_until_the_kernels_have_run(shared: Runtime) -> None:
    opened = Runtime(shared.device, shared.handle)
    freed: list[int] = []

    class Noticed(np.ndarray):
        def __del__(self) -> None:
            freed.append(1)

    array = aligned(opened, 100).view(Noticed)
    borrowed = opened.share(array)
    assert borrowed is not None
    gate = Gate(opened)
    copied = opened.copy(borrowed)
    del array, borrowed
    gc.collect()
    assert not freed
    gate.open()
    np.testing.assert_array_equal(opened.get(copied), np.arange(100))
    opened.memory.release_pool()
    gc.collect()
    assert freed


def test_exports_are_read_only_views(shared: Runtime) -> None:
    tensor = ak.asarray(np.arange(60, dtype=np.int32).reshape(3, 20), device=str(shared.device))
    first, second = np.from_dlpack(tensor), np.from_dlpack(tensor)
    assert first.ctypes.data == second.ctypes.data == address(tensor.native)
    assert not first.flags.writeable
    np.testing.assert_array_equal(first, tensor.numpy())
    own = np.from_dlpack(tensor, copy=True)
    assert own.ctypes.data != first.ctypes.data


def test_an_export_outlives_its_tensor(shared: Runtime) -> None:
    opened = Runtime(shared.device, shared.handle)
    before = opened.memory.in_use_bytes
    held = opened.put(np.arange(1000))
    view = opened.view(held)
    held.allocation.free()  # ignored: somebody looks
    del held
    gc.collect()
    for index in range(5):
        opened.put(np.full(1000, index))
    np.testing.assert_array_equal(view, np.arange(1000))
    del view
    gc.collect()
    assert opened.memory.in_use_bytes == before


@pytest.mark.parametrize("kind", ["exported", "borrowed"])
def test_donation_leaves_shared_memory_alone(shared: Runtime, kind: str) -> None:
    name = str(shared.device)
    if kind == "exported":
        tensor = ak.asarray(np.arange(100, dtype=np.float32), device=name)
        outside = np.from_dlpack(tensor)
    else:
        outside = aligned(shared, 100)
        tensor = ak.from_dlpack(outside, device=name, copy=False)
    update = ak.jit(lambda x: x * 2.0, donate_argnums=(0,))
    for _ in range(2):
        tensor = update(tensor)
    np.testing.assert_array_equal(tensor.numpy(), np.arange(100) * 4)
    np.testing.assert_array_equal(outside, np.arange(100))


def test_exchange_with_frameworks(shared: Runtime) -> None:
    tensor = ak.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), device=str(shared.device))
    for package, load in (("torch", "torch"), ("jax", "jax.numpy")):
        pytest.importorskip(package)
        module = __import__(load, fromlist=["from_dlpack"])
        there = module.from_dlpack(tensor)
        np.testing.assert_array_equal(np.asarray(there), tensor.numpy())
        back = ak.from_dlpack(there, device=str(shared.device))
        assert back.device is shared.device
        np.testing.assert_array_equal(back.numpy(), tensor.numpy())


# --- the data pipeline --------------------------------------------------------------------------


def test_batches_are_put_while_kernels_run(
    opened: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OpenclBackend()
    monkeypatch.setattr(accelkit_opencl, "open_device", lambda device: opened)
    monkeypatch.setitem(registry._instances, "opencl", backend)
    gate = Gate(opened)
    loader = Loader(ShapesSource(32), batch_size=8)
    taken: list[dict] = []

    def take() -> None:
        with Prefetcher(loader, to_device(opened.device)) as batches:
            taken.extend(arrays for arrays, _ in batches)

    done = finishes(take)
    gate.open()
    assert done, "a batch waited for kernels"
    assert [arrays["inputs"].shape[0] for arrays in taken] == [8] * 4
    expected = [batch.arrays()["inputs"] for batch in loader]
    assert taken[0]["inputs"].dtype is dtypes.dtype(expected[0].dtype)
