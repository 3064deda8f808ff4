"""The numbers that change from step to step: what the optimizer needs, and keys of random sites."""

from __future__ import annotations

import numpy as np

from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.ops.coercion import put
from accelkit.optim import Optimizer
from accelkit.random.philox import subkey
from accelkit.registry import backend
from accelkit.tensor import Tensor
from accelkit.train.program import StepProgram

__all__ = ["StepNumbers"]


class StepNumbers:
    """Computes on the host what a compiled step takes besides its state and the batch.

    Args:
        optimizer: Gives the scalars.
        dtype: Of the scalars.
        device: Of the step.
    """

    def __init__(self, optimizer: Optimizer, dtype: DType, device: Device) -> None:
        self._optimizer, self._dtype, self._device = optimizer, dtype, device
        self._last: tuple[dict[str, float], Tensor] | None = None

    def operands(self, program: StepProgram, step: int, seed: int) -> list[Tensor]:
        """The optimizer's scalars, and a table of keys whose first row is the step number."""
        return [self._scalars(program, step), self._keys(program, step, seed)]

    def _keys(self, program: StepProgram, step: int, seed: int) -> Tensor:
        rows = [(step & 0xFFFFFFFF, step >> 32)]
        rows += [subkey(seed, step, path, i) for path, i in program.sites]
        staged = backend(self._device.backend).stage(np.array(rows, np.uint32), self._device)
        return Tensor._eager(staged, self._device)

    def _scalars(self, program: StepProgram, step: int) -> Tensor:
        """The same tensor as long as the numbers stay the same."""
        numbers = self._optimizer.scalars(step)
        if self._last is None or self._last[0] != numbers:
            # 0.0 and -0.0 are equal: take the former for both.
            array = np.array([numbers[n] for n in program.scalar_names], self._dtype.numpy) + 0.0
            self._last = dict(numbers), put(array, self._device)
        return self._last[1]
