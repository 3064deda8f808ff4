"""Whether a step stays within its memory limit, as the backend measures it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from accelkit.device import Device
from accelkit.registry import backend
from accelkit.tensor import Tensor

__all__ = ["MemoryLimitWarning", "PeakWatch"]

_CHECKS = 2  # an asynchronous device may not have begun when the first one is made


class MemoryLimitWarning(UserWarning):
    """A training step took more memory than its limit."""


class PeakWatch:
    """Measures from now on, and warns if steps take more than they may.

    Args:
        device: Where the steps run.
        state: The training state, which belongs to what is measured. What else is in use now does
            not.
        limit_bytes: For state, batch and intermediates.
    """

    def __init__(self, device: Device, state: Iterable[Tensor], limit_bytes: int) -> None:
        self._device = device
        self._backend = backend(device.backend)
        self._limit_bytes = limit_bytes
        self._checks = _CHECKS
        self._backend.reset_peak_memory(device)
        found = self._backend.memory(device)
        held = sum(t.spec.memory_bytes for t in state if t.device is device)
        self._other_bytes = (found.in_use_bytes or 0) - found.file_bytes - held

    def measured_bytes(self) -> int | None:
        """The peak so far, files mapped into memory not counted; None where none is measured."""
        found = self._backend.memory(self._device)
        if found.peak_bytes is None or found.in_use_bytes is None:
            return None
        return found.peak_bytes - found.file_bytes - self._other_bytes

    def check(self) -> None:
        """Called before each step: warns once if those before it took too much."""
        if self._checks == 0:
            return
        self._checks -= 1
        measured = self.measured_bytes()
        found = self._backend.memory(self._device)
        if measured is not None and measured > self._limit_bytes + found.noise_bytes:
            self._checks = 0
            warnings.warn(
                f"The training step took {measured / 2**20:.1f} MiB, more than its memory limit of "
                f"{self._limit_bytes / 2**20:.1f} MiB (measured by: {found.method}). Workspaces of "
                f"kernels can be larger than predicted, and other threads of the process can have "
                f"allocated memory. Lower memory_limit by the difference if it must be kept.",
                MemoryLimitWarning,
                stacklevel=3,
            )
