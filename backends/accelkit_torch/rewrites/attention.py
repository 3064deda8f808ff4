"""Attention, written with products and a softmax, by torch's own kernel and that kernel's gradient.

The kernel goes through queries and keys in blocks that stay in the processor's cache (Dao et al.,
"FlashAttention", 2022). The weights, one for each pair of tokens, are never stored: the gradient
makes them again from the logarithm of each row's sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes import eliminate_dead_code
from accelkit.primitives import get
from accelkit_torch import fused
from accelkit_torch.rewrites.common import Users, unscaled, used_once

__all__ = ["fuse_attention"]

_SWAP: Final = (0, 1, 3, 2)


@dataclass(frozen=True)
class _Attention:
    """``softmax(scale * q @ keys) @ v`` and, where it is differentiated, its gradient.

    Attributes:
        queries, keys, values: (N, heads, T, d), (N, heads, d, S), (N, heads, S, d).
        scale: Of the scores.
        result: The node of the last product.
        gradients: The nodes that give the cotangents of queries, keys and values, or none.
    """

    queries: Value
    keys: Value
    values: Value
    scale: float
    result: Node
    gradients: tuple[Node, ...] = ()


def fuse_attention(graph: Graph) -> Graph:
    """Attention without dropped weights, in four axes and one width of heads, as two nodes."""
    users = graph.readers()
    found = [
        attention for node in graph.nodes if (attention := _match(node, users, graph)) is not None
    ]
    forward = {attention.result: attention for attention in found}
    backward = {node: attention for attention in found for node in attention.gradients}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node in forward:
            _emit(builder, forward[node])
        elif node in backward and node.outputs[0] not in builder:
            _emit_gradient(builder, backward[node])
        return node in forward or node in backward

    return eliminate_dead_code(rewrite(graph, visit))


def _match(node: Node, users: Users, graph: Graph) -> _Attention | None:
    """The attention whose softmax ``node`` is."""
    if node.primitive.name != "softmax" or node.parameters["axis"] != 3:
        return None
    weights = node.outputs[0]
    products = [
        n
        for n in users.get(weights, ())
        if _transposes(n) == (False, False)
        and n.inputs[0] is weights
        and n.inputs[1] is not weights
    ]
    scaled = node.inputs[0]
    scores, scale = unscaled(scaled)
    if len(products) != 1 or scores.node is None or _transposes(scores.node) != (False, False):
        return None
    queries, keys = scores.node.inputs
    values = products[0].inputs[1]
    hidden = all(used_once(v, users, graph.outputs) for v in (scores, scaled))
    if not hidden or weights in graph.outputs:
        return None
    if queries.spec.ndim != 4 or values.spec.shape[3] != queries.spec.shape[3]:
        return None
    forward = _Attention(queries, keys, values, scale, products[0])
    readers = set(users[weights]) - {products[0]}
    return _with_gradient(forward, weights, readers, users, graph) if readers else forward


def _with_gradient(
    forward: _Attention,
    weights: Value,
    readers: set[Node],
    users: Users,
    graph: Graph,
) -> _Attention | None:
    """The whole of it, if everything else that reads the weights is its gradient."""
    by_values = [n for n in readers if n.primitive.name == "matmul"]
    by_scores = [n for n in readers if n.primitive.name == "softmax_grad"]
    if len(readers) != 2 or len(by_values) != 1 or len(by_scores) != 1:
        return None
    (to_values,), (to_scores,) = by_values, by_scores
    if to_values.inputs[0] is not weights or _transposes(to_values) != (True, False):
        return None
    cotangent = to_values.inputs[1]
    by_weights = to_scores.inputs[1].node
    if (
        to_scores.inputs[0] is not weights
        or by_weights is None
        or by_weights.primitive.name != "matmul"
        or by_weights.inputs != (cotangent, forward.values)
        or _transposes(by_weights) != (False, True)
        or not used_once(to_scores.inputs[1], users, graph.outputs)
    ):
        return None
    scaled = _scaled_gradient(to_scores.outputs[0], forward.scale, users, graph)
    to_queries = to_keys = None
    for node in users.get(scaled, ()) if scaled is not None else ():
        if node.inputs == (scaled, forward.keys) and _transposes(node) == (False, True):
            to_queries = node
        elif node.inputs == (forward.queries, scaled) and _transposes(node) == (True, False):
            to_keys = node
    if scaled is None or to_queries is None or to_keys is None or len(users[scaled]) != 2:
        return None
    return replace(forward, gradients=(to_queries, to_keys, to_values))


def _transposes(node: Node) -> tuple[bool, bool] | None:
    if node.primitive.name != "matmul":
        return None
    return node.parameters["transpose_a"], node.parameters["transpose_b"]


def _scaled_gradient(value: Value, scale: float, users: Users, graph: Graph) -> Value | None:
    """The cotangent of the unscaled scores, from that of the scaled ones."""
    if scale == 1.0:
        return value if value not in graph.outputs else None
    if not used_once(value, users, graph.outputs):
        return None
    scaled = users[value][0].outputs[0]
    return scaled if unscaled(scaled) == (value, scale) and scaled not in graph.outputs else None


def _swapped(builder: GraphBuilder, node: Node, value: Value) -> Value:
    label = {"scope": node.scope, "phase": node.phase}
    return builder.add(get("transpose"), [value], {"permutation": _SWAP}, **label)[0]


def _emit(builder: GraphBuilder, found: _Attention) -> None:
    queries, keys, values = (builder[v] for v in (found.queries, found.keys, found.values))
    operands = [queries, _swapped(builder, found.result, keys), values]
    label = {"scope": found.result.scope, "phase": found.result.phase}
    results = builder.add(fused.ATTENTION, operands, {"scale": found.scale}, **label)
    builder[found.result.outputs[0]] = results[0]


def _emit_gradient(builder: GraphBuilder, found: _Attention) -> None:
    forward = builder[found.result.outputs[0]].node
    assert forward is not None
    to_queries, to_keys, to_values = found.gradients
    cotangent = builder[to_values.inputs[1]]
    label = {"scope": to_queries.scope, "phase": to_queries.phase}
    by_queries, by_keys, by_values = builder.add(
        fused.ATTENTION_GRAD,
        [cotangent, *forward.inputs, *forward.outputs],
        forward.parameters,
        **label,
    )
    builder[to_queries.outputs[0]] = by_queries
    builder[to_keys.outputs[0]] = _swapped(builder, to_keys, by_keys)
    builder[to_values.outputs[0]] = by_values
