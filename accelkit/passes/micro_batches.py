"""Gradient accumulation without gradients: weight gradients of all micro-batches by one product.

A step in micro-batches adds up ``a1^T b1 + a2^T b2 + ...`` for the weights of every dense layer:
a sum of products is the product of the concatenations, ``[a1; a2; ...]^T [b1; b2; ...]``. Where
the operands are smaller than the weights, keeping them until the last micro-batch costs less
memory than a running sum, the product is computed once, and its result is consumed by the update
as soon as it exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes.cleanup import eliminate_dead_code
from accelkit.primitives.elementwise import add
from accelkit.primitives.linear_algebra import matmul
from accelkit.primitives.optimizer import sgd_update, sgd_update_matmul
from accelkit.primitives.scheduling import barrier
from accelkit.primitives.shaping import concatenate

__all__ = ["merge_products", "update_by_products"]

_LARGE_BYTES = 1 << 20


def merge_products(graph: Graph) -> Graph:
    """Replace sums of matrix products by one product, where its operands take less memory."""
    users, outputs = _users(graph), set(graph.outputs)
    sums: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node.primitive is not add:
            continue
        terms = [[] if v in outputs else _terms(v, sums, users) for v in node.inputs]
        if all(terms):
            joined = [product for part in terms for product in part]
            if all(p.parameters == joined[0].parameters for p in joined):
                sums[node.outputs[0]] = joined
    merged = {value: products for value, products in sums.items() if _pays(value, products)}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive is barrier and len(node.inputs) == 1 and node.inputs[0] in merged:
            builder[node.outputs[0]] = builder[node.inputs[0]]
            return True
        products = merged.get(node.outputs[0])
        if products is None:
            return False
        label = {"scope": products[0].scope, "phase": products[0].phase}
        parameters = products[0].parameters
        joined = []
        for operand, axis in enumerate(_contracted(products[0])):
            parts = [builder[p.inputs[operand]] for p in products]
            joined.append(builder.add(concatenate, parts, {"axis": axis}, **label)[0])
        builder[node.outputs[0]] = builder.add(matmul, joined, parameters, **label)[0]
        return True

    return eliminate_dead_code(rewrite(graph, visit)) if merged else graph


def _users(graph: Graph) -> dict[Value, list[Node]]:
    users: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    return users


def _terms(
    value: Value, sums: Mapping[Value, list[Node]], users: Mapping[Value, Sequence[Node]]
) -> list[Node]:
    """The products of which a value is the sum; none if it is something else."""
    if len(users.get(value, ())) != 1:
        return []
    node = value.node
    if node is not None and node.primitive is barrier and len(node.inputs) == 1:
        return _terms(node.inputs[0], sums, users)
    if value in sums:
        return sums[value]
    return [node] if node is not None and node.primitive is matmul and value.spec.ndim == 2 else []


def _contracted(product: Node) -> tuple[int, int]:
    """The axis of each operand that a matrix product sums over."""
    return (
        0 if product.parameters["transpose_a"] else 1,
        1 if product.parameters["transpose_b"] else 0,
    )


def _pays(value: Value, products: Sequence[Node]) -> bool:
    operands = {v for p in products for v in p.inputs}
    return sum(v.spec.memory_bytes for v in operands) < value.spec.memory_bytes


def update_by_products(graph: Graph) -> Graph:
    """Let updates take the product that is their gradient: it is never stored as a whole.

    For the large matrices only, whose gradients matter.
    """
    users = _users(graph)
    outputs = set(graph.outputs)
    chosen: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.primitive is not sgd_update or not node.parameters["momentum"]:
            continue
        gradient = node.inputs[1]
        product = gradient.node
        if (
            product is not None
            and product.primitive is matmul
            and gradient.spec.ndim == 2
            and len(users[gradient]) == 1
            and gradient not in outputs
            and gradient.spec.memory_bytes >= _LARGE_BYTES
        ):
            chosen[node] = product

    def visit(builder: GraphBuilder, node: Node) -> bool:
        product = chosen.get(node)
        if product is None:
            return False
        p, _, v, rate = node.inputs
        operands = [builder[value] for value in (p, *product.inputs, v, rate)]
        parameters = {**node.parameters, **product.parameters}
        label = {"scope": node.scope, "phase": node.phase}
        new = builder.add(sgd_update_matmul, operands, parameters, **label)
        for old, value in zip(node.outputs, new, strict=True):
            builder[old] = value
        return True

    return eliminate_dead_code(rewrite(graph, visit)) if chosen else graph
