"""Whether a step stays within its memory limit, as the backend measures it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from accelkit.device import Device
from accelkit.registry import backend
from accelkit.tensor import Tensor
from accelkit.train.memory import format_bytes

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
        compiles_late: Whether the first step compiles: what the compiler needs, and the code that
            it leaves, are not the step's memory, so the peak is that from the second step on.
    """

    def __init__(
        self,
        device: Device,
        state: Iterable[Tensor],
        limit_bytes: int,
        *,
        compiles_late: bool = False,
    ) -> None:
        self._device = device
        self._backend = backend(device.backend)
        self._limit_bytes = limit_bytes
        self._checks = _CHECKS
        self._held_bytes = sum(t.spec.memory_bytes for t in state if t.device is device)
        self._compiles_late = compiles_late
        self._begin()

    def _begin(self) -> None:
        self._backend.reset_peak_memory(self._device)
        found = self._backend.memory(self._device)
        self._other_bytes = (found.in_use_bytes or 0) - found.file_bytes - self._held_bytes

    def measured_bytes(self) -> int | None:
        """The peak so far, files mapped into memory not counted; None where none is measured."""
        found = self._backend.memory(self._device)
        if found.peak_bytes is None or found.in_use_bytes is None:
            return None
        return found.peak_bytes - found.file_bytes - self._other_bytes

    def check(self, *, has_run: bool = True) -> None:
        """Called before each step: warns once if those before it took too much.

        Args:
            has_run: Whether there was one before it.
        """
        if self._checks == 0 or not has_run:
            return
        if self._compiles_late:
            self._compiles_late = False
            self._backend.synchronize(self._device)
            self._begin()
            return
        self._checks -= 1
        measured = self.measured_bytes()
        found = self._backend.memory(self._device)
        if measured is not None and measured > self._limit_bytes + found.noise_bytes:
            self._checks = 0
            warnings.warn(
                f"The training step took {format_bytes(measured)}, more than its memory limit of "
                f"{format_bytes(self._limit_bytes)} (measured by: {found.method}). Workspaces of "
                f"kernels can be larger than predicted, and other threads of the process can have "
                f"allocated memory. Lower memory_limit by the difference if it must be kept.",
                MemoryLimitWarning,
                stacklevel=3,
            )
