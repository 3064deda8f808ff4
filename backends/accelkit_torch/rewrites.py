"""Rewrites of a prepared graph into what torch does best, each a small pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes import eliminate_dead_code
from accelkit.primitives.primitive import Primitive
from accelkit_torch import fused
from accelkit_torch.convolution import native_pool_padding

__all__ = ["rewrite_for_torch"]

_GEOMETRY = ("strides", "padding", "dilation", "groups")


def rewrite_for_torch(graph: Graph, donate: frozenset[int], *, accumulate: bool = True) -> Graph:
    """All rewrites, in order.

    Args:
        graph: A prepared graph.
        donate: Positions of the inputs that may be overwritten.
        accumulate: Whether matrix gradients may be added to donated momenta in place.
    """
    graph = add_bias_in_convolution(graph)
    graph = merge_convolution_gradients(graph)
    graph = keep_pooling_indices(graph)
    graph = add_bias_in_matmul(graph)
    if accumulate:
        graph = accumulate_into_momentum(graph, donate)
    graph = fuse_updates(graph)
    return eliminate_dead_code(graph)


def _users(graph: Graph) -> dict[Value, list[Node]]:
    users: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    return users


def _used_once(value: Value, users: dict[Value, list[Node]], outputs: Iterable[Value]) -> bool:
    return len(users.get(value, ())) == 1 and value not in set(outputs)


def _is(value: Value, name: str) -> bool:
    return value.node is not None and value.node.primitive.name == name


def _replace(
    builder: GraphBuilder,
    node: Node,
    primitive: Primitive,
    inputs: Sequence[Value],
    **parameters: Any,
) -> tuple[Value, ...]:
    return builder.add(
        primitive, [builder[v] for v in inputs], parameters, scope=node.scope, phase=node.phase
    )


def _add_bias(
    graph: Graph,
    product: str,
    matches: Callable[[Node], bool],
    target: Primitive,
    *,
    bias_first: bool,
) -> Graph:
    """``add(product(a, b), bias)``, either way round, as one node."""
    users = _users(graph)

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "add":
            return False
        for y, bias in (node.inputs, node.inputs[::-1]):
            if (
                _is(y, product)
                and bias.spec.shape == y.spec.shape[-1:]
                and _used_once(y, users, graph.outputs)
                and y.node is not None
                and matches(y.node)
            ):
                operands = y.node.inputs
                inputs = (bias, *operands) if bias_first else (*operands, bias)
                (builder[node.outputs[0]],) = _replace(
                    builder, node, target, inputs, **y.node.parameters
                )
                return True
        return False

    return eliminate_dead_code(rewrite(graph, visit))


def add_bias_in_convolution(graph: Graph) -> Graph:
    """A bias over the channels is part of torch's convolution."""
    return _add_bias(graph, "conv2d", lambda node: True, fused.CONV2D_BIAS, bias_first=False)


def add_bias_in_matmul(graph: Graph) -> Graph:
    """A bias over the columns of a float matrix product: ``addmm``."""

    def is_float_matrix(node: Node) -> bool:
        spec = node.outputs[0].spec
        return spec.ndim == 2 and spec.dtype.is_floating

    return _add_bias(graph, "matmul", is_float_matrix, fused.ADD_MATMUL, bias_first=True)


def merge_convolution_gradients(graph: Graph) -> Graph:
    """Gradients of one convolution by its images, weights and bias: one call for all of them."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    users = _users(graph)
    groups: dict[Node, tuple[tuple[Node | None, Node, Node | None], Value]] = {}
    for node in graph.nodes:
        if node.primitive.name != "conv2d_weight_grad":
            continue
        x, g = node.inputs
        by_input = _input_gradient(users[g], node, x)
        weights = by_input.inputs[1] if by_input else _weights(users[x], node)
        if weights is None:
            continue
        members = (by_input, node, _bias_gradient(users[g]))
        first = min(position[m] for m in members if m is not None)
        if any(v.node is not None and position[v.node] >= first for v in (x, weights)):
            continue
        groups.update({m: (members, weights) for m in members if m is not None})

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node not in groups:
            return False
        if node.outputs[0] not in builder:  # else an earlier member brought it along
            _emit_gradients(builder, *groups[node])
        return True

    return rewrite(graph, visit)


def _weights(candidates: Sequence[Node], by_weight: Node) -> Value | None:
    """The weights of the forward convolution, of which torch reads shape and layout."""
    for node in candidates:
        if (
            node.primitive.name in ("conv2d", fused.CONV2D_BIAS.name)
            and node.inputs[0] is by_weight.inputs[0]
            and node.inputs[1].spec == by_weight.outputs[0].spec
        ):
            return node.inputs[1]
    return None


def _input_gradient(candidates: Sequence[Node], by_weight: Node, x: Value) -> Node | None:
    geometry = [by_weight.parameters[name] for name in _GEOMETRY]
    kernel = by_weight.outputs[0].spec.shape
    for node in candidates:
        if (
            node.primitive.name == "conv2d_input_grad"
            and node.inputs[0] is by_weight.inputs[1]
            and [node.parameters[name] for name in _GEOMETRY] == geometry
            and node.inputs[1].spec.shape == kernel
            and node.outputs[0].spec == x.spec
        ):
            return node
    return None


def _bias_gradient(candidates: Sequence[Node]) -> Node | None:
    for node in candidates:
        if node.primitive.name == "reduce_sum" and node.parameters["axes"] == (0, 1, 2):
            return node
    return None


def _emit_gradients(
    builder: GraphBuilder, members: tuple[Node | None, Node, Node | None], weights: Value
) -> None:
    by_weight = members[1]
    x, g = by_weight.inputs
    geometry = {name: by_weight.parameters[name] for name in _GEOMETRY}
    outputs = builder.add(
        fused.CONV2D_BACKWARD,
        [builder[x], builder[weights], builder[g]],
        {"wanted": tuple(m is not None for m in members), **geometry},
        scope=by_weight.scope,
        phase=by_weight.phase,
    )
    for member, output in zip((m for m in members if m is not None), outputs, strict=True):
        builder[member.outputs[0]] = output


def keep_pooling_indices(graph: Graph) -> Graph:
    """Where the maxima stood is found once, in the forward pass, and kept for the gradient."""
    gradients: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.primitive.name == "max_pool2d_grad":
            gradients.setdefault(_pooling_key(node), []).append(node)
    indices: dict[Any, Value] = {}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        name = node.primitive.name
        if name not in ("max_pool2d", "max_pool2d_grad"):
            return False
        key = _pooling_key(node)
        if key not in gradients or not native_pool_padding(
            node.parameters["window"], node.parameters["padding"]
        ):
            return False
        if name == "max_pool2d":
            y, indices[key] = _replace(
                builder, node, fused.MAX_POOL2D, node.inputs, **node.parameters
            )
            builder[node.outputs[0]] = y
            return True
        if key not in indices:
            return False
        x, _, g = node.inputs
        (builder[node.outputs[0]],) = builder.add(
            fused.MAX_POOL2D_GRAD,
            [builder[x], indices[key], builder[g]],
            node.parameters,
            scope=node.scope,
            phase=node.phase,
        )
        return True

    return rewrite(graph, visit)


def _pooling_key(node: Node) -> Any:
    return (node.inputs[0], *sorted(node.parameters.items()))


def accumulate_into_momentum(graph: Graph, donate: frozenset[int]) -> Graph:
    """A matrix gradient that only feeds an update is added to the momentum by its own product.

    ``v = momentum * v + a @ b`` is one call that reads and writes ``v``: the gradient, as large
    as the parameter, is never stored.
    """
    users = _users(graph)
    donated = {graph.inputs[i] for i in donate}

    def applies(node: Node) -> bool:
        _, g, v, _ = node.inputs
        return (
            not node.parameters["nesterov"]
            and node.parameters["momentum"] != 0.0
            and _is(g, "matmul")
            and g.spec.ndim == 2
            and _used_once(g, users, graph.outputs)
            and v in donated
            and _used_once(v, users, graph.outputs)
        )

    updates = [n for n in graph.nodes if n.primitive.name == "sgd_update" and applies(n)]
    chosen = {node.inputs[1]: node for node in updates}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        update = chosen.get(node.outputs[0])
        if update is None:
            return False
        (builder[node.outputs[0]],) = _replace(
            builder,
            node,
            fused.ACCUMULATE_MATMUL,
            (update.inputs[2], *node.inputs),
            scale=update.parameters["momentum"],
            **node.parameters,
        )
        return True

    return rewrite(graph, visit)


def fuse_updates(graph: Graph) -> Graph:
    """All updates with the same options and learning rate as one node.

    Nodes that read an updated value, if there are any, move behind the update.
    """
    builder = GraphBuilder(graph)
    pending: dict[Any, list[Node]] = {}
    delayed: list[Node] = []
    waiting: set[Value] = set()

    def flush() -> None:
        for nodes in pending.values():
            _emit_update(builder, nodes)
        for node in delayed:
            builder.copy(node)
        pending.clear()
        delayed.clear()
        waiting.clear()

    for node in graph.nodes:
        is_update = node.primitive.name in ("sgd_update", "adam_update")
        blocked = any(v in waiting for v in node.inputs)
        if is_update:
            if blocked:
                flush()
            pending.setdefault(_update_key(node), []).append(node)
            waiting.update(node.outputs)
        elif blocked:
            delayed.append(node)
            waiting.update(node.outputs)
        else:
            builder.copy(node)
    flush()
    return builder.finish(graph)


def _scalar_count(node: Node) -> int:
    return 1 if node.primitive.name == "sgd_update" else 3


def _accumulated(node: Node) -> bool:
    return _is(node.inputs[1], fused.ACCUMULATE_MATMUL.name)


def _update_key(node: Node) -> Any:
    scalars = node.inputs[-_scalar_count(node) :]
    parameters = sorted(node.parameters.items())
    dtype = node.outputs[0].spec.dtype
    return (node.primitive.name, dtype, _accumulated(node), *scalars, *parameters)


def _emit_update(builder: GraphBuilder, nodes: Sequence[Node]) -> None:
    first = nodes[0]
    scalars = first.inputs[-_scalar_count(first) :]
    is_sgd = first.primitive.name == "sgd_update"
    tensors = [list(node.inputs[: -len(scalars)]) for node in nodes]
    if _accumulated(first):
        for operands_of_one in tensors:  # the momentum is where the gradient went
            operands_of_one[2] = operands_of_one[1]
    operands = [*scalars, *(v for position in zip(*tensors, strict=True) for v in position)]
    parameters = {"count": len(nodes), **first.parameters}
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
            builder[node.outputs[position]] = outputs[position * len(nodes) + i]
