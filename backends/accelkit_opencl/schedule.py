"""Scheduling: which primitives become one kernel, in which order the kernels run.

Views cost nothing and are resolved to index arithmetic. Elementwise primitives of one shape join
a *cluster*, which becomes one kernel; a reduction swallows the cluster that computes its operand
if nothing else wants it. Everything else is a step of its own.

Random tensors are views too: an elementwise kernel that reads one draws it. It does so each time
that one is read, in a backward pass again, which takes about as long as reading what was stored and
spares storing it. They are stored only for what is no elementwise kernel, or would draw them in
another order than theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit_opencl.bodies import ReadTable, draws_in_long_runs
from accelkit_opencl.expressions import elementwise_expression
from accelkit_opencl.kernels.fused import Body, Statement
from accelkit_opencl.kernels.reductions import Reduction
from accelkit_opencl.steps import ElementwiseStep, NodeStep, ReductionStep, Step
from accelkit_opencl.views import COMPUTED, VIEW_PRIMITIVES, View, broadcast, view_of_node

__all__ = ["REDUCTIONS", "Schedule"]

REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_product", "reduce_any", "reduce_all"}
)
_MOST_ARGUMENTS = 24  # of one kernel
_CHEAP = frozenset({"add", "subtract", "multiply", "negative", "absolute", "cast", "relu"})


@dataclass(eq=False)
class Cluster:
    """Elementwise nodes of one shape that will be one kernel."""

    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    operands: dict[Node, list[View]] = field(default_factory=dict)
    closed: bool = False

    def buffers(self) -> set[Value]:
        """Values that the cluster reads or writes, an upper bound of its arguments."""
        found = {v for node in self.nodes for v in node.outputs}
        for views in self.operands.values():
            found.update(view.base for view in views if view.base is not None)
        return found


class Schedule:
    """The steps of a graph.

    Args:
        graph: A prepared graph.
        donated: Inputs whose buffer may become an output's.

    Attributes:
        steps: In order.
        outputs: For every graph output a dense value with a buffer of its own, which may be that
            of a donated input.
    """

    def __init__(self, graph: Graph, donated: frozenset[Value] = frozenset()) -> None:
        self.graph = graph
        self._donated = donated
        self.steps: list[Step] = []
        self.views: dict[Value, View] = {v: View.of(v) for v in graph.inputs}
        self._open: list[Cluster] = []
        self._cluster_of: dict[Value, Cluster] = {}
        self._consumers = graph.readers()
        self._position = {node: i for i, node in enumerate(graph.nodes)}
        self._wanted = set(graph.outputs)
        self._slots: list[Cluster | Step] = []
        for node in graph.nodes:
            self._visit(node)
        self.outputs = self._finish_outputs()
        for cluster in list(self._open):
            self._close(cluster)
        self._emit()

    # --- assigning nodes to clusters -------------------------------------------------------

    def _visit(self, node: Node) -> None:
        name = node.primitive.name
        if name in VIEW_PRIMITIVES or name in COMPUTED:
            self._visit_view(node)
        elif name == "constant":
            self.views[node.outputs[0]] = View.of(node.outputs[0])
        elif name == "barrier":
            self._close_bases([self.views[v] for v in node.inputs])
            found = [self.views[v] for v in node.inputs]
            self.views.update(zip(node.outputs, found, strict=True))
        elif node.primitive.elementwise:
            self._visit_elementwise(node)
        elif name in REDUCTIONS:
            self._visit_reduction(node)
        else:
            operands = tuple(self._dense(v) for v in node.inputs)
            self._slots.append(NodeStep(node, operands))
            self.views.update({v: View.of(v) for v in node.outputs})
        self._close_finished(node)

    def _visit_view(self, node: Node) -> None:
        operand = self.views[node.inputs[0]] if node.inputs else None
        view = view_of_node(node, operand)
        if view is None or (view.draw is not None and not view.is_drawn_in_order):
            dense = self._dense(node.inputs[0])
            view = view_of_node(node, View.of(dense))
            assert view is not None, "a dense array can be reshaped"
        self.views[node.outputs[0]] = view

    def _visit_elementwise(self, node: Node) -> None:
        shape = node.outputs[0].spec.shape
        operands = [self._operand(v, shape) for v in node.inputs]
        joinable: list[Cluster] = []
        for view in operands:
            cluster = self._cluster_of.get(view.base) if view.base is not None else None
            if cluster is None or cluster.closed:
                continue
            if cluster.shape == shape and view.is_dense:
                if cluster not in joinable:
                    joinable.append(cluster)
            else:
                self._close(cluster)
        joinable = [c for c in joinable if not c.closed]
        target = self._join(joinable, shape)
        target.nodes.append(node)
        target.operands[node] = operands
        self._cluster_of[node.outputs[0]] = target
        for value in node.outputs:
            self.views[value] = View.of(value)
        if len(target.buffers()) > _MOST_ARGUMENTS:
            self._close(target)

    def _operand(self, value: Value, shape: tuple[int, ...]) -> View:
        view = broadcast(self.views[value], shape)
        if view.draw is None or view.is_drawn_in_order:
            return view
        return broadcast(View.of(self._dense(value)), shape)

    def _join(self, clusters: list[Cluster], shape: tuple[int, ...]) -> Cluster:
        """One open cluster that holds all of these."""
        if not clusters:
            cluster = Cluster(shape)
            self._open.append(cluster)
            return cluster
        target = clusters[0]
        for other in clusters[1:]:
            if len(target.buffers() | other.buffers()) > _MOST_ARGUMENTS - 4:
                self._close(other)
                continue
            target.nodes.extend(other.nodes)
            target.operands.update(other.operands)
            for node in other.nodes:
                self._cluster_of[node.outputs[0]] = target
            self._open.remove(other)
        target.nodes.sort(key=self._position.__getitem__)
        return target

    def _visit_reduction(self, node: Node) -> None:
        view = self.views[node.inputs[0]]
        cluster = self._cluster_of.get(view.base) if view.base is not None else None
        out = node.outputs[0]
        if cluster is not None and not cluster.closed and self._is_only_for(cluster, node, view):
            for views in cluster.operands.values():
                self._close_bases(views, but=cluster)
            self._open.remove(cluster)
            cluster.closed = True
            self._slots += self._store_draws(cluster)
            body, values, _ = self._body(cluster, outputs=())
            variable = self._names[node.inputs[0]]
        elif (again := self._recomputed(cluster, view)) is not None:
            for views in again.operands.values():
                self._close_bases(views, but=cluster)
            body, values, _ = self._body(again, outputs=())
            variable = self._names[node.inputs[0]]
        else:
            if view.draw is not None:
                view = View.of(self._dense(node.inputs[0]))
            self._close_bases([view])
            table = ReadTable()
            variable = table.variable(view)
            body = Body(view.shape, tuple(table.reads), (), (), tuple(table.arguments()))
            values = table.values
        axes = node.parameters["axes"]
        reduction = Reduction(node.primitive.name, variable, out.spec.dtype, axes)
        self._slots.append(ReductionStep(body, values, reduction, out))
        self.views[out] = View.of(out)

    def _is_only_for(self, cluster: Cluster, node: Node, view: View) -> bool:
        """Whether all that the cluster computes ends in this reduction."""
        if view.shape != cluster.shape or not view.is_dense or view.base is not node.inputs[0]:
            return False
        members = {id(n) for n in cluster.nodes}
        for member in cluster.nodes:
            for value in member.outputs:
                if value in self._wanted:
                    return False
                for consumer in self._consumers.get(value, ()):
                    if consumer is not node and id(consumer) not in members:
                        return False
        return True

    def _recomputed(self, cluster: Cluster | None, view: View) -> Cluster | None:
        """The part of an open cluster that computes a value, where that is as cheap as reading it.

        That is so for plain arithmetic on one array of the value's size, or a smaller one: the
        value then need not be stored for the reduction's sake.
        """
        if cluster is None or cluster.closed or view.shape != cluster.shape or not view.is_dense:
            return None
        part = Cluster(cluster.shape)
        wanted = {view.base}
        for node in reversed(cluster.nodes):
            if wanted.isdisjoint(node.outputs):
                continue
            part.nodes.insert(0, node)
            part.operands[node] = cluster.operands[node]
            wanted.update(operand.base for operand in cluster.operands[node])
        own = {value for node in part.nodes for value in node.outputs}
        read = {base for base in wanted if base is not None and base not in own}
        size = math.prod(view.shape)
        large_bytes = sum(base.spec.memory_bytes for base in read if base.spec.size >= size)
        cheap = all(node.primitive.name in _CHEAP for node in part.nodes)
        cheap = cheap and not any(v.draw for views in part.operands.values() for v in views)
        return part if cheap and large_bytes <= size * view.dtype.itemsize else None

    def _dense(self, value: Value) -> Value:
        """A value whose buffer holds exactly these elements; copies where a view does not."""
        view = self.views[value]
        self._close_bases([view])
        if view.is_dense:
            assert view.base is not None
            return view.base
        step, out = self._copy(view)
        self._slots.append(step)
        self.views[value] = View.of(out)
        return out

    def _store_draws(self, cluster: Cluster) -> list[Step]:
        """Steps that store the random tensors that the cluster reads, which then come first."""
        steps: list[Step] = []
        stored: dict[View, View] = {}
        for node, views in cluster.operands.items():
            for view in views:
                if view.draw is not None and view not in stored:
                    step, out = self._copy(view)
                    steps.append(step)
                    stored[view] = View.of(out)
            cluster.operands[node] = [stored.get(view, view) for view in views]
        return steps

    def _copy(self, view: View) -> tuple[ElementwiseStep, Value]:
        out = Value(TensorSpec(view.shape, view.dtype))
        read = ReadTable()
        variable = read.variable(view)
        arguments = (*read.arguments(), ("out", view.dtype))
        body = Body(view.shape, tuple(read.reads), (), ((variable, "out"),), arguments)
        return ElementwiseStep(body, {**read.values, "out": out}, read.identity()), out

    def _close_bases(self, views: list[View], but: Cluster | None = None) -> None:
        for view in views:
            cluster = self._cluster_of.get(view.base) if view.base is not None else None
            if cluster is not None and cluster is not but and not cluster.closed:
                self._close(cluster)

    def _close(self, cluster: Cluster) -> None:
        """Fix the cluster's place in the order: after everything that it reads."""
        if cluster.closed:
            return
        cluster.closed = True
        self._open.remove(cluster)
        for views in cluster.operands.values():
            self._close_bases(views, but=cluster)
        self._slots.append(cluster)

    def _close_finished(self, node: Node) -> None:
        """Close clusters that nothing to come can join, so that what they read is freed."""
        here = self._position[node]
        for cluster in list(self._open):
            if not any(
                self._position[consumer] > here
                for member in cluster.nodes
                for value in member.outputs
                for consumer in self._consumers.get(value, ())
            ):
                self._close(cluster)

    # --- outputs ---------------------------------------------------------------------------

    def _finish_outputs(self) -> list[Value]:
        taken: set[Value] = set()
        inputs = set(self.graph.inputs) - self._donated
        outputs = []
        for value in self.graph.outputs:
            view = self.views[value]
            self._close_bases([view])
            base = view.base
            if (
                base is not None
                and view.is_dense
                and base not in inputs
                and base not in taken
                and (base.node is None or base.node.primitive.name != "constant")
            ):
                outputs.append(base)
                taken.add(base)
                continue
            step, out = self._copy(view)
            self._slots.append(step)
            outputs.append(out)
        return outputs

    # --- bodies ----------------------------------------------------------------------------

    def _emit(self) -> None:
        """Turn clusters into kernels, now that it is known which of their values are wanted."""
        needed = set(self.outputs)
        for slot in self._slots:
            if isinstance(slot, Cluster):
                needed.update(
                    view.base
                    for node, views in slot.operands.items()
                    for view in views
                    if view.base is not None and self._cluster_of.get(view.base) is not slot
                )
            elif isinstance(slot, NodeStep):
                needed.update(slot.operands)
            else:
                needed.update(slot.values.values())
        for slot in self._slots:
            if not isinstance(slot, Cluster):
                self.steps.append(slot)
                continue
            outputs = tuple(v for n in slot.nodes for v in n.outputs if v in needed)
            if not outputs:
                continue
            body, values, identity = self._body(slot, outputs)
            if not draws_in_long_runs(body):
                self.steps += self._store_draws(slot)
                body, values, identity = self._body(slot, outputs)
            self.steps.append(ElementwiseStep(body, values, identity))

    def _body(
        self, cluster: Cluster, outputs: tuple[Value, ...]
    ) -> tuple[Body, dict[str, Value], frozenset[str]]:
        read = ReadTable()
        self._names: dict[Value, str] = {}
        own = {v for node in cluster.nodes for v in node.outputs}
        statements = []
        for node in cluster.nodes:
            operands = []
            for view in cluster.operands[node]:
                if view.base is not None and view.base in own:
                    operands.append(self._names[view.base])
                else:
                    operands.append(read.variable(view))
            out = node.outputs[0]
            name = self._names[out] = f"v{len(self._names)}"
            constants = [view.constant for view in cluster.operands[node]]
            expression = elementwise_expression(node, operands, constants)
            statements.append(
                Statement(name, out.spec.dtype, expression, node.primitive.name, tuple(operands))
            )
        arguments = list(read.arguments())
        values = dict(read.values)
        stores = []
        for number, out in enumerate(outputs):
            stores.append((self._names[out], f"w{number}"))
            arguments.append((f"w{number}", out.spec.dtype))
            values[f"w{number}"] = out
        body = Body(
            cluster.shape, tuple(read.reads), tuple(statements), tuple(stores), tuple(arguments)
        )
        return body, values, read.identity()
