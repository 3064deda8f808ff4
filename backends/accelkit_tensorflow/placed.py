"""Programs of which TensorFlow's kernels compute a part and XLA the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelkit.backend import evaluate
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.passes import Part
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.placement import PlacedPart
from accelkit_tensorflow.table import kernel

__all__ = ["Implementation", "PlacedProgram", "read"]

ops = tf.raw_ops
Implementation = Callable[[Node], Callable[..., Any]]


class PlacedProgram:
    """A function to trace, which runs the parts of a graph one after the other.

    A cluster that computes the successor of a donated input reads and assigns its variable itself,
    so that XLA updates it in place. It waits until the kernels that read the variable are done:
    their copy would have to be kept otherwise.

    Args:
        graph: The whole graph.
        parts: Its parts, in order.
        targets: The output that takes the place of each donated input, by positions.
        returned: Positions of the outputs to return.
        implementation: Gives the native function of a node inside of a cluster.
        workspaces: Whether kernels may take memory to be faster.
    """

    def __init__(
        self,
        graph: Graph,
        parts: Sequence[PlacedPart],
        targets: Mapping[int, int],
        returned: Sequence[int],
        implementation: Implementation,
        *,
        workspaces: bool = True,
    ) -> None:
        self.graph = graph
        self.parts = parts
        self._targets = targets
        self._returned = returned
        self._implementation = implementation
        self._workspaces = workspaces
        made = {v for p in parts if not p.on_kernels for v in p.part.outputs}
        self._updates = {
            graph.outputs[index]: position
            for position, index in targets.items()
            if graph.outputs[index] in made
        }
        self._wanted = {graph.outputs[i] for i in returned}.union(*(p.part.inputs for p in parts))

    def __call__(self, *inputs: Any) -> list[Any]:
        """Outputs to return; ``inputs`` are variables' handles at the targets' positions."""
        graph = self.graph
        handles = {graph.inputs[position]: inputs[position] for position in self._targets}
        values = {
            value: read(x, value.spec) if value in handles else x
            for value, x in zip(graph.inputs, inputs, strict=True)
        }
        readers: dict[Value, list[Any]] = {value: [] for value in handles}
        for placed in self.parts:
            if placed.on_kernels:
                found = self._run_kernels(placed.part, values)
                for value in handles.keys() & set(placed.part.inputs):
                    readers[value] += found.values()
            else:
                found = self._run_cluster(placed.part, values, handles, readers)
            values.update(found)
        for position, index in self._targets.items():
            output = graph.outputs[index]
            if output not in self._updates and output is not graph.inputs[position]:
                ops.AssignVariableOp(resource=inputs[position], value=values[output])
        return [tf.identity(values[graph.outputs[i]]) for i in self._returned]

    def _run_kernels(self, part: Part, values: Mapping[Value, Any]) -> dict[Value, Any]:
        """In the executor's order: what one kernel leaves idle, another uses."""

        def find(node: Node) -> Callable[..., Any]:
            return kernel(node, workspaces=self._workspaces) or self._implementation(node)

        found = evaluate(part.graph, [values[v] for v in part.inputs], find)
        return dict(zip(part.outputs, found, strict=True))

    def _run_cluster(
        self,
        part: Part,
        values: Mapping[Value, Any],
        handles: Mapping[Value, Any],
        readers: Mapping[Value, Sequence[Any]],
    ) -> dict[Value, Any]:
        updates = {
            v: self.graph.inputs[self._updates[v]] for v in part.outputs if v in self._updates
        }
        variables = tuple(updates.values())
        operands = tuple(v for v in part.inputs if v not in variables)
        results = tuple(v for v in part.outputs if v in self._wanted)

        def cluster(tensors: Sequence[Any], own: Sequence[Any]) -> list[Any]:
            handle = dict(zip(variables, own, strict=True))
            given = dict(zip(operands, tensors, strict=True))
            given |= {v: read(h, v.spec) for v, h in handle.items()}
            outputs = evaluate(part.graph, [given[v] for v in part.inputs], self._implementation)
            found = dict(zip(part.outputs, outputs, strict=True))
            for successor, variable in updates.items():
                ops.AssignVariableOp(resource=handle[variable], value=found[successor])
            return [tf.identity(found[v]) for v in results]

        compiled = tf.function(cluster, autograph=False, jit_compile=True)
        with tf.control_dependencies([r for v in variables for r in readers[v]]):
            found = compiled([values[v] for v in operands], [handles[v] for v in variables])
        return dict(zip(results, found, strict=True))


def read(resource: Any, spec: TensorSpec) -> Any:
    """The content of a variable at the beginning of the program."""
    content = ops.ReadVariableOp(resource=resource, dtype=spec.dtype.name)
    content.set_shape(spec.shape)
    return content
