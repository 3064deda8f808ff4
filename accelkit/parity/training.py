"""Training on several backends beside the float64 oracle, step by step.

All start from the same weights and see the same batches and dropout masks. Rounding turns a few
max-pool winners and ReLU signs in tens of millions; training is chaotic, so that one of them moves
later losses by 1e-5 and more. Each backend therefore does three things at every step:

* one step from the oracle's own state, on the oracle's branches of piecewise functions, whose
  gradients are compared;
* a step of its own trajectory on the oracle's branches, from which no flip can throw it: losses
  and final weights are compared;
* a step of the free run, which is the compiled step that users get: compared up to the first flip,
  and reported from there on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from accelkit import dtypes, losses, optim
from accelkit.backend import Executable
from accelkit.bench.settings import Settings
from accelkit.bench.workload import MOMENTUM, WEIGHT_DECAY, draw_batch
from accelkit.compilation import compile_graph, run
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.errors import AccelkitError
from accelkit.graph import Graph, TensorSpec
from accelkit.models import Model
from accelkit.ops.coercion import put
from accelkit.parity.branches import Branch, impose_branches, observe_branches
from accelkit.parity.tolerances import deviation
from accelkit.tensor import Tensor
from accelkit.train import TrainState, TrainStep
from accelkit.train.program import build_train_program

__all__ = ["Comparison", "Flips", "Reference", "Worst", "compare_training"]

# A gradient smaller than this share of the largest one is zero but for rounding (a bias before a
# normalisation, the key bias of attention), and is measured by the largest one.
_VANISHING = 1e-12

Arrays = dict[str, np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]


class Worst(NamedTuple):
    """The largest deviation found, and where."""

    deviation: float = 0.0
    tensor: str = ""
    step: int = 0

    def or_worse(self, found: float, tensor: str, step: int) -> Worst:
        """The larger one; NaN is worse than anything."""
        settled = math.isnan(self.deviation) or found <= self.deviation
        return self if settled else Worst(found, tensor, step)


_NOTHING = Worst()


class Flips(NamedTuple):
    """Branches of one kind of piecewise function that differ from the oracle's.

    Attributes:
        differ: How many, over all steps.
        total: Of how many.
    """

    differ: int = 0
    total: int = 0

    def plus(self, own: np.ndarray, wanted: np.ndarray) -> Flips:
        """With those of one tensor more."""
        differ = int(np.count_nonzero(own != wanted))
        return Flips(self.differ + differ, self.total + wanted.size)


@dataclass
class Comparison:
    """One backend beside the oracle.

    Attributes:
        backend: Its name.
        device: Where it ran.
        losses: Of every step of the free run.
        loss: Worst deviation of a loss on the oracle's branches.
        gradient: Worst deviation of a gradient tensor, one step from the oracle's state, on its
            branches.
        weight: Worst deviation of a parameter after the last step on the oracle's branches.
        flips: Branches that differ from the oracle's, by the kind of function, over the single
            steps from the oracle's state.
        parted: The first step at which a branch differed; None if none did. From the next step on
            the free run is another one than the oracle's.
        free_loss: Worst deviation of a loss of the free run up to that step.
        free_weight: Worst deviation of a parameter after the free run, if it never parted.
        parted_loss: Worst deviation of a loss of the free run after that step.
        error: Why it did not finish; empty if it did.
    """

    backend: str
    device: str = ""
    losses: list[float] = field(default_factory=list)
    loss: Worst = _NOTHING
    gradient: Worst = _NOTHING
    weight: Worst = _NOTHING
    flips: dict[str, Flips] = field(default_factory=dict)
    parted: int | None = None
    free_loss: Worst = _NOTHING
    free_weight: Worst = _NOTHING
    parted_loss: Worst = _NOTHING
    error: str = ""


class _Parts(NamedTuple):
    """The traced step and what of it is looked at."""

    graph: Graph
    changed: tuple[str, ...]
    parameters: tuple[str, ...]


def _train_step(model: Model, device: str | Device, precision: str) -> TrainStep:
    optimizer = optim.sgd(model.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    return TrainStep(
        model.module,
        losses.SoftmaxCrossEntropy(),
        optimizer,
        device=device,
        precision=precision,
    )


def _with_gradients(step: TrainStep, state: TrainState, batch: Batch) -> _Parts:
    """The step's graph, returning the gradients too."""
    dtype = step.recipe.dtype
    inputs, targets = batch
    specs = [
        TensorSpec(inputs.shape, dtype),
        TensorSpec(targets.shape, step_target_dtype(targets)),
        TensorSpec(inputs.shape[:1], dtype),
    ]
    program = build_train_program(
        step.recipe,
        {name: t.spec for name, t in state.tensors.items()},
        specs,
        list(step.optimizer.scalars(0)),
    )
    names, gradients = [], []
    for name, value in zip(program.changed, program.graph.outputs, strict=False):
        if name.startswith("parameters."):
            assert value.node is not None
            names.append(name.removeprefix("parameters."))
            gradients.append(value.node.inputs[1])  # of (p, g, v, learning_rate)
    graph = program.graph.replace(outputs=[*program.graph.outputs, *gradients])
    return _Parts(graph, program.changed, tuple(names))


def step_target_dtype(targets: np.ndarray) -> Any:
    """The dtype that labels have inside a step."""
    return dtypes.int32 if targets.dtype.kind in "iu" else dtypes.dtype(targets.dtype)


class Reference:
    """The oracle: NumPy in float64.

    Attributes:
        state: Before the current step, on the host.
        loss, gradients, branches: Of the current step.
    """

    def __init__(self, model: Model, initial: Mapping[str, np.ndarray], seed: int) -> None:
        self.step = _train_step(model, "numpy", "float64")
        self.state: Arrays = {name: _cast(a, np.float64) for name, a in initial.items()}
        self.seed = seed
        self.count = 0
        self.loss = 0.0
        self.gradients: Arrays = {}
        self.branches: list[np.ndarray] = []
        self._executable: Executable | None = None
        self._parts: _Parts | None = None
        self._after: Arrays = {}

    def compute(self, batch: Batch) -> None:
        """Run the current step, keeping the state before it."""
        state = TrainState.from_host(
            self.state, step=self.count, seed=self.seed, device=self.step.device
        )
        if self._executable is None:
            self._parts = _with_gradients(self.step, state, batch)
            graph = observe_branches(self._parts.graph)
            self._executable = compile_graph(graph, self.step.device)
        assert self._parts is not None
        results = [t.numpy() for t in run(self._executable, self.step.operands(state, batch))]
        changed = self._parts.changed
        count, names = len(changed), self._parts.parameters
        self._after = {**self.state, **dict(zip(changed, results[:count], strict=True))}
        self.loss = float(results[count][0])
        gradients = results[count + 1 : count + 1 + len(names)]
        self.gradients = dict(zip(names, gradients, strict=True))
        self.branches = results[count + 1 + len(names) :]

    def advance(self) -> None:
        """Go to the state after the current step."""
        self.state = self._after
        self.count += 1


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array


class Trained:
    """One backend's runs: free, on the oracle's branches, and single steps from its state."""

    def __init__(
        self,
        name: str,
        model: Model,
        initial: Mapping[str, np.ndarray],
        seed: int,
        precision: str,
    ) -> None:
        self.comparison = Comparison(name.split(":")[0])
        self.step = _train_step(model, find_device(name), precision)
        self.comparison.device = str(self.step.device)
        self.seed = seed
        self.dtype = self.step.recipe.dtype.numpy
        self.free = self._on_device(initial, 0)
        self.guided = self._on_device(initial, 0)
        self._guidance: _Guided | None = None

    def _on_device(self, arrays: Mapping[str, np.ndarray], step: int) -> TrainState:
        cast = {name: _cast(a, self.dtype) for name, a in arrays.items()}
        return TrainState.from_host(cast, step=step, seed=self.seed, device=self.step.device)

    def advance(self, reference: Reference, batch: Batch) -> None:
        """Do the current step in all three ways, and compare them."""
        found, at = self.comparison, reference.count
        branches = [put(b, self.step.device) for b in reference.branches]
        state = self._on_device(reference.state, at)
        single = self._run_guided(state, batch, branches, reference)
        self._compare_gradients(single.gradients, reference)
        for kind, (differ, total) in single.flips.items():
            before = found.flips.get(kind, Flips())
            found.flips[kind] = Flips(before.differ + differ, before.total + total)
        guided = self._run_guided(self.guided, batch, branches, reference)
        found.loss = _worse_loss(found.loss, guided.loss, reference)
        self.guided = guided.after
        self.free, metrics = self.step(self.free, batch)
        found.losses.append(metrics["loss"])
        if found.parted is not None:
            found.parted_loss = _worse_loss(found.parted_loss, metrics["loss"], reference)
            return
        found.free_loss = _worse_loss(found.free_loss, metrics["loss"], reference)
        if any(flips.differ for run in (single, guided) for flips in run.flips.values()):
            found.parted = at

    def _run_guided(
        self, state: TrainState, batch: Batch, branches: Sequence[Tensor], reference: Reference
    ) -> _Outcome:
        """A step from ``state`` on the oracle's branches."""
        if self._guidance is None:
            parts = _with_gradients(self.step, state, batch)
            imposed = impose_branches(parts.graph)
            executable = compile_graph(imposed.graph, self.step.device)
            self._guidance = _Guided(parts, imposed.branches, executable)
        parts, kinds, executable = self._guidance
        results = run(executable, [*self.step.operands(state, batch), *branches])
        changed, names = len(parts.changed), len(parts.parameters)
        tensors = {**state.tensors, **dict(zip(parts.changed, results[:changed], strict=True))}
        flips: dict[str, Flips] = {}
        own = results[changed + 1 + names :]
        for (kind, _), chosen, wanted in zip(kinds, own, reference.branches, strict=True):
            flips[kind] = flips.get(kind, Flips()).plus(chosen.numpy(), wanted)
        return _Outcome(
            TrainState(tensors, step=state.step + 1, seed=self.seed, device=self.step.device),
            float(results[changed].numpy()[0]),
            dict(zip(parts.parameters, results[changed + 1 :][:names], strict=True)),
            flips,
        )

    def _compare_gradients(self, found: Mapping[str, Tensor], reference: Reference) -> None:
        largest = max(float(np.max(np.abs(g))) for g in reference.gradients.values())
        for name, tensor in found.items():
            off = gradient_deviation(tensor.numpy(), reference.gradients[name], largest)
            self.comparison.gradient = self.comparison.gradient.or_worse(off, name, reference.count)

    def compare_weights(self, reference: Reference) -> None:
        """Compare the parameters with the oracle's after the last step."""
        self.comparison.weight = _worst_weight(self.guided, reference)
        if self.comparison.parted is None:
            self.comparison.free_weight = _worst_weight(self.free, reference)


class _Guided(NamedTuple):
    """The program that takes the oracle's branches."""

    parts: _Parts
    branches: tuple[Branch, ...]
    executable: Executable


class _Outcome(NamedTuple):
    """What one step on the oracle's branches gave, and how many it would have taken otherwise."""

    after: TrainState
    loss: float
    gradients: dict[str, Tensor]
    flips: dict[str, Flips]


def _worse_loss(worst: Worst, loss: float, reference: Reference) -> Worst:
    found = abs(loss - reference.loss) / abs(reference.loss)
    return worst.or_worse(found, "loss", reference.count)


def _worst_weight(state: TrainState, reference: Reference) -> Worst:
    """The parameter that is furthest from the oracle's after the last step."""
    names = [name for name in reference.state if name.startswith("parameters.")]
    largest = max(float(np.max(np.abs(reference.state[name]))) for name in names)
    worst = Worst()
    for name in names:
        found = gradient_deviation(state.tensors[name].numpy(), reference.state[name], largest)
        worst = worst.or_worse(found, name.removeprefix("parameters."), reference.count)
    return worst


def gradient_deviation(found: np.ndarray, wanted: np.ndarray, largest: float) -> float:
    """The deviation of a gradient, or of a weight that such gradients made.

    One that vanishes is measured by the largest of its kind.
    """
    vanishes = float(np.max(np.abs(wanted), initial=0.0)) < _VANISHING * largest
    return deviation(found, wanted, floor=largest if vanishes else 0.0)


def compare_training(
    settings: Settings,
    names: Sequence[str],
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Comparison], list[float]]:
    """Train on every backend named, and compare each with the oracle.

    Args:
        settings: Model, batch size, number of steps, precision and seed.
        names: Names of backends or devices.
        progress: Told what happens.

    Returns:
        One comparison per name (one that failed carries its error), and the oracle's losses.
    """
    model = settings.check()
    shape = (settings.batch_size, *model.input_shape)
    progress("drawing initial weights")
    first = _train_step(model, "numpy", settings.precision)
    initial = first.init(settings.seed, shape).to_host()
    reference = Reference(model, initial, settings.seed)
    comparisons: list[Comparison] = []
    running: list[Trained] = []
    for name in names:
        try:
            running.append(Trained(name, model, initial, settings.seed, settings.precision))
            comparisons.append(running[-1].comparison)
        except AccelkitError as error:
            comparisons.append(Comparison(name.split(":")[0], name, error=str(error)))
    oracle_losses = []
    for step in range(settings.steps):
        progress(f"step {step + 1} of {settings.steps}: oracle")
        batch = draw_batch(settings, model.input_shape, model.classes, step)
        reference.compute(batch)
        oracle_losses.append(reference.loss)
        for trained in list(running):
            progress(f"step {step + 1} of {settings.steps}: {trained.comparison.device}")
            _attempt(running, trained, lambda t=trained, b=batch: t.advance(reference, b))  # type: ignore[misc]
        reference.advance()
    for trained in list(running):
        _attempt(running, trained, lambda t=trained: t.compare_weights(reference))  # type: ignore[misc]
    return comparisons, oracle_losses


def _attempt(running: list[Trained], trained: Trained, action: Callable[[], None]) -> None:
    """Run one backend's part; a failure ends that backend's run only."""
    try:
        action()
    except AccelkitError as error:
        trained.comparison.error = f"{type(error).__name__}: {error}"
        running.remove(trained)
