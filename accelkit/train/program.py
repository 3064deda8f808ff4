"""The training step as one graph: forward, backward, update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelkit import dtypes, ops
from accelkit.autodiff import value_and_grad
from accelkit.errors import OptionError, StateError
from accelkit.graph import Graph, TensorSpec, Value
from accelkit.nn.module import flatten_names, nest, output_specs
from accelkit.optim.application import update_all
from accelkit.primitives.bookkeeping import evaluation_report, step_report
from accelkit.primitives.scheduling import barrier
from accelkit.primitives.shaping import reshape, slice_
from accelkit.random.stream import Stream
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph
from accelkit.train.recipe import Recipe
from accelkit.train.state import below

__all__ = ["StepProgram", "build_eval_program", "build_train_program"]

_MOST_SITES = 1 << 20
_LARGEST_LOSS_SCALE = 2.0**24
_STEPS_TO_DOUBLE = 2000


class SiteStream(Stream):
    """Keys as rows of one graph input; remembers which place each row belongs to.

    Row 0 holds the step number. How many rows there are is known when the trace ends.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__(0)
        self.table = table
        self.sites: dict[tuple[str, int], int] = {}

    def restart(self) -> None:
        """Give the keys from the beginning again, to the next micro-batch."""
        self._ordinals.clear()

    def _row(self, index: int) -> Tensor:
        row = slice_(self.table, start=(index, 0), stop=(index + 1, 2), step=(1, 1))
        return reshape(row, shape=(2,))

    def key(self, path: str = "") -> Tensor:
        """The key of the next call at this place."""
        row = self.sites.setdefault(self._site(path), len(self.sites) + 1)
        return self._row(row)


@dataclass(frozen=True)
class StepProgram:
    """A traced step.

    Attributes:
        graph: Inputs: state tensors, inputs, targets, weights, scalars, keys. Outputs: the
            changed state tensors, then the metrics vector.
        state_names: Names of the state tensors among the inputs.
        changed: Names of those that the graph returns.
        sites: Place of each row of the keys after the first.
        scalar_names: Names of the entries of the scalars.
        metric_names: Names of the entries of the metrics vector.
        output: Spec of the model's output, or a pytree of them.
        captured: Tensors from outside that the program uses.
    """

    graph: Graph
    state_names: tuple[str, ...]
    changed: tuple[str, ...]
    sites: tuple[tuple[str, int], ...]
    scalar_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    output: Any
    captured: tuple[Tensor, ...]

    @property
    def donated(self) -> list[int]:
        """Positions of the state tensors that the program replaces."""
        changed = set(self.changed)
        return [i for i, name in enumerate(self.state_names) if name in changed]

    @property
    def slots(self) -> dict[int, int]:
        """Positions of the optimizer's tensors among the inputs, with those that replace them."""
        outputs = {name: i for i, name in enumerate(self.changed)}
        return {
            i: outputs[name]
            for i, name in enumerate(self.state_names)
            if name.startswith("optimizer.") and name in outputs
        }

    def require_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse a state of another model, optimizer or precision.

        Raises:
            StateError: naming the first tensor that is missing, unknown, or of another shape.
        """
        expected = {n: v.spec for n, v in zip(self.state_names, self.graph.inputs, strict=False)}
        for name, spec in expected.items():
            found = tensors[name].spec if name in tensors else None
            if found != spec:
                raise foreign_state(f"{name!r} must be {spec}, got {found or 'none'}")
        for name in tensors:
            if name not in expected:
                raise foreign_state(f"{name!r} is not part of it")


def foreign_state(difference: str) -> StateError:
    """The error for a state that another step made."""
    return StateError(
        f"This state does not fit the step: {difference}. Use a state that `step.init` of a step "
        f"with the same model, optimizer and precision made."
    )


def build_train_program(
    recipe: Recipe,
    state_specs: Mapping[str, TensorSpec],
    batch_specs: Sequence[TensorSpec],
    scalar_names: Sequence[str],
) -> StepProgram:
    """Trace a training step for a state and a batch of these specs.

    Raises:
        StateError: if the state has not what the optimizer keeps.
    """
    recipe.require_state(state_specs)
    names = tuple(state_specs)
    count = len(names)
    details: dict[str, Any] = {}

    def function(*flat: Tensor) -> list[Tensor]:
        tensors = dict(zip(names, flat[:count], strict=True))
        inputs, targets, weights, scalars, keys = flat[count:]
        weights = recipe.weigh(weights, targets)
        stream = SiteStream(keys)
        changed, vector = _train_step(
            recipe, tensors, (inputs, targets, weights), scalars, stream, scalar_names, details
        )
        # In the order of the inputs: compilers pair donated inputs with outputs of their shape by
        # position, and a pair that does not belong together costs a copy.
        changed = {name: changed[name] for name in names if name in changed}
        details["sites"], details["changed"] = tuple(stream.sites), tuple(changed)
        return [*changed.values(), vector]

    specs = [
        *state_specs.values(),
        *batch_specs,
        TensorSpec((len(scalar_names),), recipe.dtype),
        TensorSpec((_MOST_SITES, 2), dtypes.uint32),
    ]
    labels = [*names, "inputs", "targets", "weights", "scalars", "keys"]
    graph, captured = trace_graph(function, specs, name="train_step", input_names=labels)
    _narrow_keys(graph.inputs[len(specs) - 1], len(details["sites"]))
    return StepProgram(
        graph,
        names,
        details["changed"],
        details["sites"],
        tuple(scalar_names),
        details["metrics"],
        details["output"],
        tuple(captured),
    )


def _narrow_keys(table: Value, sites: int) -> None:
    """Give the keys input the number of rows that were used."""
    table.spec = TensorSpec((1 + sites, 2), dtypes.uint32)


class _Part(NamedTuple):
    """What one micro-batch adds to the step: sums that belong to the whole batch.

    Attributes:
        values: Its share of the loss and of each metric.
        gradients: Its share of the (scaled) gradients.
        new_state: The model's statistics afterwards.
        valid: Whether all its targets are valid; None if they always are.
    """

    values: dict[str, Tensor]
    gradients: dict[str, Tensor]
    new_state: dict[str, Tensor]
    valid: Tensor | None

    def plus(self, other: _Part) -> _Part:
        """Both micro-batches together: sums that are there before the next one begins."""
        both = None if self.valid is None or other.valid is None else self.valid & other.valid
        values = {n: v + other.values[n] for n, v in self.values.items()}
        trace = active_trace()
        assert trace is not None
        with trace.labelled(phase="update"):  # moved to where the second gradient is made
            gradients = {n: barrier(g + other.gradients[n])[0] for n, g in self.gradients.items()}
        return _Part(values, gradients, {}, both)

    def before(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """A batch that is there once this micro-batch is done, for compilers that choose an order.

        The backward pass ends in the first layer; of its gradients the smallest is waited for.
        """
        names = list(self.gradients)
        layer = names[0].rpartition(".")[0]
        last = min(
            (n for n in names if n.rpartition(".")[0] == layer),
            key=lambda n: self.gradients[n].spec.memory_bytes,
        )
        return barrier(*batch, self.gradients[last])[: len(batch)]


def _train_step(
    recipe: Recipe,
    tensors: dict[str, Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    scalars: Tensor,
    stream: SiteStream,
    scalar_names: Sequence[str],
    details: dict[str, Any],
) -> tuple[dict[str, Tensor], Tensor]:
    parameters = below(tensors, "parameters")
    trainable = {n: p for n, p in parameters.items() if recipe.is_trainable(n)}
    if not trainable:
        raise OptionError("No parameter is trainable: `trainable` refused every name.")
    scale = tensors["loss_scale"][0] if recipe.scale_loss else None
    total = _forward_and_backward(recipe, tensors, trainable, batch, stream, scale, details)
    loss, gradients = total.values["loss"], total.gradients
    keep = ops.isfinite(loss) if recipe.skip_nonfinite else None
    if scale is not None:
        gradients = {n: g / scale for n, g in gradients.items()}
        keep = _all_finite(gradients)
    changed = _update(recipe, tensors, trainable, gradients, scalars, scalar_names)
    changed |= {f"state.{n}": t for n, t in total.new_state.items()}
    if keep is not None:
        changed = _where(keep, changed, tensors)
    if scale is not None and keep is not None:
        changed["loss_scale"] = _next_loss_scale(tensors["loss_scale"], keep)
    valid = ops.ones((), dtype=dtypes.bool_) if total.valid is None else total.valid
    values = [ops.astype(value, recipe.dtype) for value in total.values.values()]
    details["metrics"] = tuple(total.values)
    changed["watch"], report = step_report(tensors["watch"], stream.table, valid, *values)
    return changed, report


def _forward_and_backward(
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    trainable: Mapping[str, Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    stream: SiteStream,
    scale: Tensor | None,
    details: dict[str, Any],
) -> _Part:
    """One micro-batch after the other, added up.

    Every sample's loss counts by its share of the weight of the whole batch, and a micro-batch's
    dropout masks are the rows of the whole batch's, so the sum is what one pass would give.
    """
    count = recipe.accumulate
    size = batch[0].shape[0]
    if size % count:
        raise OptionError(
            f"accumulate={count} does not divide the batch of {size}. Choose one of: "
            f"{', '.join(str(k) for k in range(1, size + 1) if size % k == 0)}."
        )
    frozen = {n: p for n, p in below(tensors, "parameters").items() if n not in trainable}
    old_state = nest(below(tensors, "state"))
    weight = ops.sum(batch[2])
    shares = batch[2] / weight
    micro = size // count
    total: _Part | None = None
    for index in range(count):
        rows = slice(index * micro, (index + 1) * micro)
        everything = (*batch, shares)
        parts = everything if total is None else total.before(everything)
        inputs, targets, weights, share = (part[rows] if count > 1 else part for part in parts)
        stream.restart()

        def loss_function(
            chosen: dict[str, Tensor],
            inputs: Tensor = inputs,
            targets: Tensor = targets,
            share: Tensor = share,
            first_sample: int = index * micro,
        ) -> tuple[Tensor, Any]:
            outputs, new_state = recipe.model.apply(
                nest({**frozen, **chosen}),
                recipe.model_input(inputs),
                training=True,
                random=stream,
                state=old_state,
                first_sample=first_sample,
            )
            loss = ops.sum(recipe.evaluate(outputs, targets) * share)
            return loss if scale is None else loss * scale, (loss, outputs, new_state)

        (_, (loss, outputs, new_state)), gradients = value_and_grad(loss_function, has_aux=True)(
            dict(trainable)
        )
        values = {"loss": loss}
        for name, of_samples in recipe.measure(outputs, targets).items():
            values[name] = ops.sum(of_samples * weights) / weight
        details["output"] = output_specs(recipe.model, outputs)
        valid = recipe.loss.valid(outputs, targets, weights)
        part = _Part(values, gradients, dict(flatten_names(new_state)), valid)
        total = part if total is None else total.plus(part)
    assert total is not None
    return total


def _where(
    keep: Tensor, changed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The changed tensors if ``keep`` holds, the old ones else."""
    trace = active_trace()
    assert trace is not None
    with trace.labelled(phase="update"):
        return {n: ops.where(keep, t, tensors[n]) for n, t in changed.items()}


def _all_finite(gradients: Mapping[str, Tensor]) -> Tensor:
    flags = [ops.all(ops.isfinite(g)) for g in gradients.values()]
    return ops.all(ops.stack(flags))


def _next_loss_scale(state: Tensor, finite: Tensor) -> Tensor:
    """Halve the scale after an overflow, double it after many steps without one.

    Micikevicius et al. (2018), section 3.2, with the constants of common practice.
    """
    scale, steps = state[0], state[1] + 1.0
    grown = ops.clip(scale * 2.0, max=_LARGEST_LOSS_SCALE)
    is_due = steps >= float(_STEPS_TO_DOUBLE)
    good = ops.stack([ops.where(is_due, grown, scale), ops.where(is_due, steps * 0.0, steps)])
    bad = ops.stack([ops.clip(scale * 0.5, min=1.0), steps * 0.0])
    return ops.where(finite, good, bad)


def _update(
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    trainable: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    scalars: Tensor,
    scalar_names: Sequence[str],
) -> dict[str, Tensor]:
    optimizer, trace = recipe.optimizer, active_trace()
    assert optimizer is not None
    assert trace is not None
    with trace.labelled(scope="", phase="update"):
        numbers = {name: scalars[i] for i, name in enumerate(scalar_names)}
    slots = {
        slot: {name: tensors[f"optimizer.{slot}.{name}"] for name in trainable}
        for slot in optimizer.slot_names()
    }
    new, new_slots = update_all(optimizer, trainable, gradients, slots, numbers)
    changed = {f"parameters.{name}": t for name, t in new.items()}
    for slot, values in new_slots.items():
        changed |= {f"optimizer.{slot}.{name}": t for name, t in values.items()}
    return changed


def build_eval_program(
    recipe: Recipe, state_specs: Mapping[str, TensorSpec], batch_specs: Sequence[TensorSpec]
) -> StepProgram:
    """Trace an evaluation step: no dropout, no update; the metrics vector is the only output."""
    names = tuple(state_specs)
    details: dict[str, Any] = {}

    def function(*flat: Tensor) -> list[Tensor]:
        tensors = dict(zip(names, flat[: len(names)], strict=True))
        inputs, targets, weights = flat[len(names) :]
        weights = recipe.weigh(weights, targets)
        outputs, _ = recipe.model.apply(
            nest(below(tensors, "parameters")),
            recipe.model_input(inputs),
            state=nest(below(tensors, "state")),
        )
        values = {"loss": recipe.evaluate(outputs, targets), **recipe.measure(outputs, targets)}
        details["metrics"] = tuple(values)
        details["output"] = output_specs(recipe.model, outputs)
        valid = recipe.loss.valid(outputs, targets, weights)
        if valid is None:
            valid = ops.ones((), dtype=dtypes.bool_)
        samples = [ops.astype(value, recipe.dtype) for value in values.values()]
        return [evaluation_report(valid, weights, *samples)]

    labels = [*names, "inputs", "targets", "weights"]
    graph, captured = trace_graph(
        function, [*state_specs.values(), *batch_specs], name="eval_step", input_names=labels
    )
    return StepProgram(
        graph, names, (), (), (), details["metrics"], details["output"], tuple(captured)
    )
