"""Calls that were checked once, so that others like them need not be.

Small models feel every line of Python between two launches. Specs are compared, but no tensor of a
state is kept, whose memory a training step wants to reuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accelkit.device import Device
from accelkit.graph import TensorSpec
from accelkit.tensor import Tensor
from accelkit.train.compiling import Compiled

__all__ = ["CheckedBatch", "CheckedState"]


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

    @classmethod
    def of(cls, batch: Any, data: Sequence[Tensor], compiled: Compiled) -> CheckedBatch | None:
        """The batch that a program takes as this data; None where that is not the user's own."""
        inputs, targets, weights = data
        if type(batch) is not tuple or len(batch) != 2:
            return None
        if inputs is not batch[0] or targets is not batch[1]:
            return None
        return cls(inputs.spec, targets.spec, weights, compiled)

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


class CheckedState(NamedTuple):
    """The tensors of a training state that was evaluated.

    Attributes:
        specs: Of all of them, by name.
        used: Names of those that the program takes, in the order of its inputs.
    """

    specs: Mapping[str, TensorSpec]
    used: Sequence[str]

    def operands(self, tensors: Mapping[str, Tensor], device: Device) -> list[Tensor] | None:
        """What the program takes of tensors that differ in their content at most, else None."""
        if {name: t.spec for name, t in tensors.items()} != self.specs:
            return None
        found = [tensors[name] for name in self.used]
        return found if all(t._device is device for t in found) else None
