"""Convolutions and matrix products with their bias, and convolution gradients together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes import eliminate_dead_code
from accelkit.primitives import get
from accelkit.primitives.primitive import Primitive
from accelkit_torch import fused
from accelkit_torch.rewrites.common import is_result_of, replacement, used_once

__all__ = [
    "add_bias_in_convolution",
    "add_bias_in_matmul",
    "merge_convolution_gradients",
    "rectify_in_matmul",
]

_GEOMETRY = ("strides", "padding", "dilation", "groups")


def _add_bias(
    graph: Graph,
    product: str,
    matches: Callable[[Node], bool],
    target: Primitive,
    *,
    bias_first: bool,
) -> Graph:
    """``add(product(a, b), bias)``, either way round, as one node.

    A product of stacked rows is reshaped before its bias is added: here it is afterwards.
    """
    users = graph.readers()

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "add":
            return False
        for y, bias in (node.inputs, node.inputs[::-1]):
            found = _same_rows(y)
            if (
                is_result_of(found, product)
                and y.spec == node.outputs[0].spec
                and bias.spec.shape == y.spec.shape[-1:]
                and used_once(y, users, graph.outputs)
                and used_once(found, users, graph.outputs)
                and found.node is not None
                and matches(found.node)
            ):
                operands = found.node.inputs
                inputs = (bias, *operands) if bias_first else (*operands, bias)
                (result,) = replacement(builder, node, target, inputs, **found.node.parameters)
                builder[node.outputs[0]] = _reshaped(builder, node, result)
                return True
        return False

    return eliminate_dead_code(rewrite(graph, visit))


def _same_rows(y: Value) -> Value:
    """What ``y`` is a reshape of, if its last axis stays as it is; else ``y``."""
    if is_result_of(y, "reshape") and y.node is not None:
        (source,) = y.node.inputs
        if y.spec.ndim and source.spec.shape[-1:] == y.spec.shape[-1:]:
            return source
    return y


def _reshaped(builder: GraphBuilder, node: Node, result: Value) -> Value:
    """``result`` in the shape that ``node`` gives."""
    shape = node.outputs[0].spec.shape
    if result.spec.shape == shape:
        return result
    label = {"scope": node.scope, "phase": node.phase}
    return builder.add(get("reshape"), [result], {"shape": shape}, **label)[0]


def add_bias_in_convolution(graph: Graph) -> Graph:
    """A bias over the channels is part of torch's convolution."""
    return _add_bias(graph, "conv2d", lambda node: True, fused.CONV2D_BIAS, bias_first=False)


def add_bias_in_matmul(graph: Graph) -> Graph:
    """A bias over the columns of a float matrix product: ``addmm``."""

    def is_float_matrix(node: Node) -> bool:
        spec = node.outputs[0].spec
        return spec.ndim == 2 and spec.dtype.is_floating

    return _add_bias(graph, "matmul", is_float_matrix, fused.ADD_MATMUL, bias_first=True)


def rectify_in_matmul(graph: Graph) -> Graph:
    """``relu(bias + product)`` as one call, for host memory: it is two kernels there, NaN kept."""
    users = graph.readers()

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "relu":
            return False
        (x,) = node.inputs
        y = _same_rows(x)
        if not is_result_of(y, fused.ADD_MATMUL.name) or not all(
            used_once(value, users, graph.outputs) for value in (x, y)
        ):
            return False
        assert y.node is not None
        (result,) = replacement(
            builder, y.node, fused.ADD_MATMUL_RELU, y.node.inputs, **y.node.parameters
        )
        builder[node.outputs[0]] = _reshaped(builder, node, result)
        return True

    return eliminate_dead_code(rewrite(graph, visit))


def merge_convolution_gradients(graph: Graph) -> Graph:
    """Gradients of one convolution by its images, weights and bias: one call for all of them."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    users = graph.readers()
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
