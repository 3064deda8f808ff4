"""The step that is measured, and the batches that it is fed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from accelkit import losses, optim, random
from accelkit.backend import Executable
from accelkit.bench.settings import Settings
from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.graph import Graph
from accelkit.host import within_memory
from accelkit.nn.module import flatten_names
from accelkit.ops.coercion import put
from accelkit.passes import eliminate_dead_code
from accelkit.tensor import Tensor
from accelkit.train import EvalStep, StepMetrics, TrainState, TrainStep

__all__ = ["Workload", "draw_batch", "pool_size"]

MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-4
_POOL_BYTES: Final = 256 * 2**20
_POOL_MOST: Final = 16

Batch = tuple[Tensor, Tensor]


def pool_size(settings: Settings, input_shape: tuple[int, ...]) -> int:
    """Number of different batches: one per step, within reason, the same for all backends."""
    batch_bytes = 4 * settings.batch_size * int(np.prod(input_shape))
    most = max(2, min(_POOL_MOST, _POOL_BYTES // batch_bytes))
    return min(most, settings.warmup + settings.steps)


def draw_batch(
    settings: Settings, input_shape: tuple[int, ...], classes: int, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """One synthetic batch, a pure function of the seed and its index, equal on every machine.

    Returns:
        Inputs float32 (batch, ...) of zero mean and unit variance; labels int32 (batch,),
        uniform over the classes.

    Raises:
        OutOfMemoryError: if the host's memory does not hold it.
    """
    shape = (settings.batch_size, *input_shape)
    key = random.subkey(settings.seed, index, "bench.labels", 0)
    with within_memory(f"a batch of {settings.batch_size} samples", "Use a smaller --batch-size"):
        inputs = random.random_normal(random.subkey(settings.seed, index, "bench.inputs", 0), shape)
        uniform = random.random_uniform(key, (settings.batch_size,), np.float64)
        return inputs, (uniform * classes).astype(np.int32)


class Workload:
    """A training or evaluation step with its state and batches on a device.

    Attributes:
        parameter_count: Number of parameters.
        batches: Batches on the device; step ``i`` takes number ``i`` modulo their count.
    """

    def __init__(self, settings: Settings, device: Device) -> None:
        self.settings = settings
        self.device = device
        self.model = settings.check()
        shape = (settings.batch_size, *self.model.input_shape)
        self.parameter_count = self.model.module.specify(shape).parameter_count
        self._done = 0
        self._step: TrainStep | EvalStep
        if settings.mode == "train":
            self._step = self._train_step()
            self.state = self._step.init(settings.seed, shape)
        else:
            self._step = EvalStep(
                self.model.module,
                losses.SoftmaxCrossEntropy(),
                device=device,
                precision=settings.precision,
            )
            self.state = self._evaluation_state(shape)
        self.batches = [self._batch(i) for i in range(pool_size(settings, self.model.input_shape))]

    def _train_step(self) -> TrainStep:
        return TrainStep(
            self.model.module,
            losses.SoftmaxCrossEntropy(),
            optim.sgd(self.model.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
            device=self.device,
            precision=self.settings.precision,
        )

    def _evaluation_state(self, shape: tuple[int, ...]) -> TrainState:
        """Parameters and statistics without the optimizer's slots."""
        module = self.model.module
        where: dict[str, Any] = {"dtype": self._dtype, "device": self.device}
        parameters = module.init(self.settings.seed, shape, **where)
        statistics = module.init_state(shape, **where)
        tensors = {f"parameters.{n}": t for n, t in flatten_names(parameters)}
        tensors |= {f"state.{n}": t for n, t in flatten_names(statistics)}
        return TrainState(tensors, step=0, seed=self.settings.seed, device=self.device)

    def _batch(self, index: int) -> Batch:
        inputs, labels = draw_batch(
            self.settings, self.model.input_shape, self.model.classes, index
        )
        floating = inputs.astype(self._dtype.numpy, copy=False)
        return put(floating, self.device), put(labels, self.device)

    @property
    def _dtype(self) -> DType:
        """Of parameters and inputs."""
        return self._step.recipe.dtype

    def compile(self) -> Executable:
        """Trace, differentiate, prepare and compile the step, without running it."""
        return self._step.compile(self.state, self.batches[0])

    def graph(self) -> Graph:
        """The step as traced, without what it computes in vain: the same for every backend."""
        return eliminate_dead_code(self._step.graph(self.state, self.batches[0]))

    def operands(self) -> list[Tensor]:
        """What the compiled step takes, in the order of its inputs."""
        return self._step.operands(self.state, self.batches[0])

    def run(self) -> StepMetrics:
        """Start the next step. Does not wait for it."""
        batch: Any = self.batches[self._done % len(self.batches)]
        self._done += 1
        if isinstance(self._step, EvalStep):
            return self._step(self.state, batch)
        self.state, metrics = self._step(self.state, batch)
        return metrics
