"""The state of a training run: tensors on a device, and two integers on the host."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.errors import StateConsumedError, StateError, StateLostError
from accelkit.nn.module import nest
from accelkit.ops.coercion import put
from accelkit.optim.averaging import AVERAGE
from accelkit.tensor import Tensor

__all__ = ["Layout", "TrainState", "averaged_names", "below"]

T = TypeVar("T")


def below(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """What has a dotted name that begins with a prefix, by the rest of the name."""
    start = f"{prefix}."
    return {n[len(start) :]: value for n, value in named.items() if n.startswith(start)}


def averaged_names(names: Iterable[str], available: Container[str]) -> dict[str, str]:
    """Where the averages of parameters are in a training state.

    Args:
        names: ``parameters.*`` among others.
        available: The names of all tensors of the state.

    Returns:
        For each name that of the parameter's average, or the name itself if there is none.

    Raises:
        StateError: if there is no average at all.
    """
    found = {n: n.replace("parameters.", f"optimizer.{AVERAGE}.", 1) for n in names}
    kept = {n: at if at != n and at in available else n for n, at in found.items()}
    if all(n == at for n, at in kept.items()):
        raise StateError(
            "This state has no averages of the weights. Train with "
            "`optim.averaged(optimizer, decay)` to keep them."
        )
    return kept


class Layout:
    """What a compiled step makes of a state's tensors.

    A state that a step has returned holds the results as the framework gave them, until somebody
    looks at them: the next step takes them back as they are, and small steps feel every object.

    Args:
        kept: The tensors in the order of the program's inputs, None for those that it returns.
        device: Where the program runs.
    """

    def __init__(self, kept: Mapping[str, Tensor | None], device: Device) -> None:
        self.device = device
        self.devices = {n: device if t is None else t.device for n, t in kept.items()}
        self._kept = dict(kept)

    def tensors(self, results: Iterable[Any]) -> dict[str, Tensor]:
        """The state's tensors, given those that the program returned."""
        made = iter(results)
        return {
            name: Tensor._eager(next(made), self.device) if tensor is None else tensor
            for name, tensor in self._kept.items()
        }

    def operands(self, results: Iterable[Any]) -> list[Any]:
        """The framework's arrays of all tensors, given those that the program returned."""
        made = iter(results)
        return [next(made) if t is None else t._native for t in self._kept.values()]


class TrainState:
    """Everything that a training step changes.

    A step *consumes* the state it is given: its memory may be reused for the new one. Keep a
    ``copy()`` to go back to.

    Attributes:
        tensors: By dotted name: ``parameters.*``, ``optimizer.<slot>.*``, ``state.*``,
            ``watch``.
        step: Number of steps done.
        seed: From which initial weights and all masks come.
        device: Where the tensors are.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, step: int, seed: int, device: Device
    ) -> None:
        self._tensors = dict(tensors)
        self._layout: Layout | None = None
        self._results: list[Any] = []  # of a layout, which nobody has looked at yet
        self._consumed: dict[str, Device] | None = None  # where the tensors were
        self.step = step
        self.seed = seed
        self.device = device
        self._lost: str | None = None  # why

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name.

        Raises:
            StateConsumedError, StateLostError: if a step has taken them.
        """
        self.require_usable()
        if self._layout is not None:
            self._tensors = self._layout.tensors(self._results)
            self._layout, self._results = None, []
        return self._tensors

    @classmethod
    def of_results(cls, layout: Layout, results: list[Any], *, step: int, seed: int) -> TrainState:
        """The state after a step whose program returned these arrays."""
        state = cls({}, step=step, seed=seed, device=layout.device)
        state._layout, state._results = layout, results
        return state

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: tensors know how to travel, a framework's arrays may not."""
        if self._layout is not None:
            self._tensors = self.tensors
        return dict(self.__dict__)

    def has_layout(self, layout: Layout) -> bool:
        """Whether a program of this layout returned it, and nobody has looked at it since."""
        return self._layout is layout

    def take(self) -> list[Any]:
        """Give the framework's arrays of all tensors to a program of the state's layout."""
        layout = self._layout
        assert layout is not None
        operands = layout.operands(self._results)
        self._layout, self._results, self._consumed = None, [], layout.devices
        return operands

    def require_usable(self) -> None:
        """Refuse a state that is gone.

        Raises:
            StateConsumedError: if a training step has taken it.
            StateLostError: if a step failed after taking it.
        """
        if self._lost is not None:
            raise StateLostError(self._lost)
        if self._consumed is not None:
            raise StateConsumedError(
                f"This state (step {self.step}) was given to a training step, which reuses its "
                f"memory. Use the state that the step returned, or keep `state.copy()` before the "
                f"step."
            )

    def consume(self) -> None:
        """Give the tensors to a step."""
        self._consumed = {name: t.device for name, t in self.tensors.items()}
        self._tensors = {}

    def lose(self, reason: str) -> None:
        """Mark the tensors as destroyed by a failed step."""
        self._lost = reason

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as the model takes them."""
        return nest(below(self.tensors, "parameters"))

    @property
    def model_state(self) -> dict[str, Any]:
        """The model's statistics as the model takes them."""
        return nest(below(self.tensors, "state"))

    @property
    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's slots, by slot name and parameter."""
        return nest(below(self.tensors, "optimizer"))

    @property
    def averaged_parameters(self) -> dict[str, Any]:
        """The parameters as the model takes them, averages in place of those that have one.

        Raises:
            StateError: if the optimizer keeps none; see :func:`accelkit.optim.averaged`.
        """
        named = [n for n in self.tensors if n.startswith("parameters.")]
        found = {n: self.tensors[at] for n, at in averaged_names(named, self.tensors).items()}
        return nest(below(found, "parameters"))

    def copy(self) -> TrainState:
        """An independent copy on the same device."""
        copies = {name: t.to(t.device, copy=True) for name, t in self.tensors.items()}
        return TrainState(copies, step=self.step, seed=self.seed, device=self.device)

    def to(self, device: str | Device) -> TrainState:
        """A copy on another device, of the same or of another backend."""
        target = find_device(device)
        moved = {name: t.to(target, copy=True) for name, t in self.tensors.items()}
        return TrainState(moved, step=self.step, seed=self.seed, device=target)

    def to_host(self) -> dict[str, np.ndarray]:
        """All tensors as NumPy arrays: what a checkpoint holds."""
        return {name: t.numpy() for name, t in self.tensors.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what :meth:`to_host` returned before the state was consumed."""
        if self._consumed is not None:
            self._tensors = {n: put(arrays[n], device) for n, device in self._consumed.items()}
        self._consumed = self._lost = None

    @classmethod
    def from_host(
        cls, arrays: Mapping[str, np.ndarray], *, step: int, seed: int, device: str | Device
    ) -> TrainState:
        """The state from what :meth:`to_host` returned, on any device."""
        target = find_device(device)
        tensors = {name: put(np.asarray(a), target) for name, a in arrays.items()}
        return cls(tensors, step=step, seed=seed, device=target)

    def __repr__(self) -> str:
        if self._lost is not None or self._consumed is not None:
            error = StateConsumedError if self._lost is None else StateLostError
            return f"<TrainState step {self.step}: {error.__name__}>"
        tensors = self.tensors
        size = sum(t.spec.memory_bytes for t in tensors.values())
        return (
            f"<TrainState step {self.step}, seed {self.seed}, {len(tensors)} tensors, "
            f"{size / 2**20:.1f} MiB on {self.device}>"
        )
