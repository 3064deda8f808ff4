"""Mixed precision: products in a narrow dtype, everything delicate in float32.

The pass works on the whole training step, after differentiation. Matrix products and convolutions
take and give the narrow dtype; what only moves, selects or adds their results follows them;
losses, normalisation, reductions and parameter updates stay in float32, and so do the parameters
themselves (master weights) and everything that enters or leaves the graph.

The lists follow Micikevicius et al. (2018), "Mixed precision training".
"""

from __future__ import annotations

from collections.abc import Callable

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.graph import Graph, GraphBuilder, Node, Value
from accelkit.primitives.elementwise import cast

__all__ = ["mixed_precision"]

NARROW = frozenset(
    {"matmul", "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "depthwise_conv2d"}
)
FOLLOWING = frozenset(
    {
        "add",
        "alias",
        "avg_pool2d",
        "avg_pool2d_grad",
        "broadcast_to",
        "concatenate",
        "dropout",
        "max_pool2d",
        "max_pool2d_gather",
        "max_pool2d_grad",
        "max_pool2d_scatter",
        "max_pool2d_winners",
        "multiply",
        "negative",
        "pad",
        "relu",
        "relu_grad",
        "reshape",
        "reverse",
        "select",
        "slice",
        "stop_gradient",
        "take",
        "transpose",
    }
)


def mixed_precision(graph: Graph, narrow: DType) -> Graph:
    """Compute the products of a float32 graph in ``narrow`` (bfloat16 or float16).

    Inputs and outputs keep their dtypes.
    """
    pass_ = _MixedPrecision(graph, narrow)
    for node in graph.nodes:
        pass_.visit(node)
    return pass_.finish(graph)


class _MixedPrecision:
    """Keeps up to two versions of each value: in float32 and in the narrow dtype."""

    def __init__(self, graph: Graph, narrow: DType) -> None:
        self.builder = GraphBuilder(graph)
        self.narrow = narrow
        self.wide_version: dict[Value, Value] = {v: self.builder[v] for v in graph.inputs}
        self.narrow_version: dict[Value, Value] = {}

    def visit(self, node: Node) -> None:
        name = node.primitive.name
        floats = [v for v in node.inputs if v.spec.dtype is dtypes.float32]
        follows = name in FOLLOWING and self._leads(floats)
        if node.phase != "update" and (name in NARROW or follows) and floats:
            self._emit(node, self._narrow)
        else:
            self._emit(node, self._wide)

    def _leads(self, floats: list[Value]) -> bool:
        """Whether an operand exists in the narrow dtype only, and all large ones do."""
        big = [v for v in floats if v.spec.shape]
        return any(v not in self.wide_version for v in big) and all(
            v in self.narrow_version or v.spec.ndim <= 1 for v in big
        )

    def _emit(self, node: Node, version: Callable[[Value, Node], Value]) -> None:
        inputs = [version(v, node) for v in node.inputs]
        label = {"scope": node.scope, "phase": node.phase}
        outputs = self.builder.add(node.primitive, inputs, node.parameters, **label)
        for old, new in zip(node.outputs, outputs, strict=True):
            changed = new.spec.dtype is not old.spec.dtype
            (self.narrow_version if changed else self.wide_version)[old] = new

    def _convert(self, value: Value, dtype: DType, node: Node) -> Value:
        label = {"scope": node.scope, "phase": node.phase}
        return self.builder.add(cast, [value], {"dtype": dtype}, **label)[0]

    def _wide(self, value: Value, node: Node) -> Value:
        if value not in self.wide_version:
            converted = self._convert(self.narrow_version[value], dtypes.float32, node)
            self.wide_version[value] = converted
        return self.wide_version[value]

    def _narrow(self, value: Value, node: Node) -> Value:
        if value.spec.dtype is not dtypes.float32:
            return self._wide(value, node)
        if value not in self.narrow_version:
            self.narrow_version[value] = self._convert(self.wide_version[value], self.narrow, node)
        return self.narrow_version[value]

    def finish(self, graph: Graph) -> Graph:
        last = graph.nodes[-1] if graph.nodes else None
        for value in graph.outputs:
            self.builder[value] = self._wide(value, last) if last else self.wide_version[value]
        return self.builder.finish(graph)
