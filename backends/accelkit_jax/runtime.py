"""The one way into JAX: 64-bit types on, devices found, memory left to others.

JAX truncates 64-bit types unless a switch is set, and its public switch is either global or a
context of the current thread. :func:`wide_types` is that context; every call of JAX in this
backend happens inside of it, and it is never held while other code runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from accelkit.device import Device
from accelkit.errors import DeviceError

__all__ = ["device_name", "discover", "jax_device", "platform_devices", "wide_types"]

_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_ALLOCATOR = "XLA_PYTHON_CLIENT_ALLOCATOR"


def _switch() -> Any:
    """JAX's context manager for 64-bit types, which had another name before jax 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64
    from jax.experimental import enable_x64

    return enable_x64


_enable_x64 = _switch()


def wide_types() -> AbstractContextManager[Any]:
    """The context in which this thread's JAX keeps 64-bit types as they are."""
    context: AbstractContextManager[Any] = _enable_x64(True)
    return context


@contextlib.contextmanager
def _without_preallocation() -> Iterator[None]:
    """Let a GPU's memory grow on demand; JAX reads this once, when it first looks for devices.

    The user's own settings are respected, and the environment is left as it was.
    """
    if _PREALLOCATE in os.environ or _ALLOCATOR in os.environ:
        yield
        return
    os.environ[_PREALLOCATE] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PREALLOCATE, None)


@functools.cache
def discover() -> dict[str, list[jax.Device]]:
    """This process's devices by kind, the kind that JAX prefers first; CPUs are always listed.

    Where the user's JAX_PLATFORMS leaves the CPU out, so does this.

    Raises:
        DeviceError: if JAX itself fails to find devices, e.g. for a broken plugin or driver.
    """
    with _without_preallocation():
        found: dict[str, list[jax.Device]] = {}
        try:
            natives = jax.local_devices()
        except RuntimeError as error:
            raise DeviceError(f"JAX finds no usable device: {error}") from error
        for device in natives:
            found.setdefault(device.platform, []).append(device)
        if "cpu" not in found:
            with contextlib.suppress(RuntimeError):
                found["cpu"] = list(jax.local_devices(backend="cpu"))
    return found


@functools.cache
def platform_devices() -> dict[jax.Device, Device]:
    """The name of each JAX device."""
    return {
        native: Device("jax", kind, index)
        for kind, natives in discover().items()
        for index, native in enumerate(natives)
    }


def device_name(native: jax.Device) -> Device:
    """The name of a JAX device.

    Raises:
        DeviceError: if it belongs to another process.
    """
    found = platform_devices().get(native)
    if found is None:
        raise DeviceError(
            f"The JAX device {native} is not addressable by this process. Usable: "
            f"{', '.join(map(str, platform_devices().values()))}."
        )
    return found


def jax_device(device: Device) -> jax.Device:
    """The JAX device of this name.

    Raises:
        DeviceError: if there is none.
    """
    natives = discover().get(device.kind, [])
    if device.index >= len(natives):
        raise DeviceError(
            f"JAX has no device {device}. It has: "
            f"{', '.join(map(str, platform_devices().values()))}."
        )
    return natives[device.index]
