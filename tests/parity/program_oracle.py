"""The oracle of random programs: NumPy in float64, with bounds from perturbed runs.

How far rounding moves a result depends on the program. So the oracle runs it several times more,
with random errors as large as the tolerance of each primitive that rounds, in its operands (of
which sums may cancel) and its results: Monte Carlo arithmetic (Parker, 1997). A result may deviate
by a few times what these runs deviate. Where they take another branch (a comparison, an integer, a
largest element), the difference is of order one: nothing can be said there, and nothing is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accelkit import asarray, dtypes
from accelkit.device import default_device, device
from accelkit.graph import Graph, Node
from accelkit.parity import graphs
from accelkit.parity.cases import CLOSE, build_case, case_dtypes
from accelkit.parity.tolerances import TOLERANCES, smallest_normal
from accelkit.primitives.primitive import Primitive

__all__ = ["Oracle"]

_NUMPY = device("numpy")
# Each element has the accuracy of the dtype; of other primitives, the largest element has.
_ELEMENTWISE = frozenset({"add", "cast", "divide", "multiply", "sqrt", "subtract"})
_FACTOR = 4.0  # between the largest error of a few runs and the bound


class Oracle:
    """What a graph gives for some data, and how well that is determined."""

    def __init__(self, graph: Graph, arrays: Sequence[np.ndarray]) -> None:
        self._graph, self._wide = graph, graphs.wide(graph)
        self._arrays = [_widened(a) for a in arrays]
        self.wanted = self._run(None)
        self._perturbed: list[list[np.ndarray]] = []
        self._perturb(4)

    def mismatches(self, found: Sequence[np.ndarray]) -> dict[int, str]:
        """What is wrong with the outputs, by position."""
        problems = self._compare(found)
        if problems:  # perhaps a branch that no run has taken yet
            self._perturb(40)
            problems = self._compare(found)
        return problems

    def _run(self, noise: np.random.Generator | None) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return _evaluate(self._graph, self._wide, self._arrays, noise)

    def _perturb(self, count: int) -> None:
        for _ in range(count):
            self._perturbed.append(self._run(np.random.default_rng(len(self._perturbed))))

    def _compare(self, found: Sequence[np.ndarray]) -> dict[int, str]:
        problems = {}
        for position, value in enumerate(self._graph.outputs):
            runs = [run[position] for run in self._perturbed]
            text = _problem(value.spec, found[position], self.wanted[position], runs)
            if text:
                problems[position] = text
        return problems


def _problem(spec: Any, found: np.ndarray, wanted: np.ndarray, runs: Sequence[np.ndarray]) -> str:
    if found.shape != spec.shape or dtypes.dtype(found.dtype) is not spec.dtype:
        return f"is {found.dtype}{list(found.shape)}, expected {spec}"
    a, b = _widened(found), wanted
    if spec.dtype.is_floating:
        certain = np.ones(b.shape, bool)
        for run in runs:
            same = (run == b) | (np.isnan(run) & np.isnan(b))
            certain &= same | (np.isfinite(run) & np.isfinite(b))
        with np.errstate(all="ignore"):
            spread = np.max([np.abs(run - b) for run in runs], axis=0)
            rounding = TOLERANCES[spec.dtype.name].value * np.abs(b)
            bound = _FACTOR * (spread + smallest_normal(found.dtype)) + rounding
            near = np.abs(a - b) <= bound
        right = near | (a == b) | (np.isnan(a) & np.isnan(b))
    else:
        certain = np.logical_and.reduce([run == b for run in runs])
        right = a == b
    wrong = np.argwhere(certain & ~right)
    if not len(wrong):
        return ""
    first = tuple(wrong[0].tolist())
    allowed = f", allowed are {bound[first]:.3g}" if spec.dtype.is_floating else ""
    return (
        f"{spec} has {len(wrong)} wrong elements, the first at {first}: {a[first]!r} instead of "
        f"{b[first]!r}{allowed}"
    )


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if dtypes.dtype(array.dtype).is_floating else array


def _evaluate(
    graph: Graph, wide: Graph, arrays: Sequence[np.ndarray], noise: np.random.Generator | None
) -> list[np.ndarray]:
    """Run the wide form of a graph, with errors as the graph's own dtypes have them."""
    environment: dict[Any, np.ndarray] = dict(zip(wide.inputs, arrays, strict=True))
    for node, wide_node in zip(graph.nodes, wide.nodes, strict=True):
        operands = [environment[v] for v in wide_node.inputs]
        rounds = noise is not None and _rounds(node)
        if noise is not None and rounds and node.primitive.name not in _ELEMENTWISE:
            operands = [_disturbed(x, node, noise, common=False) for x in operands]
        results = _results(node, wide_node, operands, noise)
        if noise is not None and rounds:
            common = node.primitive.name not in _ELEMENTWISE
            results = [_disturbed(y, node, noise, common=common) for y in results]
        environment.update(zip(wide_node.outputs, map(np.asarray, results), strict=True))
    return [environment[v] for v in wide.outputs]


def _results(
    node: Node, wide: Node, operands: list[np.ndarray], noise: np.random.Generator | None
) -> list[np.ndarray]:
    name, primitive, parameters = node.primitive.name, wide.primitive, wide.parameters
    if name.startswith("random_"):  # the dtype is part of the meaning
        return _called(primitive, operands, node.parameters)
    if name == "cond":
        branch = "true_graph" if operands[0] else "false_graph"
        return _evaluate(node.parameters[branch], parameters[branch], operands[1:], noise)
    if name == "scan":
        return _scan(node, wide, operands, noise)
    return _called(primitive, operands, parameters)


def _called(
    primitive: Primitive, operands: list[np.ndarray], parameters: Mapping[str, Any]
) -> list[np.ndarray]:
    """The results of a primitive, by its definition where NumPy's backend has no native form."""
    with default_device(_NUMPY):
        found: Any = primitive(*(asarray(x) for x in operands), **parameters)
    return [_widened(y.numpy()) for y in (found if primitive.multiple_outputs else [found])]


def _scan(
    node: Node, wide: Node, operands: list[np.ndarray], noise: np.random.Generator | None
) -> list[np.ndarray]:
    p = wide.parameters
    count, constants = p["carry_count"], p["constant_count"]
    carry, kept = operands[:count], operands[count : count + constants]
    stacks = [np.zeros(v.spec.shape, v.spec.dtype.numpy) for v in wide.outputs[count:]]
    steps = range(p["length"])
    for i in reversed(steps) if p["reverse"] else steps:
        given = [*carry, *kept, *(x[i] for x in operands[count + constants :])]
        found = _evaluate(node.parameters["body"], p["body"], given, noise)
        carry = found[:count]
        for stack, y in zip(stacks, found[count:], strict=True):
            stack[i] = y
    return [*carry, *stacks]


def _precision(node: Node) -> Any:
    found = [v.spec.dtype for v in (*node.inputs, *node.outputs) if v.spec.dtype.is_floating]
    return max(found, key=lambda d: TOLERANCES[d.name].value) if found else None


def _rounds(node: Node) -> bool:
    if node.primitive.name == "cast":
        return node.outputs[0].spec.dtype.is_floating
    return _precision(node) is not None and _is_close(node.primitive.name)


@functools.cache
def _is_close(name: str) -> bool:
    """Whether backends may round differently, by how the parity kit compares them."""
    if name in ("cond", "scan", "custom_gradient"):  # their bodies round, or nothing does
        return False
    wide = [d for d in case_dtypes(name, dtypes.ALL) if d.is_floating]
    return build_case(name, lambda count: 0, wide[0], dtypes.ALL).comparison == CLOSE


def _disturbed(
    x: np.ndarray, node: Node, noise: np.random.Generator, *, common: bool
) -> np.ndarray:
    """x with errors relative to each element, or besides, to the largest one."""
    if x.dtype != np.float64:
        return x
    dtype = _precision(node)
    size = np.abs(x)
    if common:
        size = size + np.max(size[np.isfinite(size)], initial=0.0)
    error = TOLERANCES[dtype.name].value * size + np.where(x, smallest_normal(dtype.numpy), 0.0)
    disturbed = x + np.where(np.isfinite(x), error * noise.uniform(-1.0, 1.0, x.shape), 0.0)
    largest = float(dtypes_max(dtype))
    return np.where(np.isfinite(x) & (size > largest / 4), np.nan, disturbed)


@functools.cache
def dtypes_max(dtype: Any) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.numpy).max)
