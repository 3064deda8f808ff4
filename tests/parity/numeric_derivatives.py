"""Derivatives against numeric differentiation, in float64 on the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accelkit.graph import Graph
from accelkit.parity import checks, graphs
from accelkit.parity.cases import Case
from accelkit.primitives.control import graph_vjp

__all__ = ["derivative_error", "second_derivative_error"]

_STEP = 1e-3


def derivative_error(case: Case) -> float:
    """Relative error of a case's vector-Jacobian product along a random direction.

    ``<vjp(g), v>`` is compared with the derivative of ``<g, f(x + t v)>`` at t = 0 by central
    differences, extrapolated once (Richardson): the truncation error is of order t^4.
    """
    return _error(graphs.value_graph(case), case.arrays, case.gradients)


def second_derivative_error(case: Case) -> float:
    """The same for the derivative of the case's derivative, by operands and cotangents."""
    first = graphs.gradient_graph(case)
    arrays = [*case.arrays, *checks.cotangents(case, first)]
    extra = range(len(case.arrays), len(arrays))
    return _error(first, arrays, (*case.gradients, *extra))


def _error(graph: Graph, arrays: Sequence[np.ndarray], positions: Sequence[int]) -> float:
    generator = np.random.default_rng(0)
    directions = {i: generator.standard_normal(arrays[i].shape) for i in positions}
    weights = [
        generator.standard_normal(v.spec.shape) for v in graph.outputs if v.spec.dtype.is_floating
    ]

    def along(t: float) -> float:
        moved = [a + t * directions[i] if i in directions else a for i, a in enumerate(arrays)]
        results = checks.oracle(graph, moved)
        floating = [y for y in results if y.dtype.kind == "f"]
        return sum(float(np.sum(w * y)) for w, y in zip(weights, floating, strict=True))

    def slope(h: float) -> float:
        return (along(h) - along(-h)) / (2.0 * h)

    numeric = (4.0 * slope(_STEP / 2) - slope(_STEP)) / 3.0
    reverse = graph_vjp(graph, [i in directions for i in range(len(arrays))])
    products = checks.oracle(reverse, [*arrays, *weights])
    terms = [float(np.sum(d * p)) for d, p in zip(_ordered(directions), products, strict=True)]
    sizes = [
        float(np.sum(np.abs(d * p))) for d, p in zip(_ordered(directions), products, strict=True)
    ]
    scale = max(abs(numeric), sum(sizes))
    return abs(numeric - sum(terms)) / scale if scale else 0.0


def _ordered(directions: dict[int, np.ndarray]) -> list[np.ndarray]:
    return [directions[i] for i in sorted(directions)]
