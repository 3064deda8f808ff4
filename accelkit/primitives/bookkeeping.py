"""What a step reports: losses and metrics, wrong labels, a loss that is not finite.

Composites, so that a backend whose calls are dear can do each in one of its own.
"""

from __future__ import annotations

from typing import Any

from accelkit import dtypes
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import (
    cast,
    divide,
    equal,
    greater_equal,
    is_finite,
    less,
    logical_and,
    logical_not,
    logical_or,
    multiply,
    select,
)
from accelkit.primitives.primitive import no_flops, primitive
from accelkit.primitives.reductions import reduce_all, reduce_sum
from accelkit.primitives.shaping import concatenate, full, reshape, slice_


def _labels_infer(labels: TensorSpec, weights: TensorSpec, *, classes: int) -> TensorSpec:
    if not labels.dtype.is_integer or not weights.dtype.is_floating:
        raise DTypeError(f"Needs integer labels and floating weights, got {labels}, {weights}.")
    if labels.ndim < 1 or weights.shape != labels.shape[:1]:
        raise ShapeError(f"Labels (N, ...) need weights (N,), got {labels} and {weights}.")
    return TensorSpec((), dtypes.bool_)


def _labels_definition(labels: Any, weights: Any, *, classes: int) -> Any:
    if labels.dtype.bits < 32:  # too narrow to count the classes
        labels = cast(labels, dtype=dtypes.int32)
    bounds = [full(shape=(), value=n, dtype=labels.dtype) for n in (0, classes)]
    inside = logical_and(greater_equal(labels, bounds[0]), less(labels, bounds[1]))
    counts_not = equal(weights, full(shape=(), value=0.0, dtype=weights.dtype))
    counts_not = reshape(counts_not, shape=(*weights.shape, *(1,) * (labels.ndim - 1)))
    return reduce_all(logical_or(inside, counts_not), axes=tuple(range(labels.ndim)))


labels_in_range = primitive(
    "labels_in_range",
    _labels_infer,
    definition=_labels_definition,
    flops=no_flops,
    doc="""Integer labels (N, ...) and weights (N,) to bool[]: whether 0 <= label < classes.

    Samples of weight 0 do not count.""",
)


def _report_infer(
    watch: TensorSpec, keys: TensorSpec, valid: TensorSpec, *values: TensorSpec
) -> tuple[TensorSpec, ...]:
    if watch != TensorSpec((2,), dtypes.int32) or valid != TensorSpec((), dtypes.bool_):
        raise ShapeError(f"Needs a watch int32[2] and a bool[], got {watch} and {valid}.")
    if keys.dtype is not dtypes.uint32 or keys.ndim != 2:
        raise ShapeError(f"Needs keys uint32[n, 2], got {keys}.")
    first = values[0] if values else None
    if first is None or first.shape != () or not first.dtype.is_floating:
        raise ShapeError(f"Needs floating values of shape (), got {first or 'none'}.")
    if any(value != first for value in values):
        raise ShapeError(f"Needs values of one dtype and of shape (), got {values}.")
    return watch, TensorSpec((len(values) + 2,), first.dtype)


def _report_definition(watch: Any, keys: Any, valid: Any, *values: Any) -> tuple[Any, Any]:
    step = cast(slice_(keys, start=(0, 0), stop=(1, 1), step=(1, 1)), dtype=dtypes.int32)
    good = [reshape(flag, shape=(1,)) for flag in (is_finite(values[0]), valid)]
    never = less(watch, full(shape=(), value=0, dtype=dtypes.int32))
    happens = logical_and(logical_not(concatenate(*good, axis=0)), never)
    watch = select(happens, reshape(step, shape=(1,)), watch)
    observed = cast(watch, dtype=values[0].dtype)
    return watch, concatenate(*(reshape(v, shape=(1,)) for v in values), observed, axis=0)


step_report = primitive(
    "step_report",
    _report_infer,
    definition=_report_definition,
    flops=no_flops,
    multiple_outputs=True,
    doc="""(watch int32[2], keys uint32[n, 2], valid bool[], loss, metrics...) to (watch', report).

    watch holds the first step with a loss that is not finite and the first with wrong labels, -1
    for never; the step is keys[0, 0]. The report is (loss, metrics..., *watch').""",
)


def _evaluation_infer(valid: TensorSpec, weights: TensorSpec, *values: TensorSpec) -> TensorSpec:
    if valid != TensorSpec((), dtypes.bool_) or not values:
        raise ShapeError(f"Needs a bool[] and values, got {valid} and {len(values)} values.")
    if weights.ndim != 1 or not weights.dtype.is_floating:
        raise ShapeError(f"Needs floating weights of shape (N,), got {weights}.")
    if any(value != weights for value in values):
        raise ShapeError(f"Needs values like the weights {weights}, got {values}.")
    return TensorSpec((len(values) + 2,), weights.dtype)


def _evaluation_definition(valid: Any, weights: Any, *values: Any) -> Any:
    total = reduce_sum(weights, axes=(0,))
    sums = [reduce_sum(multiply(value, weights), axes=(0,)) for value in values]
    means = [reshape(divide(each, total), shape=(1,)) for each in sums]
    never, now = (full(shape=(1,), value=n, dtype=weights.dtype) for n in (-1.0, 0.0))
    return concatenate(*means, never, select(valid, never, now), axis=0)


evaluation_report = primitive(
    "evaluation_report",
    _evaluation_infer,
    definition=_evaluation_definition,
    flops=lambda inputs, outputs, parameters: 2 * sum(spec.size for spec in inputs[1:]),
    doc="""(valid bool[], weights (N,), loss (N,), metrics (N,)...) to a report of means.

    The report is laid out as a training step's: sum(weights * value) / sum(weights) of each value,
    -1, and -1 if all labels are valid, else 0.""",
)
