"""Gradient accumulation without gradients.

A step in micro-batches adds up ``a1^T b1 + a2^T b2 + ...`` for the weights of every dense layer:
a sum of products is the product of the concatenations, ``[a1; a2; ...]^T [b1; b2; ...]``. Where
the operands are smaller than the weights, keeping them until the last micro-batch costs less
memory than a running sum, the product is computed once, and its result is consumed by the update
as soon as it exists. Other weights' gradients are added to the momentum, which is there anyway:
``mu v + g1 + g2 + ... + wd p`` in the memory of ``v``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes.cleanup import eliminate_dead_code
from accelkit.primitives.elementwise import add, multiply, subtract
from accelkit.primitives.linear_algebra import matmul
from accelkit.primitives.optimizer import sgd_update, sgd_update_matmul
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.scheduling import barrier
from accelkit.primitives.shaping import broadcast_to, concatenate, full

__all__ = ["accumulate_in_momentum", "merge_products", "update_by_products"]

_LARGE_BYTES = 1 << 20


def merge_products(graph: Graph) -> Graph:
    """Replace sums of matrix products by one product, where its operands take less memory."""
    readers, outputs = graph.readers(), set(graph.outputs)
    sums: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node.primitive is not add:
            continue
        terms = [[] if v in outputs else _terms(v, sums, readers) for v in node.inputs]
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


def _terms(
    value: Value, sums: Mapping[Value, list[Node]], readers: Mapping[Value, Sequence[Node]]
) -> list[Node]:
    """The products of which a value is the sum; none if it is something else."""
    if len(readers.get(value, ())) != 1:
        return []
    node = value.node
    if node is not None and node.primitive is barrier and len(node.inputs) == 1:
        return _terms(node.inputs[0], sums, readers)
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
    readers = graph.readers()
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
            and len(readers[gradient]) == 1
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


def accumulate_in_momentum(graph: Graph) -> Graph:
    """Let the momentum of large weights take the gradients one by one, instead of their sum.

    For classical momentum only: Nesterov's form needs the sum itself.
    """
    readers, outputs = graph.readers(), set(graph.outputs)
    first: dict[Value, Node] = {}  # the first gradient of a sum: the update that takes the sum
    for node in graph.nodes:
        p = node.parameters
        if node.primitive is not sgd_update or not p["momentum"] or p["nesterov"]:
            continue
        _, total, v, _ = node.inputs
        start = _first_term(total, readers)
        is_free = v.node is None and len(readers[v]) == 1 and v not in outputs
        if start is not None and is_free and total.spec.memory_bytes >= _LARGE_BYTES // 4:
            first[start] = node
    updates = set(first.values())

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node in updates:
            for old, new in zip(node.outputs, _update_by_total(builder, node), strict=True):
                builder[old] = new
            return True
        chosen = [value for value in node.outputs if value in first]
        if chosen:
            builder.copy(node)
        for value in chosen:
            update = first[value]
            old, factor = builder[update.inputs[2]], update.parameters["momentum"]
            add_up = _Arithmetic(builder, update)
            total = add_up(add, add_up.times(old, factor), builder[value])
            builder[value] = add_up(barrier, total)  # there before the next micro-batch begins
        return bool(chosen)

    return eliminate_dead_code(rewrite(graph, visit)) if first else graph


def _first_term(total: Value, readers: Mapping[Value, Sequence[Node]]) -> Value | None:
    """The first gradient of a running sum whose partial sums are only added to; None if it is none.

    Partial sums are first operands.
    """
    terms = 1
    while total.node is not None and len(readers[total]) == 1:
        node = total.node
        is_fence = node.primitive is barrier and len(node.inputs) == 1
        if node.phase != "update" or not (is_fence or node.primitive is add):
            return total if terms > 1 else None
        terms += node.primitive is add
        total = node.inputs[0]
    return None


class _Arithmetic:
    """Adds nodes of the update phase, in the scope of a node."""

    def __init__(self, builder: GraphBuilder, node: Node) -> None:
        self._builder = builder
        self._label = {"scope": node.scope, "phase": "update"}

    def __call__(self, primitive: Primitive, *operands: Value, **parameters: Any) -> Value:
        return self._builder.add(primitive, list(operands), parameters, **self._label)[0]

    def times(self, x: Value, factor: float) -> Value:
        """x * factor."""
        spec = x.spec
        return self(multiply, x, self(full, shape=spec.shape, value=factor, dtype=spec.dtype))


def _update_by_total(builder: GraphBuilder, update: Node) -> tuple[Value, Value]:
    """Parameter and momentum from ``mu v + g1 + g2 + ...``."""
    new = _Arithmetic(builder, update)
    p, v, _, rate = (builder[value] for value in update.inputs)
    if update.parameters["weight_decay"]:
        v = new(add, v, new.times(p, update.parameters["weight_decay"]))
    rates = new(broadcast_to, rate, shape=p.spec.shape)
    return new(subtract, p, new(multiply, v, rates)), v
