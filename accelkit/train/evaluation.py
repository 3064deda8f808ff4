"""The compiled evaluation step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from accelkit.backend import Executable
from accelkit.compilation import run
from accelkit.device import Device, current_device
from accelkit.device import device as find_device
from accelkit.errors import DeviceMismatchError, OptionError
from accelkit.graph import Graph, TensorSpec
from accelkit.losses import Loss
from accelkit.metrics import Metric
from accelkit.nn.module import Module, flatten_names
from accelkit.tensor import Tensor
from accelkit.train.batch import Batch, Feed
from accelkit.train.checked import CheckedBatch, CheckedState
from accelkit.train.compiling import Compiled, compile_step
from accelkit.train.metrics import StepMetrics
from accelkit.train.offload import host_device
from accelkit.train.precision import policy
from accelkit.train.program import StepProgram, build_eval_program
from accelkit.train.recipe import Recipe
from accelkit.train.state import TrainState, averaged_names

__all__ = ["EvalStep"]


class EvalStep:
    """Loss and metrics without dropout, update or gradients, compiled once for one device.

    Args:
        model: Any module.
        loss: One number per sample.
        device: Where it runs; the default device if None.
        metrics: What to report beside the loss.
        precision: As in :class:`~accelkit.train.TrainStep`.
        preprocess: As in :class:`~accelkit.train.TrainStep`.
        averaged: Whether to evaluate the averages that :func:`accelkit.optim.averaged` keeps of a
            training state's weights instead of the weights.
    """

    def __init__(
        self,
        model: Module,
        loss: Loss,
        *,
        device: str | Device | None = None,
        metrics: Sequence[Metric] = (),
        precision: str = "float32",
        preprocess: Callable[[Tensor], Tensor] | None = None,
        averaged: bool = False,
    ) -> None:
        self.device = current_device() if device is None else find_device(device)
        self.precision = precision
        self._policy = policy(precision, self.device)
        self.recipe = Recipe(model, loss, metrics, self._policy.dtype, preprocess)
        self._compiled: dict[Any, Compiled] = {}
        self._feed = Feed(loss, self.recipe.dtype, self.device)
        self._averaged = averaged
        self._last: tuple[CheckedBatch, CheckedState] | None = None

    def __repr__(self) -> str:
        return (
            f"<EvalStep of {type(self.recipe.model).__name__} in {self.precision} on "
            f"{self.device}, {len(self._compiled)} programs compiled>"
        )

    def __call__(self, state: TrainState | Mapping[str, Any], batch: Any) -> StepMetrics:
        """The weighted means over one batch. The state is not consumed.

        Args:
            state: A training state, or a model's nested parameters.
            batch: As for a training step; smaller ones are padded.
        """
        compiled, operands = self._as_before(state, batch) or self._check(state, batch)
        (vector,) = run(compiled.executable, operands)
        return StepMetrics(compiled.program.metric_names, vector, is_evaluation=True)

    def graph(self, state: TrainState | Mapping[str, Any], batch: Any) -> Graph:
        """The graph of the step for a batch like this one, before any pass: ``print`` it."""
        return self._trace(self._tensors(state), self._sized(batch).specs).graph

    def compile(self, state: TrainState | Mapping[str, Any], batch: Any) -> Executable:
        """Compile the step for batches like this one now instead of at the first call.

        The executable's ``graph`` is what the backend compiled; :meth:`operands` gives its inputs.
        """
        return self._compile(self._tensors(state), self._sized(batch)).executable

    def operands(self, state: TrainState | Mapping[str, Any], batch: Any) -> list[Tensor]:
        """What the compiled step takes for this state and batch, in the order of its inputs."""
        return self._check(state, batch)[1]

    def run(
        self, state: TrainState | Mapping[str, Any], batches: Iterable[Any]
    ) -> dict[str, float]:
        """The weighted means over all samples of all batches.

        Args:
            state: As for a call.
            batches: Any iterable of batches, each as for a call.

        Raises:
            OptionError: if there is no batch, or one is given in place of several.
        """
        if not isinstance(batches, Iterable):
            raise OptionError(
                f"`run` takes batches, as a list or any iterable, got {type(batches).__name__}."
            )
        if isinstance(batches, tuple) and any(hasattr(part, "dtype") for part in batches):
            raise OptionError(
                "`run` takes batches, got one: call the step itself, or give a list, "
                "[(inputs, targets)]."
            )
        found: list[tuple[float, StepMetrics]] = []
        for batch in batches:
            parts = self._feed.read(batch)
            weight = self._feed.total_weight(parts)
            if weight > 0.0:  # else the loss leaves out all of it
                found.append((weight, self(state, parts)))
        if not found:
            raise OptionError("There is nothing to evaluate: no batch was given that counts.")
        total = sum(weight for weight, _ in found)
        names = found[0][1].names
        return {n: sum(weight * m[n] for weight, m in found) / total for n in names}

    def _as_before(self, state: Any, batch: Any) -> tuple[Compiled, list[Tensor]] | None:
        """The program and its operands if only contents differ from those of the last call."""
        if self._last is None or type(state) is not TrainState:
            return None
        checked, checked_state = self._last
        if not checked.is_like(batch, self.device):
            return None
        operands = checked_state.operands(state.tensors, self.device)
        if operands is None:
            return None
        compiled = checked.compiled
        return compiled, [*operands, *batch, checked.weights, *compiled.program.captured]

    def _check(
        self, state: TrainState | Mapping[str, Any], batch: Any
    ) -> tuple[Compiled, list[Tensor]]:
        """The program for a call, and its operands."""
        tensors = self._tensors(state)
        parts = self._sized(batch)
        compiled = self._compile(tensors, parts)
        data = self._feed.operands(parts, compiled.program.output)
        checked = CheckedBatch.of(batch, data, compiled)
        if checked is not None and isinstance(state, TrainState):
            specs = {name: t.spec for name, t in state.tensors.items()}
            used = list(self._sources(state.tensors).values())
            self._last = checked, CheckedState(specs, used)
        return compiled, [*tensors.values(), *data, *compiled.program.captured]

    def _tensors(self, state: TrainState | Mapping[str, Any]) -> dict[str, Tensor]:
        if not isinstance(state, TrainState | Mapping):
            raise OptionError(
                f"An evaluation takes a TrainState or a model's nested parameters, got "
                f"{type(state).__name__}."
            )
        if isinstance(state, TrainState):
            held = state.tensors
            tensors = {
                n: held[at] if n == at else self._average(held[at])
                for n, at in self._sources(held).items()
            }
        else:
            tensors = {f"parameters.{n}": t for n, t in flatten_names(state)}
        for name, tensor in tensors.items():
            if tensor.device is not self.device:
                raise DeviceMismatchError(
                    f"{name} is on {tensor.device}, the evaluation runs on {self.device}."
                )
        return tensors

    def _sources(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """What the program takes, with the names that this has in a training state."""
        names = [n for n in tensors if n.startswith(("parameters.", "state."))]
        return averaged_names(names, tensors) if self._averaged else {n: n for n in names}

    def _average(self, tensor: Tensor) -> Tensor:
        """An average on the device: a training step may keep it on the host."""
        return tensor.to(self.device) if tensor.device is host_device() else tensor

    def _sized(self, given: Any) -> Batch:
        batch = self._feed.read(given)
        if self._feed.is_whole(batch):
            return batch
        return self._feed.padded(batch, [key[0] for key in self._compiled])

    def _trace(self, tensors: dict[str, Tensor], specs: list[TensorSpec]) -> StepProgram:
        weights = TensorSpec(specs[0].shape[:1], self.recipe.dtype)
        state = {name: t.spec for name, t in tensors.items()}
        return build_eval_program(self.recipe, state, [*specs, weights])

    def _compile(self, tensors: dict[str, Tensor], batch: Batch) -> Compiled:
        specs = batch.specs
        key = (batch.size, *specs, *((name, t.spec) for name, t in tensors.items()))
        found = self._compiled.get(key)
        if found is None:
            program = self._trace(tensors, specs)
            found = self._compiled[key] = compile_step(program, self.device, self._policy)
        return found
