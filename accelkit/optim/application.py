"""One update of all parameters: in a training step, and in training loops of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit import ops, tree
from accelkit.arguments import require_integer
from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import OptionError, ShapeError
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace

if TYPE_CHECKING:
    from accelkit.optim.optimizers import Optimizer

__all__ = ["apply", "init", "numbers", "update_all"]

Named = Mapping[str, Tensor]


def update_all(
    optimizer: Optimizer,
    parameters: Named,
    gradients: Named,
    slots: Mapping[str, Named],
    numbers: Named,
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """New values of parameters and of their slots, all by dotted name.

    Args:
        optimizer: Says how.
        parameters: What changes.
        gradients: One for each parameter.
        slots: What is kept for each parameter, by slot and parameter.
        numbers: Tensors of shape (), by the names of the optimizer's scalars.

    Raises:
        OptionError: if an update returns other slots than the optimizer declares.
    """
    changed: dict[str, Tensor] = {}
    kept: dict[str, dict[str, Tensor]] = {slot: {} for slot in slots}
    with _in_update(""):
        gradients = optimizer.prepare(gradients)
    for name, parameter in parameters.items():
        with _in_update(name.rpartition(".")[0]):
            own = {slot: values[name] for slot, values in slots.items()}
            updater = optimizer.for_parameter(name)
            changed[name], new = updater.update(parameter, gradients[name], own, numbers)
        if set(new) != set(slots):
            raise OptionError(
                f"The update of {type(updater).__name__} returned the slots {sorted(new)}, "
                f"expected {sorted(slots)}: those that `slot_names` declares."
            )
        for slot, value in new.items():
            kept[slot][name] = value
    return changed, kept


@contextlib.contextmanager
def _in_update(layer: str) -> Iterator[None]:
    """Label what is traced in the block as the update of a layer's parameters."""
    trace = active_trace()
    with contextlib.nullcontext() if trace is None else trace.labelled(scope=layer, phase="update"):
        yield


def init(optimizer: Optimizer, parameters: Any) -> dict[str, Any]:
    """See :meth:`accelkit.optim.Optimizer.init`."""
    leaves, structure = tree.flatten(parameters)
    _require_tensors("parameters", leaves)
    made = [optimizer.initial_slots(parameter) for parameter in leaves]
    return {
        slot: tree.unflatten(structure, [own[slot] for own in made])
        for slot in optimizer.slot_names()
    }


def numbers(
    optimizer: Optimizer, step: int, dtype: DType | str, device: str | Device | None
) -> dict[str, Tensor]:
    """See :meth:`accelkit.optim.Optimizer.numbers`."""
    require_integer("step", step, least=0)
    kind = as_dtype(dtype).numpy
    return {
        name: ops.asarray(np.array(value, kind), device=device)
        for name, value in optimizer.scalars(step).items()
    }


def apply(
    optimizer: Optimizer, parameters: Any, gradients: Any, slots: Any, numbers: Any
) -> tuple[Any, dict[str, Any]]:
    """See :meth:`accelkit.optim.Optimizer.apply`."""
    names, values, structure = tree.flatten_with_names(parameters)
    _require_tensors("parameters", values)
    given = dict(zip(names, _like("gradients", gradients, values, structure), strict=True))
    found = slots if isinstance(slots, Mapping) else {}
    if set(found) != set(optimizer.slot_names()):
        raise OptionError(
            f"`slots` must hold {', '.join(optimizer.slot_names()) or 'nothing'}, as "
            f"`optimizer.init(parameters)` makes them; got {', '.join(found) or 'nothing'}."
        )
    kept = {
        slot: dict(
            zip(names, _like(f"slots[{slot!r}]", found[slot], values, structure), strict=True)
        )
        for slot in optimizer.slot_names()
    }
    scalars = _require_numbers(optimizer, numbers, values)
    changed, new = update_all(
        optimizer, dict(zip(names, values, strict=True)), given, kept, scalars
    )
    return tree.unflatten(structure, list(changed.values())), {
        slot: tree.unflatten(structure, list(by_name.values())) for slot, by_name in new.items()
    }


def _require_tensors(what: str, leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise OptionError(
                f"The {what} must be tensors, or dicts, lists and tuples of them; got "
                f"{type(leaf).__name__}. Put it on a device with accelkit.asarray."
            )


def _like(what: str, given: Any, parameters: Sequence[Tensor], structure: Any) -> list[Tensor]:
    """The leaves of what must be a pytree like the parameters."""
    leaves, found = tree.flatten(given)
    if found != structure:
        raise OptionError(
            f"`{what}` must have the structure of the parameters, {structure}; got {found}."
        )
    _require_tensors(what, leaves)
    for leaf, parameter in zip(leaves, parameters, strict=True):
        if leaf.shape != parameter.shape:
            raise ShapeError(
                f"`{what}` holds {leaf.shape} for a parameter of shape {parameter.shape}."
            )
    return leaves


def _require_numbers(
    optimizer: Optimizer, given: Any, parameters: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The optimizer's numbers in the dtype of the parameters."""
    expected = set(optimizer.scalars(0))
    tensors = given if isinstance(given, Mapping) else {}
    if set(tensors) != expected or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise OptionError(
            f"`numbers` must be what `optimizer.numbers(step)` returns, tensors by name "
            f"({', '.join(sorted(expected))}), so that a compiled update serves every step; got "
            f"{type(given).__name__}."
        )
    dtype = parameters[0].dtype if parameters else None
    return {n: t if dtype is None else ops.astype(t, dtype) for n, t in tensors.items()}
