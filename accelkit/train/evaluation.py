"""The compiled evaluation step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.compilation import compile_graph, run
from accelkit.device import Device, current_device
from accelkit.device import device as find_device
from accelkit.errors import DeviceMismatchError, OptionError
from accelkit.graph import TensorSpec
from accelkit.losses import Loss
from accelkit.metrics import Metric
from accelkit.nn.module import Module, flatten_names
from accelkit.tensor import Tensor
from accelkit.train.batch import Batch, as_batch, on_device, padded
from accelkit.train.metrics import StepMetrics
from accelkit.train.program import Recipe, build_eval_program
from accelkit.train.state import TrainState
from accelkit.train.step import Compiled, resolve_precision

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
    ) -> None:
        self.device = current_device() if device is None else find_device(device)
        dtype, self._options = resolve_precision(precision, self.device)
        self.recipe = Recipe(model, loss, tuple(metrics), dtype, preprocess)
        self._compiled: dict[Any, Compiled] = {}

    def __call__(self, state: TrainState | Mapping[str, Any], batch: Any) -> StepMetrics:
        """The weighted means over one batch. The state is not consumed.

        Args:
            state: A training state, or a model's nested parameters.
            batch: As for a training step; smaller ones are padded.
        """
        tensors = self._tensors(state)
        parts = self._sized(as_batch(batch, self.recipe.loss, self.recipe.dtype))
        compiled = self._compile(tensors, parts)
        if isinstance(parts.targets, np.ndarray):
            self.recipe.loss.check(parts.targets, compiled.program.output)
        assert parts.weights is not None
        operands = [
            on_device(parts.inputs, self.device, "inputs"),
            on_device(parts.targets, self.device, "targets"),
            on_device(parts.weights, self.device, "weights"),
        ]
        (vector,) = run(
            compiled.executable,
            [*tensors.values(), *operands, *compiled.program.captured],
        )
        return StepMetrics(compiled.program.metric_names, vector, raise_nonfinite=False)

    def run(
        self, state: TrainState | Mapping[str, Any], batches: Iterable[Any]
    ) -> dict[str, float]:
        """The weighted means over all samples of all batches.

        Raises:
            OptionError: if there is no batch.
        """
        found: list[tuple[float, StepMetrics]] = []
        for batch in batches:
            parts = as_batch(batch, self.recipe.loss, self.recipe.dtype)
            weight = parts.size if parts.weights is None else float(np.asarray(parts.weights).sum())
            found.append((weight, self(state, parts)))
        if not found:
            raise OptionError("There is nothing to evaluate: no batch was given.")
        total = sum(weight for weight, _ in found)
        names = found[0][1].names
        return {n: sum(weight * m[n] for weight, m in found) / total for n in names}

    def _tensors(self, state: TrainState | Mapping[str, Any]) -> dict[str, Tensor]:
        if isinstance(state, TrainState):
            wanted = ("parameters.", "state.")
            tensors = {n: t for n, t in state.tensors.items() if n.startswith(wanted)}
        else:
            tensors = {f"parameters.{n}": t for n, t in flatten_names(state)}
        for name, tensor in tensors.items():
            if tensor.device is not self.device:
                raise DeviceMismatchError(
                    f"{name} is on {tensor.device}, the evaluation runs on {self.device}."
                )
        return tensors

    def _sized(self, batch: Batch) -> Batch:
        larger = [key[0] for key in self._compiled if key[0] >= batch.size]
        size = min(larger, default=batch.size)
        return padded(batch, size, self.recipe.dtype, self.device)

    def _compile(self, tensors: dict[str, Tensor], batch: Batch) -> Compiled:
        specs = [
            TensorSpec(tuple(a.shape), dtypes.dtype(a.dtype)) for a in (batch.inputs, batch.targets)
        ]
        key = (batch.size, *specs, *tensors)
        found = self._compiled.get(key)
        if found is None:
            weights = TensorSpec((batch.size,), self.recipe.dtype)
            program = build_eval_program(
                self.recipe, {n: t.spec for n, t in tensors.items()}, [*specs, weights]
            )
            executable = compile_graph(program.graph, self.device, options=self._options)
            found = self._compiled[key] = Compiled(program, executable)
        return found
