"""Algebraic simplification and merging of equal expressions.

Only rewrites that keep every bit, NaN and signed zeros included: ``x * 1`` becomes ``x``, while
``x + 0`` stays (it would change -0.0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives.shaping import full, reshape, transpose

__all__ = ["simplify"]

Rule = Callable[[GraphBuilder, Node, Sequence[Value]], Value | None]
_FOLDED: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "negative": np.negative,
    "equal": np.equal,
}


def simplify(graph: Graph) -> Graph:
    """Apply the rules below to every node, and merge nodes that compute the same."""
    return rewrite(graph, _visit, merge_equal=True)


def _visit(builder: GraphBuilder, node: Node) -> bool:
    name = node.primitive.name
    inputs = [builder[v] for v in node.inputs]
    rule = _RULES.get(name)
    found = rule(builder, node, inputs) if rule else None
    if found is None and name in _FOLDED:
        found = _fold(builder, node, inputs)
    if found is None:
        return False
    builder[node.outputs[0]] = found
    return True


def _full_value(value: Value) -> Any:
    """The number that a ``full`` holds everywhere, None for any other value."""
    node = value.node
    return node.parameters["value"] if node and node.primitive is full else None


def _new_full(builder: GraphBuilder, node: Node, value: Any) -> Value:
    spec = node.outputs[0].spec
    parameters = {"shape": spec.shape, "value": value, "dtype": spec.dtype}
    return builder.add(full, [], parameters, scope=node.scope, phase=node.phase)[0]


def _rounded(value: Any, dtype: DType) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(dtype.numpy)


def _fold(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """Arithmetic on numbers that are known now, rounded as a device would."""
    values = [_full_value(v) for v in inputs]
    if any(v is None for v in values):
        return None
    dtype = inputs[0].spec.dtype
    with np.errstate(all="ignore"):
        result = _FOLDED[node.primitive.name](*(_rounded(v, dtype) for v in values))
    return _new_full(builder, node, _rounded(result, node.outputs[0].spec.dtype).item())


def _select(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """A choice that is known now."""
    condition, a, b = inputs
    known = _full_value(condition)
    chosen = a if known else b
    return chosen if known is not None and chosen.spec == node.outputs[0].spec else None


def _scale(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """x * 1 and x / 1."""
    a, b = inputs
    spec = node.outputs[0].spec
    if _full_value(b) == 1 and a.spec == spec:
        return a
    if node.primitive.name == "multiply" and _full_value(a) == 1 and b.spec == spec:
        return b
    return None


def _shaped(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """Reshapes and broadcasts: to the shape that it has, of a constant, one after another."""
    (x,) = inputs
    if x.spec == node.outputs[0].spec:
        return x
    value = _full_value(x)
    if value is not None:
        return _new_full(builder, node, value)
    if x.node is not None and x.node.primitive is node.primitive:
        return _again(builder, node, x.node.inputs[0], node.parameters)
    return None


def _again(builder: GraphBuilder, node: Node, x: Value, parameters: dict[str, Any]) -> Value:
    """The same primitive on an earlier operand; gone altogether if it changes nothing."""
    if node.primitive is reshape and x.spec == node.outputs[0].spec:
        return x
    return builder.add(node.primitive, [x], parameters, scope=node.scope, phase=node.phase)[0]


def _transpose(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    (x,) = inputs
    permutation = node.parameters["permutation"]
    if permutation == tuple(range(len(permutation))):
        return x
    if _full_value(x) is not None:
        return _new_full(builder, node, _full_value(x))
    if x.node is not None and x.node.primitive is transpose:
        inner = x.node.parameters["permutation"]
        composed = tuple(inner[axis] for axis in permutation)
        if composed == tuple(range(len(composed))):
            return x.node.inputs[0]
        return _again(builder, node, x.node.inputs[0], {"permutation": composed})
    return None


def _cast(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    (x,) = inputs
    dtype = node.parameters["dtype"]
    if x.spec.dtype is dtype:
        return x
    value = _full_value(x)
    if value is not None and (dtype.is_floating or not x.spec.dtype.is_floating):
        return _new_full(builder, node, _rounded(_rounded(value, x.spec.dtype), dtype).item())
    return None


def _unchanged(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """Slices, pads, sums and joins that change nothing."""
    trivial = node.primitive.name in _ONE_TO_ONE and inputs[0].spec == node.outputs[0].spec
    return inputs[0] if trivial and _ONE_TO_ONE[node.primitive.name](node) else None


def _negative(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    inner = inputs[0].node
    if inner is not None and inner.primitive is node.primitive:
        return inner.inputs[0]
    return None


def _itself(builder: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value | None:
    """Marks for differentiation, which is over by now."""
    return inputs[0]


_ONE_TO_ONE: dict[str, Callable[[Node], bool]] = {
    "slice": lambda node: True,
    "pad": lambda node: (
        not any((*node.parameters["low"], *node.parameters["high"], *node.parameters["interior"]))
    ),
    "concatenate": lambda node: len(node.inputs) == 1,
    "reduce_sum": lambda node: not node.parameters["axes"],
    "reduce_max": lambda node: not node.parameters["axes"],
    "reduce_min": lambda node: not node.parameters["axes"],
}
_RULES: dict[str, Rule] = {
    "multiply": _scale,
    "divide": _scale,
    "select": _select,
    "reshape": _shaped,
    "transpose": _transpose,
    "broadcast_to": _shaped,
    "cast": _cast,
    "negative": _negative,
    "alias": _itself,
    "stop_gradient": _itself,
    **dict.fromkeys(_ONE_TO_ONE, _unchanged),
}
