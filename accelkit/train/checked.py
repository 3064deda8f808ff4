"""Batches that were checked once, so that others like them need not be."""

from __future__ import annotations

from typing import Any, NamedTuple

from accelkit.device import Device
from accelkit.graph import TensorSpec
from accelkit.tensor import Tensor
from accelkit.train.compiling import Compiled

__all__ = ["CheckedBatch"]


class CheckedBatch(NamedTuple):
    """A batch that was checked: another one like it needs no checks of its own.

    Attributes:
        inputs, targets: Specs of two tensors on the step's device.
        weights: One for each sample.
        compiled: What runs.
    """

    inputs: TensorSpec
    targets: TensorSpec
    weights: Tensor
    compiled: Compiled

    def is_like(self, batch: Any, device: Device) -> bool:
        """Whether a batch differs in its content at most."""
        if type(batch) is not tuple or len(batch) != 2:
            return False
        inputs, targets = batch
        return (
            type(inputs) is Tensor
            and type(targets) is Tensor
            and inputs._device is targets._device is device
            and inputs.spec == self.inputs
            and targets.spec == self.targets
        )
