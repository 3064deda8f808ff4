"""Cases of control flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.graph import Graph, TensorSpec
from accelkit.parity.cases import Case, cases
from accelkit.parity.source import Source
from accelkit.primitives import elementwise, reductions
from accelkit.tracing import trace_graph

Body = Callable[..., Sequence[Any]]


def _traced(function: Body, specs: Sequence[TensorSpec]) -> Graph:
    graph, captured = trace_graph(function, specs, name="body")
    assert not captured
    return graph


def _sine(x: Any, y: Any) -> Sequence[Any]:
    return elementwise.sin(x) * y, x + y


def _product(x: Any, y: Any) -> Sequence[Any]:
    return x * y * y, elementwise.tanh(x)


def _ignores(x: Any, y: Any) -> Sequence[Any]:
    return y, y * 2.0


@cases("cond", only=("float32", "float64"))
def cond(name: str, source: Source) -> Case:
    """Either branch, branches that ignore an operand included."""
    shape = source.shape(((3,), (2, 3), ()))
    bodies = (_sine, _product, _ignores)
    specs = [TensorSpec(shape, source.dtype)] * 2
    parameters = {
        "true_graph": _traced(source.choose(bodies), specs),
        "false_graph": _traced(source.choose(bodies), specs),
    }
    predicate = np.asarray(source.flag())
    arrays = predicate, source.normal(shape), source.normal(shape)
    return Case(name, arrays, parameters, gradients=(1, 2))


def _recurrence(h: Any, w: Any, x: Any) -> Sequence[Any]:
    h = elementwise.tanh(h * w + x)
    return h, h * x


def _running(h: Any, w: Any, x: Any) -> Sequence[Any]:
    total = h + x * w
    return total, reductions.reduce_sum(total, axes=(0,))


def _steps(dtype: DType, width: int) -> list[TensorSpec]:
    return [TensorSpec((width,), dtype)] * 3


@cases("scan", only=("float32", "float64"))
def scan(name: str, source: Source) -> Case:
    """Recurrences in both directions, of no step too."""
    width = 3
    length = source.choose((3, 1, 5) if source.smooth else (3, 1, 5, 0))
    body = _traced(source.choose((_recurrence, _running)), _steps(source.dtype, width))
    parameters = {
        "body": body,
        "carry_count": 1,
        "constant_count": 1,
        "length": length,
        "reverse": source.flag(),
    }
    arrays = source.normal((width,)), source.normal((width,)), source.normal((length, width))
    terms = width * max(length, 1)
    return Case(
        name,
        arrays,
        parameters,
        gradients=(0, 1, 2),
        floor=1.0,
        length=terms,
        gradient_length=terms,
    )
