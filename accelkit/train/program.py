"""The training step as one graph: forward, backward, update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelkit import dtypes, ops
from accelkit.errors import OptionError, StateError
from accelkit.graph import Graph, TensorSpec, Value
from accelkit.nn.module import nest, output_specs
from accelkit.optim.application import update_all
from accelkit.primitives.bookkeeping import evaluation_report, step_report
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph
from accelkit.train.differentiation import forward_and_backward
from accelkit.train.recipe import Recipe
from accelkit.train.sites import SiteStream
from accelkit.train.state import below

__all__ = ["StepProgram", "build_eval_program", "build_train_program"]

_MOST_SITES = 1 << 20
_LARGEST_LOSS_SCALE = 2.0**24
_STEPS_TO_DOUBLE = 2000


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
    total = forward_and_backward(recipe, tensors, trainable, batch, stream, scale, details)
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
