"""Optimizer state on the host: on the device only while it is updated.

A step with host state runs in parts (:mod:`accelkit.partitioned`). Each part begins where the slots
of a few parameters are needed and ends where they have been updated, so that the device never
holds more of them than the largest. What is computed is the same (Ren et al., 2021, "ZeRO-Offload",
keep the arithmetic of the update on the host as well; here it stays on the device, and the bits
with it).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from accelkit.arguments import require_bool
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.ops.coercion import put
from accelkit.registry import backend
from accelkit.tensor import Tensor

__all__ = ["check_host_state", "host_device", "offloaded", "on_host"]


def check_host_state(host_state: object, device: Device) -> None:
    """Warn where the device's memory is the host's: there keeping slots on the host saves nothing.

    Raises:
        OptionError: if it is neither True nor False.
    """
    require_bool("host_state", host_state)
    if host_state and not backend(device.backend).has_own_memory(device):
        warnings.warn(
            f"host_state=True saves no memory on {device}, whose memory is the host's: optimizer "
            f"state is only copied to and fro. Leave it out here; accumulate= and remat= save "
            f"memory on every device.",
            stacklevel=3,
        )


def host_device() -> Device:
    """Where host state lives: the NumPy backend's device."""
    return find_device("numpy")


def offloaded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with its optimizer slots on the host, wherever they were."""
    host = host_device()
    return {
        name: put(t.numpy(), host) if name.startswith("optimizer.") and t.device is not host else t
        for name, t in tensors.items()
    }


def on_host(changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Results of a step, of which the optimizer slots are NumPy arrays."""
    host = host_device()
    return {
        name: Tensor._eager(t._native, host) if name.startswith("optimizer.") else t
        for name, t in changed.items()
    }
