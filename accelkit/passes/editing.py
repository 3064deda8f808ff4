"""A program while values are computed again: steps that can be repeated, and what is alive when.

What the search of :mod:`accelkit.passes.rematerialisation` changes and measures.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.passes.arena import aligned, alive_bytes
from accelkit.passes.cost import node_cost
from accelkit.passes.memory import VIEWS, positions, updated_in_place
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.scheduling import barrier

__all__ = ["EditedProgram", "Step", "Use", "Variable"]


@dataclass(eq=False)
class Variable:
    """A value of the program while it is edited.

    Attributes:
        spec: Its shape and dtype.
        step: What makes it; None for inputs.
        original: The value of the given graph that it is, or is a copy of.
        memory_bytes: What it takes in the arena; 0 if it has no memory of its own.
        copies: How many times it has been computed again.
    """

    spec: TensorSpec
    step: Step | None
    original: Value
    memory_bytes: int
    copies: int = 0


@dataclass(eq=False)
class Step:
    """A node of the program while it is edited."""

    primitive: Primitive
    inputs: list[Variable]
    node: Node
    outputs: list[Variable]
    cost: float
    block: int = 0  # which recomputation it belongs to, 0 for none


class Use(NamedTuple):
    """Where a variable is made and read.

    Attributes:
        made: Position of the step that makes it; -1 for inputs.
        reads: Where it is read, by its own name or through views and links, in order. Kept for
            variables with memory of their own.
        last: Where it is last read by any name; ``made`` if nowhere.
    """

    made: int
    reads: list[int]
    last: int

    def spans(self, position: int) -> bool:
        """Whether the variable is kept over a position."""
        return self.made < position <= self.last


class EditedProgram:
    """A graph as a list of steps that can be repeated.

    Args:
        graph: A prepared graph.
        donate: Positions of inputs whose memory updates take over.
        fused: Whether chains of elementwise nodes become one kernel.

    Attributes:
        inputs, steps, outputs: The program as it is now.
        blocks: Number of recomputations.
        overwritten: By input: what is written over it.
    """

    def __init__(
        self,
        graph: Graph,
        donate: Collection[int],
        *,
        fused: bool,
    ) -> None:
        index = positions(graph, fused=fused)
        # Links of a fused chain stand directly before its end, where they really run.
        self.graph = graph = graph.replace(nodes=sorted(graph.nodes, key=index.__getitem__))
        self.blocks = 0
        # Values that exist inside of a fused kernel only.
        self._links = {
            node.outputs[0]
            for node, following in itertools.pairwise(graph.nodes)
            if index[node] == index[following]
        }
        in_place = updated_in_place(graph, donate, fused=fused)
        variables = {v: Variable(v.spec, None, v, 0) for v in graph.inputs}
        self.inputs = [variables[v] for v in graph.inputs]
        self.steps: list[Step] = []
        for node in graph.nodes:
            inputs = [variables[v] for v in node.inputs]
            step = Step(node.primitive, inputs, node, [], node_cost(node))
            borrowed = node.primitive.name in VIEWS and bool(node.inputs)
            for value in node.outputs:
                own = not (borrowed or value in in_place or value in self._links)
                size = aligned(value.spec.memory_bytes) if own else 0
                step.outputs.append(Variable(value.spec, step, value, size))
            variables.update(zip(node.outputs, step.outputs, strict=True))
            self.steps.append(step)
        self.outputs = [variables[v] for v in graph.outputs]
        self.overwritten = {variables[old]: variables[new] for new, old in in_place.items()}
        self._copies: dict[Value, list[Variable]] = {}

    # --- memory ---------------------------------------------------------------------------------

    def uses(self) -> dict[Variable, Use]:
        """Where everything is made and read; the program's outputs are read behind its end.

        A view is its operand under another name, so its reads are the operand's too. What a link
        of a fused chain reads is read by the chain's end.
        """
        made = dict.fromkeys(self.inputs, -1)
        reads: dict[Variable, list[int]] = {v: [] for v in self.inputs}
        holders: dict[Variable, tuple[Variable, ...]] = {}  # whose memory a name stands for
        for position, step in enumerate(self.steps):
            for variable in step.inputs:
                for holder in holders.get(variable, ()):
                    reads[holder].append(position)
            for index, variable in enumerate(step.outputs):
                made[variable], reads[variable] = position, []
                if variable.memory_bytes:
                    holders[variable] = (variable,)
                else:
                    passed = [holders.get(v, ()) for v in self._passes_on(step, index)]
                    found = tuple(dict.fromkeys(itertools.chain(*passed)))
                    if found:
                        holders[variable] = found
        last = self._last_reads()
        for variable in self.outputs:
            for holder in holders.get(variable, ()):
                reads[holder].append(len(self.steps))
        return {v: Use(at, reads[v], last.get(v, at)) for v, at in made.items()}

    def _passes_on(self, step: Step, index: int) -> Sequence[Variable]:
        """The operands that are read where this output is."""
        if step.primitive.name in VIEWS:
            return step.inputs[index : index + 1]
        return step.inputs if step.outputs[index].original in self._links else ()

    def _last_reads(self) -> dict[Variable, int]:
        last = dict.fromkeys(self.outputs, len(self.steps))
        for position in range(len(self.steps) - 1, -1, -1):
            step = self.steps[position]
            for variable in step.inputs:
                last.setdefault(variable, position)
            for index, variable in enumerate(step.outputs):
                end = last.get(variable, position)
                for viewed in self._passes_on(step, index):
                    if end > last[viewed]:
                        last[viewed] = end
        return last

    def profile(self, uses: dict[Variable, Use]) -> list[int]:
        """Bytes alive while each step runs."""
        blocks = ((v.memory_bytes, use.made, use.last) for v, use in uses.items() if v.memory_bytes)
        return alive_bytes(blocks, max(1, len(self.steps)))

    def peak(self) -> int:
        """The most that is alive while a step runs."""
        return max(self.profile(self.uses()), default=0)

    # --- editing --------------------------------------------------------------------------------

    def copy_at(
        self, wanted: Variable, position: int, uses: dict[Variable, Use]
    ) -> Variable | None:
        """A copy of a value that was computed again and is still there."""
        for copy in self._copies.get(wanted.original, ()):
            if copy in uses and uses[copy].spans(position):
                return copy
        return None

    def repeat(self, steps: Iterable[Step], position: int, uses: dict[Variable, Use]) -> None:
        """Run steps again at a position, for all readers from there on."""
        self.blocks += 1
        replaced: dict[Variable, Variable] = {}
        added = []
        for step in steps:
            inputs = []
            for wanted in step.inputs:
                found = replaced.get(wanted, wanted)
                if found is wanted and not uses[wanted].spans(position):
                    found = self.copy_at(wanted, position, uses) or wanted
                inputs.append(found)
            again = Step(step.primitive, inputs, step.node, [], step.cost, self.blocks)
            again.outputs = [
                Variable(v.spec, again, v.original, v.memory_bytes, v.copies + 1)
                for v in step.outputs
            ]
            for old, new in zip(step.outputs, again.outputs, strict=True):
                replaced[old] = new
                self._copies.setdefault(old.original, []).append(new)
            added.append(again)
        for step in self.steps[position:]:
            if not replaced.keys().isdisjoint(step.inputs):
                step.inputs = [replaced.get(v, v) for v in step.inputs]
        self.steps = [*self.steps[:position], *added, *self.steps[position:]]

    def restore(self, steps: list[Step], inputs: list[list[Variable]], blocks: int) -> None:
        """Go back to what the steps and their inputs were."""
        self.steps, self.blocks = steps, blocks
        for step, before in zip(steps, inputs, strict=True):
            step.inputs = before
        present = set(steps)
        for copies in self._copies.values():
            copies[:] = [c for c in copies if c.step in present]

    # --- the result -----------------------------------------------------------------------------

    def finish(self, *, barriers: bool) -> Graph:
        """The edited program as a graph."""
        builder = GraphBuilder(self.graph)
        new: dict[Variable, Value] = {
            variable: builder[value]
            for variable, value in zip(self.inputs, self.graph.inputs, strict=True)
        }
        for block, steps in itertools.groupby(self.steps, key=lambda s: s.block):
            group = list(steps)
            fenced = dict(new)
            if block and barriers:
                fenced.update(self._fence(builder, group, new))
            for step in group:
                inputs = [fenced[v] for v in step.inputs]
                label = {"scope": step.node.scope, "phase": step.node.phase}
                outputs = builder.add(step.primitive, inputs, step.node.parameters, **label)
                for variable, value in zip(step.outputs, outputs, strict=True):
                    new[variable] = fenced[variable] = value
        for value, variable in zip(self.graph.outputs, self.outputs, strict=True):
            builder[value] = new[variable]
        return builder.finish(self.graph)

    def _fence(
        self, builder: GraphBuilder, group: Sequence[Step], new: dict[Variable, Value]
    ) -> dict[Variable, Value]:
        """Put a barrier before what is computed again: it waits for the newest value so far."""
        own = {v for step in group for v in step.outputs}
        wanted: dict[Variable, None] = {}
        for step in group:
            outside = [v for v in step.inputs if v not in own]
            computed = [v for v in outside if v.step is not None]
            if not computed and len(outside) == len(step.inputs) and outside:
                computed = [min(outside, key=lambda v: v.spec.memory_bytes)]
            wanted.update(dict.fromkeys(computed))
        newest = next(n for n in reversed(builder.nodes) if n.phase != "update").outputs[0]
        operands = [new[v] for v in wanted]
        extra = [] if newest in operands else [newest]
        label = {"scope": group[0].node.scope, "phase": group[0].node.phase}
        outputs = builder.add(barrier, [*operands, *extra], {}, **label)
        return dict(zip(wanted, outputs, strict=False))
