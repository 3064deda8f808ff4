"""Devices, and TensorFlow's process-wide switches.

Memory growth has to be chosen before a GPU is first used, and TF32 is one switch for the whole
process: it is set around each launch and then put back.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from accelkit import host
from accelkit.backend import MemoryStatistics
from accelkit.device import Device
from accelkit.errors import DeviceError
from accelkit_tensorflow.framework import tf

__all__ = ["discover", "memory", "native_name", "on", "reset_peak_memory", "tf32"]

_PROBE_BYTES = 1 << 20  # oneDNN's allocator counts blocks from 256 KiB on
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
_KINDS = {"GPU": "gpu", "CPU": "cpu", "TPU": "tpu"}


@functools.cache
def discover() -> dict[Device, Any]:
    """TensorFlow's logical devices by name: accelerators first, the CPU last.

    Raises:
        DeviceError: if TensorFlow itself fails to find devices, e.g. for a broken driver.
    """
    found = {}
    try:
        _let_memory_grow()
        for kind in ("TPU", "GPU", "CPU"):
            for index, logical in enumerate(tf.config.list_logical_devices(kind)):
                found[Device("tensorflow", _KINDS[kind], index)] = logical
    except (RuntimeError, tf.errors.OpError) as error:
        raise DeviceError(f"TensorFlow finds no usable device: {error}") from error
    return found


def _let_memory_grow() -> None:
    """Let a GPU's memory grow on demand, unless the user has chosen or TensorFlow runs already."""
    if "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ:
        return
    for physical in tf.config.list_physical_devices("GPU"):
        if tf.config.get_logical_device_configuration(physical) is not None:
            continue  # the user has divided it, with limits of their own
        with contextlib.suppress(RuntimeError):  # in use already
            tf.config.experimental.set_memory_growth(physical, True)


@functools.cache
def native_name(device: Device) -> str:
    """TensorFlow's name of a device.

    Raises:
        DeviceError: if there is none.
    """
    found = discover().get(device)
    if found is None:
        listing = ", ".join(map(str, discover()))
        raise DeviceError(f"TensorFlow has no device {device}. It has: {listing}.")
    return str(found.name)


def memory(device: Device) -> MemoryStatistics:
    """What the allocator of the device has handed out, where it counts.

    On CPUs the process says little: TensorFlow's allocator there keeps what it once had, so that
    the resident set never shrinks. Where that allocator does not count, as without oneDNN, it
    keeps nothing either, and the process is what is measured.
    """
    if not _allocator_counts(device):
        return host.process_memory()
    found = tf.config.experimental.get_memory_info(_short_name(device))
    return MemoryStatistics(
        found["current"],
        found["peak"],
        "device allocator (tf.config.experimental.get_memory_info)",
    )


def reset_peak_memory(device: Device) -> None:
    """Start a new peak of :func:`memory`."""
    if _allocator_counts(device):
        tf.config.experimental.reset_memory_stats(_short_name(device))
    else:
        host.reset_peak_memory()


@functools.cache
def _allocator_counts(device: Device) -> bool:
    """Whether the device's allocator has statistics, and they are not left at zero.

    ``TF_ENABLE_ONEDNN_OPTS=0`` does the one, ``TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1`` the other.
    """
    with tf.device(native_name(device)):
        probe = tf.random.stateless_uniform([_PROBE_BYTES // 4], (0, 0))
    try:
        in_use = tf.config.experimental.get_memory_info(_short_name(device))["current"]
    except ValueError:
        return False
    del probe
    return bool(in_use >= _PROBE_BYTES)


def _short_name(device: Device) -> str:
    """A device as TensorFlow's memory functions want it, e.g. ``"GPU:0"``."""
    return f"{device.kind.upper()}:{device.index}"


def on(device: Device) -> AbstractContextManager[Any]:
    """Run what is inside on a device.

    Where TensorFlow has one device only, nothing is said: each operation would look the name up,
    which takes longer than a small kernel.
    """
    name = native_name(device)
    return _NOTHING if len(discover()) == 1 else tf.device(name)


def tf32(allowed: bool) -> AbstractContextManager[None]:
    """Choose whether float32 products may run in TF32 inside the block."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    return _NOTHING if before == allowed else _switched(allowed)


@contextlib.contextmanager
def _switched(allowed: bool) -> Iterator[None]:
    enable = tf.config.experimental.enable_tensor_float_32_execution
    enable(allowed)
    try:
        yield
    finally:
        enable(not allowed)
