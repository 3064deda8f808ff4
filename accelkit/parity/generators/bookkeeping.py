"""Cases of what a step reports."""

from __future__ import annotations

import numpy as np

from accelkit.parity.cases import CLOSE, EQUAL, Case, cases
from accelkit.parity.source import Source


@cases("labels_in_range")
def labels_in_range(name: str, source: Source) -> Case:
    """Labels of any width, some out of range, some of samples without weight."""
    shape = source.shape(((6,), (3, 2), (1,), (5, 2, 2)))
    labels = source.dtype_of("iu").numpy
    classes = source.choose((10, 1, 1000))
    low, high = np.iinfo(labels).min, np.iinfo(labels).max
    everywhere = source.generator.integers(0, min(classes, high + 1), shape).astype(labels)
    if source.flag():
        limits = np.array([low, high, min(classes, high)], labels)
        where = source.generator.random(shape) < 0.2
        everywhere = np.where(where, source.generator.choice(limits, shape), everywhere)
    counts = source.generator.random(shape[0]) < source.choose((1.0, 0.5))
    weights = np.where(counts, source.between(shape[:1], 0.5, 2.0), source.rounded(0.0))
    return Case(name, (everywhere, weights), {"classes": classes}, EQUAL)


@cases("step_report")
def step_report(name: str, source: Source) -> Case:
    """One to three values, special ones among them; events that were seen before or not."""
    count = 1 + source.below(3)
    values = source.special(source.normal((count,)))
    watch = np.array([source.choose((-1, 3)), source.choose((-1, 0))], np.int32)
    # Steps that the narrowest dtype holds exactly.
    keys = source.generator.integers(0, 200, (1 + source.below(2), 2)).astype(np.uint32)
    valid = np.array(not source.flag())
    return Case(name, (watch, keys, valid, *(np.asarray(v) for v in values)), {}, EQUAL)


@cases("evaluation_report")
def evaluation_report(name: str, source: Source) -> Case:
    """One to three values; all samples weigh the same, or some nothing."""
    size = source.choose((1, 5, 33))
    values = [source.normal((size,)) for _ in range(1 + source.below(3))]
    counts = source.generator.random(size) < source.choose((1.0, 0.5))
    counts[0] = True
    weights = np.where(counts, source.between((size,), 0.5, 2.0), source.rounded(0.0))
    terms = max(float(np.abs(value * weights).sum() / weights.sum()) for value in values)
    operands = (np.array(not source.flag()), weights, *values)
    return Case(name, operands, {}, CLOSE, floor=terms, length=size)
