"""The compiled training step: ``state, metrics = step(state, batch)``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from accelkit import dtypes, ops
from accelkit.arguments import require_instance
from accelkit.backend import Executable
from accelkit.compilation import run_native
from accelkit.device import Device, current_device
from accelkit.device import device as find_device
from accelkit.errors import (
    BackendError,
    DeviceMismatchError,
    OptionError,
)
from accelkit.graph import Graph, TensorSpec
from accelkit.losses import Loss
from accelkit.metrics import Metric
from accelkit.nn.module import Module
from accelkit.optim import Optimizer
from accelkit.tensor import Tensor
from accelkit.train.batch import Batch, Feed
from accelkit.train.checked import CheckedBatch
from accelkit.train.compiling import Compiled, compile_step, fit
from accelkit.train.memory import MemoryChoice, MemoryMeans, parse_bytes
from accelkit.train.metrics import StepMetrics
from accelkit.train.offload import check_host_state, offloaded, on_host
from accelkit.train.peak import PeakWatch
from accelkit.train.precision import policy
from accelkit.train.program import StepProgram, build_train_program
from accelkit.train.recipe import Recipe
from accelkit.train.recovery import lost, rehearse, survived
from accelkit.train.state import Layout, TrainState
from accelkit.train.step_numbers import StepNumbers

__all__ = ["TrainStep"]

NONFINITE = ("raise", "skip", "ignore")


class TrainStep:
    """A training step, compiled once per batch size for one device.

    Args:
        model: Any module.
        loss: One number per sample; the step minimises the weighted mean.
        optimizer: How parameters change.
        device: Where it runs; the default device if None.
        metrics: What to report beside the loss.
        precision: ``"float32"`` (full, the default), ``"tf32"`` (reduced-precision matrix units
            where there are any), ``"bfloat16"`` or ``"float16"`` (products in that dtype,
            float32 master weights; float16 with dynamic loss scaling), or ``"float64"``.
        trainable: Says by dotted name whether a parameter changes; all do if None.
        preprocess: Pure function from the batch's inputs to the model's, inside the compiled
            step, e.g. normalisation of uint8 pixels.
        on_nonfinite: What happens when the loss is NaN or infinite: ``"raise"`` when metrics are
            next read, ``"skip"`` the update inside the compiled step, or ``"ignore"``.
        accumulate: Number of micro-batches into which a batch is cut to save memory. Gradients
            are added up before the update, and dropout masks are those of the whole batch, so
            the result is the same. Refused for models with batch statistics.
        remat: Which values of the forward pass are computed again for the backward pass instead
            of being kept: True for every one that lowers the peak; ``"auto"`` for those that
            take no product or convolution; a fraction such as 0.5, to which the memory for
            intermediates is to come down if it can; or names of layers, e.g. ``["features"]``,
            whose values may be dropped. The results are the same bits, masks included.
        host_state: Whether optimizer slots are kept in the host's memory. They are on the device
            only while they are updated, a few parameters at a time; the arithmetic is the same.
            Warns where the device's memory is the host's, as there it saves nothing.
        memory_limit: Bytes, or a text such as ``"8GiB"``, for state, batch and intermediates:
            micro-batches, rematerialisation, early updates and optimizer state on the host are
            combined into the plan with the smallest predicted time that fits. The batch and the
            learning rate stay as they are. See :attr:`memory_choice`.

    Raises:
        OptionError: for a value outside its range, or ``memory_limit`` beside the means that it
            chooses.
        CapabilityError: if the device does not compute in the precision.

    Example:
        >>> import numpy as np
        >>> import accelkit as ak
        >>> from accelkit import losses, nn, optim, train
        >>> model = nn.Sequential(nn.Linear(16), nn.ReLU(), nn.Linear(3))
        >>> step = train.TrainStep(model, losses.SoftmaxCrossEntropy(), optim.sgd(0.1))
        >>> state = step.init(seed=0, input_shape=(8, 4))
        >>> images, labels = np.ones((8, 4), np.float32), np.zeros(8, np.int32)
        >>> state, metrics = step(state, (images, labels))
        >>> state.step
        1
        >>> metrics["loss"] > 0.0
        True
    """

    def __init__(
        self,
        model: Module,
        loss: Loss,
        optimizer: Optimizer,
        *,
        device: str | Device | None = None,
        metrics: Sequence[Metric] = (),
        precision: str = "float32",
        trainable: Callable[[str], bool] | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        on_nonfinite: str = "raise",
        accumulate: int = 1,
        remat: bool | float | str | Sequence[str] = False,
        host_state: bool = False,
        memory_limit: int | str | None = None,
    ) -> None:
        if on_nonfinite not in NONFINITE:
            raise OptionError(
                f"on_nonfinite must be one of {', '.join(NONFINITE)}, got {on_nonfinite!r}."
            )
        self._means = MemoryMeans.by_hand(accumulate, remat, host_state)
        if memory_limit is not None and self._means != MemoryMeans():
            raise OptionError(
                "Give either accumulate=, remat= and host_state=, or memory_limit=, which chooses "
                "them."
            )
        self.device = current_device() if device is None else find_device(device)
        check_host_state(host_state, self.device)
        self.precision = precision
        self.on_nonfinite = on_nonfinite
        self.optimizer = optimizer
        self._policy = policy(precision, self.device)
        self.recipe = Recipe(
            model,
            loss,
            metrics,
            self._policy.dtype,
            preprocess,
            optimizer,
            trainable,
            skip_nonfinite=on_nonfinite == "skip",
            scale_loss=self._policy.scales_loss,
            accumulate=accumulate,
        )
        require_instance(
            "optimizer", optimizer, Optimizer, "Make one, for example optim.sgd(0.01)."
        )
        self.memory_limit_bytes = None if memory_limit is None else parse_bytes(memory_limit)
        self.memory_choice: MemoryChoice | None = None
        self._peak: PeakWatch | None = None  # under a memory limit
        self.last_checkpoint: str | None = None
        self._compiled: dict[Any, Compiled] = {}
        self._last: CheckedBatch | None = None
        self._flow: tuple[Compiled, Layout] | None = None  # of the state returned last
        self._feed = Feed(loss, self.recipe.dtype, self.device)
        self._numbers = StepNumbers(optimizer, self.recipe.dtype, self.device)
        self._batch_statistics: bool | None = None
        self._returned: Callable[[], TrainState | None] = lambda: None  # a state known to fit

    def __repr__(self) -> str:
        return (
            f"<TrainStep of {type(self.recipe.model).__name__} with {self.optimizer!r} in "
            f"{self.precision} on {self.device}, {len(self._compiled)} programs compiled>"
        )

    # --- state ----------------------------------------------------------------------------------

    def init(
        self, seed: int, input_shape: Sequence[int], *, input_dtype: str = "float32"
    ) -> TrainState:
        """A new state: initial weights from the seed, optimizer slots at zero.

        Args:
            seed: 0 <= seed < 2^64; also decides all dropout masks.
            input_shape: Shape of a model input, batch axis included.
            input_dtype: Dtype of a model input.

        Raises:
            ShapeError: with the path of the layer that the input does not fit.
        """
        tensors = self.recipe.initial_state(
            seed, input_shape, input_dtype=input_dtype, device=self.device
        )
        if self._means.host_state:
            tensors = offloaded(tensors)
        return TrainState(tensors, step=0, seed=seed, device=self.device)

    # --- running --------------------------------------------------------------------------------

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
        """Run one step. Does not wait for the device.

        Args:
            state: Consumed: use the returned one afterwards.
            batch: ``(inputs, targets)`` or ``(inputs, targets, weights)``, or a mapping with
                these names; NumPy arrays or tensors on the step's device. A batch smaller than
                the largest so far is padded with samples of weight 0.

        Returns:
            The new state and the step's metrics.

        Raises:
            OptionError, ShapeError, DTypeError: for a batch that does not fit; the state is
                still usable.
            StateConsumedError, StateLostError: for a state that is gone.
            StateError: for a state of another model, optimizer or precision.
            OutOfMemoryError: with the largest tensors, and whether the state survived.
            DeviceMismatchError: for a state on another device.
        """
        require_instance("state", state, TrainState, "Make one with step.init(seed, input_shape).")
        state.require_usable()
        if state.device is not self.device:
            raise DeviceMismatchError(
                f"The state is on {state.device}, the step runs on {self.device}. Move it with "
                f"`state.to({str(self.device)!r})`."
            )
        if self._peak is not None:
            self._peak.check(has_run=self._returned() is state)
        last = self._last
        if last is not None and last.is_like(batch, self.device):
            compiled, data = last.compiled, [*batch, last.weights]
        else:
            compiled, data = self._check(state, batch)
        others = self._operands(compiled.program, state, data)
        saved = None
        if self._flow is not None and self._flow[0] is compiled and state.has_layout(self._flow[1]):
            operands = state.take()
        else:
            if self._flow is None:  # no step has run yet
                saved = self._rehearse(state, compiled, others)
            operands = self._hand_over(state, compiled)
        operands += [t._native for t in others]
        # Nothing here keeps what the program replaces: backends reuse its memory where none does.
        try:
            results = run_native(compiled.executable, operands)
        except BackendError as error:
            self._flow = None
            if saved is not None:
                raise survived(state, saved, error) from error
            raise lost(state, self.last_checkpoint, error) from error
        return self._finish(state, compiled.program, results)

    def _taken(self, state: TrainState, program: StepProgram) -> dict[str, Tensor]:
        """The tensors of a state in the order of a program's inputs, where it reads them."""
        tensors = state.tensors
        if self._returned() is not state:
            program.require_state(tensors)
        if self._means.host_state:
            tensors = offloaded(tensors)
        return {name: tensors[name] for name in program.state_names}

    def _rehearse(
        self, state: TrainState, compiled: Compiled, others: Sequence[Tensor]
    ) -> dict[str, np.ndarray] | None:
        """What is kept of a state until its first step has run; None where that is not needed."""
        values = list(self._taken(state, compiled.program).values())
        return rehearse(state, compiled.executable, values, others)

    def _hand_over(self, state: TrainState, compiled: Compiled) -> list[Any]:
        """Consume a state that anybody may have made; its arrays, and the layout of the next."""
        program = compiled.program
        tensors = self._taken(state, program)
        self._flow = compiled, Layout({**tensors, **dict.fromkeys(program.changed)}, self.device)
        state.consume()
        return [t._native for t in tensors.values()]

    def _finish(
        self, state: TrainState, program: StepProgram, results: list[Any]
    ) -> tuple[TrainState, StepMetrics]:
        vector = Tensor._eager(results.pop(), self.device)
        assert self._flow is not None
        layout = self._flow[1]
        new = TrainState.of_results(layout, results, step=state.step + 1, seed=state.seed)
        if self._means.host_state:
            new.tensors.update(on_host(new.tensors))
        self._returned = weakref.ref(new)
        metrics = StepMetrics(
            program.metric_names, vector, raise_nonfinite=self.on_nonfinite == "raise"
        )
        return new, metrics

    def _check(self, state: TrainState, batch: Any) -> tuple[Compiled, list[Tensor]]:
        """The program for a batch, and the batch as it takes it: inputs, targets, weights."""
        parts = self._sized(self._feed.read(batch))
        compiled = self._compile(state, parts)
        data = self._feed.operands(parts, compiled.program.output)
        self._last = CheckedBatch.of(batch, data, compiled) or self._last
        return compiled, data

    # --- compiling ------------------------------------------------------------------------------

    def _sized(self, batch: Batch) -> Batch:
        """The batch padded to the size of an earlier program, if there is a larger one."""
        if self._feed.is_whole(batch) or self._uses_batch_statistics(batch):
            return batch
        return self._feed.padded(batch, [key[0] for key in self._compiled])

    def _uses_batch_statistics(self, batch: Batch) -> bool:
        """With batch statistics, padding would change the result, so other sizes compile anew."""
        if self._batch_statistics is None:
            inputs = ops.zeros(batch.inputs.shape, dtype=dtypes.dtype(batch.inputs.dtype))
            given = self.recipe.model_input(inputs).spec
            spec = self.recipe.model.specify(given.shape, input_dtype=given.dtype, training=True)
            self._batch_statistics = spec.uses_batch_statistics
        return self._batch_statistics

    def _require_independent_samples(self, batch: Batch) -> None:
        if self.recipe.accumulate > 1 and self._uses_batch_statistics(batch):
            raise OptionError(
                "The model uses batch statistics (batch normalisation), which micro-batches would "
                "change. Save memory by remat= or memory_limit=, which know other means, or use "
                "LayerNorm."
            )

    def _compile(self, state: TrainState, batch: Batch) -> Compiled:
        specs = batch.specs
        key = (batch.size, *specs)
        found = self._compiled.get(key)
        if found is None:
            tensors = state.tensors
            self._require_independent_samples(batch)
            if self.memory_limit_bytes is not None and self.memory_choice is None:
                found = self._fit(tensors, specs, batch)
            else:
                program = self._trace(tensors, specs)
                found = compile_step(program, self.device, self._policy, self._means)
            self._compiled[key] = found
        return found

    def _fit(self, tensors: dict[str, Tensor], specs: list[TensorSpec], batch: Batch) -> Compiled:
        """Choose how to stay within the memory limit, and compile."""
        limit = self.memory_limit_bytes
        assert limit is not None

        def build(count: int) -> StepProgram:
            self.recipe = replace(self.recipe, accumulate=count)
            return self._trace(tensors, specs)

        compiled, choice = fit(
            build,
            specs[0].shape[0],
            self.device,
            self._policy,
            limit,
            may_accumulate=not self._uses_batch_statistics(batch),
        )
        self._means, self.memory_choice = choice.means, choice
        late = compiled.executable.compiles_in_first_call
        self._peak = PeakWatch(self.device, tensors.values(), limit, compiles_late=late)
        return compiled

    @property
    def measured_peak_bytes(self) -> int | None:
        """The most memory in use since a memory limit was planned for, as the backend measures it.

        What was in use beside the training state before the first step is not counted. None
        without a limit, or where the backend measures nothing. A peak above the limit is warned of
        by :class:`MemoryLimitWarning`, with the second or third step.
        """
        return None if self._peak is None else self._peak.measured_bytes()

    def _trace(self, tensors: dict[str, Tensor], specs: list[TensorSpec]) -> StepProgram:
        weights = TensorSpec(specs[0].shape[:1], self.recipe.dtype)
        return build_train_program(
            self.recipe,
            {name: t.spec for name, t in tensors.items()},
            [*specs, weights],
            list(self.optimizer.scalars(0)),
        )

    def graph(self, state: TrainState, batch: Any) -> Graph:
        """The graph of the step for a batch like this one, before any pass: ``print`` it."""
        return self._trace(state.tensors, self._feed.read(batch).specs).graph

    def compile(self, state: TrainState, batch: Any) -> Executable:
        """Compile the step for batches like this one now instead of at the first step.

        The executable's ``graph`` is what the backend compiled; :meth:`operands` gives its inputs.
        """
        parts = self._sized(self._feed.read(batch))
        state.require_usable()
        return self._compile(state, parts).executable

    def operands(self, state: TrainState, batch: Any) -> list[Tensor]:
        """What the compiled step takes for this state and batch, in the order of its inputs."""
        tensors = state.tensors
        compiled, data = self._check(state, batch)
        values = [tensors[name] for name in compiled.program.state_names]
        return [*values, *self._operands(compiled.program, state, data)]

    @property
    def executables(self) -> Iterable[Executable]:
        """What was compiled so far."""
        return [compiled.executable for compiled in self._compiled.values()]

    def _operands(
        self, program: StepProgram, state: TrainState, data: Iterable[Tensor]
    ) -> list[Tensor]:
        """What a program takes besides the state; nothing here waits for the device."""
        return [
            *data,
            *self._numbers.operands(program, state.step, state.seed),
            *program.captured,
        ]
