"""Devices, and TensorFlow's process-wide switches.

Memory growth has to be chosen before a GPU is first used, and TF32 is one switch for the whole
process: it is set around each launch and then put back.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from accelkit.device import Device
from accelkit.errors import DeviceError
from accelkit_tensorflow.framework import tf

__all__ = ["discover", "native_name", "tf32"]

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


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Choose whether float32 products may run in TF32 inside the block."""
    switch = tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    if before == allowed:
        yield
        return
    switch.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        switch.enable_tensor_float_32_execution(before)
