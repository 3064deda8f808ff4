"""Forward and backward of a training step, one micro-batch after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelkit import ops
from accelkit.autodiff import value_and_grad
from accelkit.errors import OptionError
from accelkit.nn.module import flatten_names, nest, output_specs
from accelkit.primitives.scheduling import barrier
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace
from accelkit.train.recipe import Recipe
from accelkit.train.sites import SiteStream
from accelkit.train.state import below

__all__ = ["Part", "forward_and_backward"]


class Part(NamedTuple):
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

    def plus(self, other: Part) -> Part:
        """Both micro-batches together: sums that are there before the next one begins."""
        both = None if self.valid is None or other.valid is None else self.valid & other.valid
        values = {n: v + other.values[n] for n, v in self.values.items()}
        trace = active_trace()
        assert trace is not None
        with trace.labelled(phase="update"):  # moved to where the second gradient is made
            gradients = {n: barrier(g + other.gradients[n])[0] for n, g in self.gradients.items()}
        return Part(values, gradients, {}, both)

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


@dataclass(frozen=True, eq=False)
class _Differentiation:
    """How micro-batches go forward and backward: what is the same for all of one step.

    Attributes:
        recipe: What is computed.
        trainable: Parameters with a gradient, by name.
        frozen: The others.
        state: The model's statistics before the step.
        weight: Sum of the whole batch's weights.
        stream: Of the dropout masks; every micro-batch begins it anew.
        scale: By what the loss is multiplied before it is differentiated; None for 1.
        details: Takes the specs of the model's outputs.
    """

    recipe: Recipe
    trainable: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]
    state: dict[str, Any]
    weight: Tensor
    stream: SiteStream
    scale: Tensor | None
    details: dict[str, Any]

    def part(self, batch: Sequence[Tensor], *, first_sample: int) -> Part:
        """What one micro-batch adds.

        Args:
            batch: Its inputs, targets, weights, and each sample's share of the whole weight.
            first_sample: The position of its first sample in the whole batch.
        """
        recipe = self.recipe
        inputs, targets, weights, share = batch
        self.stream.restart()

        def loss_function(chosen: dict[str, Tensor]) -> tuple[Tensor, Any]:
            outputs, new_state = recipe.model.apply(
                nest({**self.frozen, **chosen}),
                recipe.model_input(inputs),
                training=True,
                random=self.stream,
                state=self.state,
                first_sample=first_sample,
            )
            loss = ops.sum(recipe.evaluate(outputs, targets) * share)
            scaled = loss if self.scale is None else loss * self.scale
            return scaled, (loss, outputs, new_state)

        (_, (loss, outputs, new_state)), gradients = value_and_grad(loss_function, has_aux=True)(
            dict(self.trainable)
        )
        values = {"loss": loss}
        for name, of_samples in recipe.measure(outputs, targets).items():
            values[name] = ops.sum(of_samples * weights) / self.weight
        self.details["output"] = output_specs(recipe.model, outputs)
        valid = recipe.loss.valid(outputs, targets, weights)
        return Part(values, gradients, dict(flatten_names(new_state)), valid)


def forward_and_backward(
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    trainable: Mapping[str, Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    stream: SiteStream,
    scale: Tensor | None,
    details: dict[str, Any],
) -> Part:
    """One micro-batch after the other, added up.

    Every sample's loss counts by its share of the weight of the whole batch, and a micro-batch's
    dropout masks are the rows of the whole batch's, so the sum is what one pass would give.
    """
    count = recipe.accumulate
    micro = _micro_batch_size(batch[0].shape[0], count)
    frozen = {n: p for n, p in below(tensors, "parameters").items() if n not in trainable}
    old_state = nest(below(tensors, "state"))
    weight = ops.sum(batch[2])
    one = _Differentiation(recipe, trainable, frozen, old_state, weight, stream, scale, details)
    everything = (*batch, batch[2] / weight)
    total = one.part(everything if count == 1 else _rows(everything, 0, micro), first_sample=0)
    for first in range(micro, micro * count, micro):
        rows = _rows(total.before(everything), first, micro)
        total = total.plus(one.part(rows, first_sample=first))
    return total


def _micro_batch_size(size: int, count: int) -> int:
    if size % count:
        raise OptionError(
            f"accumulate={count} does not divide the batch of {size}. Choose one of: "
            f"{', '.join(str(k) for k in range(1, size + 1) if size % k == 0)}."
        )
    return size // count


def _rows(batch: Sequence[Tensor], first: int, count: int) -> tuple[Tensor, ...]:
    return tuple(part[first : first + count] for part in batch)
