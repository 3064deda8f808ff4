"""Parameter updates: all at once, and matrix gradients added to the momentum directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives import get
from accelkit_torch import fused
from accelkit_torch.rewrites.common import is_result_of, used_once

__all__ = ["accumulate_into_momentum", "fuse_updates", "split_product_updates"]

_SMALLEST_MOMENTUM: Final = 2.0**-4  # a gradient divided by it stays far from overflow


def split_product_updates(graph: Graph) -> Graph:
    """``sgd_update_matmul`` as a product and an update, which the rewrites below put together."""

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "sgd_update_matmul":
            return False
        p, a, b, v, rate = (builder[value] for value in node.inputs)
        label = {"scope": node.scope, "phase": node.phase}
        options = dict(node.parameters)
        transposes = {name: options.pop(name) for name in ("transpose_a", "transpose_b")}
        (g,) = builder.add(get("matmul"), [a, b], transposes, **label)
        outputs = builder.add(get("sgd_update"), [p, g, v, rate], options, **label)
        for old, new in zip(node.outputs, outputs, strict=True):
            builder[old] = new
        return True

    return rewrite(graph, visit)


def accumulate_into_momentum(graph: Graph, donate: frozenset[int]) -> Graph:
    """A matrix gradient that only feeds an update is added to the momentum by its own product.

    ``v += a @ b / momentum`` is one call that reads and writes ``v``: the gradient, as large as
    the parameter, is never stored. The update multiplies the sum by ``momentum``; a product that
    did so itself would pass over ``v`` once more before it adds to it.
    """
    users = graph.readers()
    donated = {graph.inputs[i] for i in donate}

    def applies(node: Node) -> bool:
        _, g, v, _ = node.inputs
        return (
            not node.parameters["nesterov"]
            and node.parameters["momentum"] >= _SMALLEST_MOMENTUM
            and is_result_of(g, "matmul")
            and g.spec.ndim == 2
            and used_once(g, users, graph.outputs)
            and v in donated
            and used_once(v, users, graph.outputs)
        )

    updates = [n for n in graph.nodes if n.primitive.name == "sgd_update" and applies(n)]
    chosen = {node.inputs[1]: node for node in updates}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        update = chosen.get(node.outputs[0])
        if update is None:
            return False
        (builder[node.outputs[0]],) = builder.add(
            fused.ACCUMULATE_MATMUL,
            [builder[v] for v in (update.inputs[2], *node.inputs)],
            {"scale": 1.0 / update.parameters["momentum"], **node.parameters},
            scope=node.scope,
            phase=update.phase,
        )
        return True

    return rewrite(graph, visit)


def fuse_updates(graph: Graph) -> Graph:
    """All updates with the same options and learning rate as one node.

    Where a select takes each updated value or the old one by one condition, the node has that
    condition: the kernels can leave everything as it was. Nodes that read an updated value move
    behind the update.
    """
    builder = GraphBuilder(graph)
    conditions = _conditions(graph)
    pending: dict[Any, list[Node]] = {}
    delayed: list[Node] = []
    waiting: set[Value] = set()

    def flush() -> None:
        for (condition, *_), nodes in pending.items():
            _emit_update(builder, nodes, conditions, condition)
        for node in delayed:
            if not any(v in builder for v in node.outputs):
                builder.copy(node)
        pending.clear()
        delayed.clear()
        waiting.clear()

    for node in graph.nodes:
        is_update = _has_kernel(node)
        blocked = any(v in waiting for v in node.inputs)
        if is_update:
            if blocked:
                flush()
            condition = conditions[node].value if node in conditions else None
            pending.setdefault((condition, *_update_key(node)), []).append(node)
            waiting.update(node.outputs)
        elif blocked:
            delayed.append(node)
            waiting.update(node.outputs)
        else:
            builder.copy(node)
    flush()
    return builder.finish(graph)


class _Condition(NamedTuple):
    """The condition of an update, and the selected values, one per output of the update."""

    value: Value
    selected: tuple[Value, ...]


def _conditions(graph: Graph) -> dict[Node, _Condition]:
    """Updates of which every result is only used by ``select(condition, new, old)``."""
    users = graph.readers()
    outputs = set(graph.outputs)
    found: dict[Node, _Condition] = {}
    for node in graph.nodes:
        if not _has_kernel(node):
            continue
        p, _, *slots = node.inputs[: -_scalar_count(node)]
        selects = []
        for new, old in zip(node.outputs, (p, *slots), strict=True):
            readers = users.get(new, [])
            if len(readers) == 1 and new not in outputs and _chooses(readers[0], new, old):
                selects.append(readers[0])
        condition = selects[0].inputs[0] if selects else None
        complete = len(selects) == len(node.outputs) and all(
            select.inputs[0] is condition for select in selects
        )
        # A condition that comes from an updated value cannot decide about the update.
        if condition is not None and complete and not _depends_on(condition, node):
            found[node] = _Condition(condition, tuple(s.outputs[0] for s in selects))
    return found


def _chooses(node: Node, new: Value, old: Value) -> bool:
    return (
        node.primitive.name == "select"
        and node.inputs[0].spec.shape == ()
        and node.inputs[1] is new
        and node.inputs[2] is old
    )


def _depends_on(value: Value, node: Node) -> bool:
    stack, seen = [value], set()
    while stack:
        origin = stack.pop().node
        if origin is node:
            return True
        if origin is not None and origin not in seen:
            seen.add(origin)
            stack.extend(origin.inputs)
    return False


def _has_kernel(node: Node) -> bool:
    name = node.primitive.name
    return name == "adam_update" or (name == "sgd_update" and node.parameters["momentum"] != 0.0)


def _scalar_count(node: Node) -> int:
    return 1 if node.primitive.name == "sgd_update" else 3


def _accumulated(node: Node) -> bool:
    return is_result_of(node.inputs[1], fused.ACCUMULATE_MATMUL.name)


def _update_key(node: Node) -> Any:
    scalars = node.inputs[-_scalar_count(node) :]
    parameters = sorted(node.parameters.items())
    dtype = node.outputs[0].spec.dtype
    return (node.primitive.name, dtype, _accumulated(node), *scalars, *parameters)


def _emit_update(
    builder: GraphBuilder,
    nodes: Sequence[Node],
    conditions: Mapping[Node, _Condition],
    condition: Value | None,
) -> None:
    first = nodes[0]
    scalars = first.inputs[-_scalar_count(first) :]
    is_sgd = first.primitive.name == "sgd_update"
    tensors = [list(node.inputs[: -len(scalars)]) for node in nodes]
    if _accumulated(first):
        for operands_of_one in tensors:  # the momentum is where the gradient went
            operands_of_one[2] = operands_of_one[1]
    conditional = condition is not None and condition in builder
    operands = [*scalars, *((condition,) if conditional and condition is not None else ())]
    operands += [v for position in zip(*tensors, strict=True) for v in position]
    parameters = {"count": len(nodes), "conditional": conditional, **first.parameters}
    if is_sgd:
        parameters["accumulated"] = _accumulated(first)
    outputs = builder.add(
        fused.SGD if is_sgd else fused.ADAM,
        [builder[v] for v in operands],
        parameters,
        phase=first.phase,
    )
    for position in range(len(first.outputs)):
        for i, node in enumerate(nodes):
            result = outputs[position * len(nodes) + i]
            builder[node.outputs[position]] = result
            if conditional:
                builder[conditions[node].selected[position]] = result
