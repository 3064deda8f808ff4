"""Rematerialisation: computing a value again instead of keeping it.

A value of the forward pass that the backward pass reads lies idle in between. Where it is idle
while memory use is at its highest, it can be dropped and computed again just before it is next
read (Chen et al., 2016, "Training deep nets with sublinear memory cost"). Which ones are dropped
is decided one at a time, at the highest point of the program as it then is: the value with the
most bytes freed per cost of computing it again (as in Kirisame et al., 2021, "Dynamic tensor
rematerialization"), until the target is met or nothing lowers the peak any more.

What is computed again are the same primitives on the same operands: the results are the same bits,
random masks included, since those are functions of a key and an index. Nothing is computed again
from a parameter that was updated in place in between.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.passes.arena import aligned
from accelkit.passes.cost import node_cost
from accelkit.passes.memory import VIEWS, peak_bytes, positions, updated_in_place
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.scheduling import barrier

__all__ = ["Rematerialised", "rematerialise"]

_MOST_DEEP = 64  # nodes computed again for one value
_LEAST_SHARE = 1 / 64  # of the peak, that a value must free to be worth anything
_TRIES = 12  # candidates at one peak before the search gives up


@dataclass(frozen=True)
class Rematerialised:
    """A graph that computes some values twice.

    Attributes:
        graph: Computes the same as the one given.
        peak_bytes: The most that is alive at one moment, inputs not counted.
        original_peak_bytes: The same before.
        dropped: Number of values that are computed again.
    """

    graph: Graph
    peak_bytes: int
    original_peak_bytes: int
    dropped: int


@dataclass(eq=False)
class _Variable:
    """A value of the program while it is edited.

    Attributes:
        spec: Its shape and dtype.
        step: What makes it; None for inputs.
        original: The value of the given graph that it is, or is a copy of.
        memory_bytes: What it takes in the arena; 0 if it has no memory of its own.
        copies: How many times it has been computed again.
    """

    spec: TensorSpec
    step: _Step | None
    original: Value
    memory_bytes: int
    copies: int = 0


@dataclass(eq=False)
class _Step:
    """A node of the program while it is edited."""

    primitive: Primitive
    inputs: list[_Variable]
    node: Node
    outputs: list[_Variable]
    cost: float
    block: int = 0  # which recomputation it belongs to, 0 for none


def rematerialise(
    graph: Graph,
    *,
    target_bytes: int = 0,
    donate: Collection[int] = (),
    fused: bool = False,
    barriers: bool = False,
    may_drop: Callable[[Value], bool] | None = None,
    may_repeat: Callable[[Node], bool] | None = None,
) -> Rematerialised:
    """Drop values and compute them again, until no more than ``target_bytes`` are alive at once.

    Args:
        graph: A prepared graph.
        target_bytes: Where to stop; 0 goes on as long as the peak becomes lower.
        donate: Positions of inputs whose memory updates take over.
        fused: Whether chains of elementwise nodes become one kernel.
        barriers: Whether to fence what is computed again, for compilers that merge equal
            expressions.
        may_drop: Which values may be dropped; any by default.
        may_repeat: Which nodes may run again; any by default.
    """
    editor = _Editor(graph, donate, fused=fused, may_drop=may_drop, may_repeat=may_repeat)
    original = editor.peak()
    editor.lower(target_bytes)
    found = editor.finish(barriers=barriers)
    # A fence can part a chain that would have run as one kernel: what counts is the graph itself.
    peak = peak_bytes(found, donate=donate, fused=fused)
    if peak > original:
        return Rematerialised(graph, original, original, 0)
    return Rematerialised(found, peak, original, editor.blocks)


class _Use(NamedTuple):
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


class _Editor:
    """The program as a list of steps, and the search for what to drop."""

    def __init__(
        self,
        graph: Graph,
        donate: Collection[int],
        *,
        fused: bool,
        may_drop: Callable[[Value], bool] | None,
        may_repeat: Callable[[Node], bool] | None,
    ) -> None:
        index = positions(graph, fused=fused)
        # Links of a fused chain stand directly before its end, where they really run.
        self.graph = graph = graph.replace(nodes=sorted(graph.nodes, key=index.__getitem__))
        self.may_drop = may_drop
        self.may_repeat = may_repeat
        self.blocks = 0
        # Values that exist inside of a fused kernel only.
        self._links = {
            node.outputs[0]
            for node, following in itertools.pairwise(graph.nodes)
            if index[node] == index[following]
        }
        in_place = updated_in_place(graph, donate, fused=fused)
        variables = {v: _Variable(v.spec, None, v, 0) for v in graph.inputs}
        self.inputs = [variables[v] for v in graph.inputs]
        self.steps: list[_Step] = []
        for node in graph.nodes:
            inputs = [variables[v] for v in node.inputs]
            step = _Step(node.primitive, inputs, node, [], node_cost(node))
            borrowed = node.primitive.name in VIEWS and bool(node.inputs)
            for value in node.outputs:
                own = not (borrowed or value in in_place or value in self._links)
                size = aligned(value.spec.memory_bytes) if own else 0
                step.outputs.append(_Variable(value.spec, step, value, size))
            variables.update(zip(node.outputs, step.outputs, strict=True))
            self.steps.append(step)
        self.outputs = [variables[v] for v in graph.outputs]
        self._overwritten = {variables[old]: variables[new] for new, old in in_place.items()}
        self._copies: dict[Value, list[_Variable]] = {}

    # --- memory ---------------------------------------------------------------------------------

    def uses(self) -> dict[_Variable, _Use]:
        """Where everything is made and read; the program's outputs are read behind its end.

        A view is its operand under another name, so its reads are the operand's too. What a link
        of a fused chain reads is read by the chain's end.
        """
        made = dict.fromkeys(self.inputs, -1)
        reads: dict[_Variable, list[int]] = {v: [] for v in self.inputs}
        holders: dict[_Variable, tuple[_Variable, ...]] = {}  # whose memory a name stands for
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
        return {v: _Use(at, reads[v], last.get(v, at)) for v, at in made.items()}

    def _passes_on(self, step: _Step, index: int) -> Sequence[_Variable]:
        """The operands that are read where this output is."""
        if step.primitive.name in VIEWS:
            return step.inputs[index : index + 1]
        return step.inputs if step.outputs[index].original in self._links else ()

    def _last_reads(self) -> dict[_Variable, int]:
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

    def profile(self, uses: dict[_Variable, _Use]) -> list[int]:
        """Bytes alive while each step runs."""
        change = [0] * (len(self.steps) + 2)
        for variable, use in uses.items():
            if variable.memory_bytes:
                change[use.made] += variable.memory_bytes
                change[use.last + 1] -= variable.memory_bytes
        return list(itertools.accumulate(change))[: max(1, len(self.steps))]

    def peak(self) -> int:
        """The most that is alive while a step runs."""
        return max(self.profile(self.uses()), default=0)

    # --- the search -----------------------------------------------------------------------------

    def lower(self, target_bytes: int) -> None:
        """Drop values until the peak is at most the target, or nothing lowers it any more."""
        refused: set[tuple[_Variable, _Step]] = set()
        uses = self.uses()
        profile = self.profile(uses)
        while profile and max(profile) > target_bytes:
            at = profile.index(max(profile))
            better = self._improve(at, profile, uses, refused)
            if better is None:
                return
            uses, profile = better

    def _improve(
        self,
        at: int,
        profile: Sequence[int],
        uses: dict[_Variable, _Use],
        refused: set[tuple[_Variable, _Step]],
    ) -> tuple[dict[_Variable, _Use], list[int]] | None:
        least = max(1.0, profile[at] * _LEAST_SHARE)
        found = self._candidates(at, least, uses)
        candidates = [c for c in found if (c.variable, c.reader) not in refused]
        candidates.sort(key=lambda c: c.bytes_per_cost, reverse=True)
        for candidate in candidates[:_TRIES]:
            before = self.steps, [s.inputs for s in self.steps], self.blocks
            self._drop(candidate, uses)
            changed = self.uses()
            lowered = self.profile(changed)
            if max(lowered) <= max(profile) and lowered[at] < profile[at]:
                return changed, lowered
            self._restore(*before)
            refused.add((candidate.variable, candidate.reader))
        return None

    def _restore(self, steps: list[_Step], inputs: list[list[_Variable]], blocks: int) -> None:
        self.steps, self.blocks = steps, blocks
        for step, before in zip(steps, inputs, strict=True):
            step.inputs = before
        present = set(steps)
        for copies in self._copies.values():
            copies[:] = [c for c in copies if c.step in present]

    def _candidates(
        self, at: int, least_bytes: float, uses: dict[_Variable, _Use]
    ) -> Iterable[_Candidate]:
        """Values that lie idle while the step at the peak runs."""
        for variable, use in uses.items():
            if not use.made < at < use.last or variable.memory_bytes < least_bytes:
                continue
            after = bisect.bisect_right(use.reads, at)
            reader = use.reads[after]
            idle = (after == 0 or use.reads[after - 1] < at) and reader < len(self.steps)
            if not idle or not self._droppable(variable):
                continue
            found = self._recomputation(variable, reader, least_bytes, uses)
            if found is not None:
                yield found

    def _droppable(self, variable: _Variable) -> bool:
        step = variable.step
        assert step is not None
        return (
            self._repeatable(step)
            and variable.copies < 2
            and (self.may_drop is None or self.may_drop(variable.original))
        )

    def _repeatable(self, step: _Step) -> bool:
        return (
            step.node.phase != "update"
            and not step.primitive.has_side_effect
            and (self.may_repeat is None or self.may_repeat(step.node))
        )

    def _recomputation(
        self,
        variable: _Variable,
        position: int,
        least_bytes: float,
        uses: dict[_Variable, _Use],
    ) -> _Candidate | None:
        """What has to run again before ``position`` for a value; None if it cannot, or if that
        would free too little."""
        steps: dict[_Step, None] = {}
        extended = 0

        def require(wanted: _Variable, *, dropped: bool) -> bool:
            nonlocal extended
            step = wanted.step
            if step is None:
                update = self._overwritten.get(wanted)
                return update is None or uses[update].made >= position
            if step in steps:
                return True
            use = uses[wanted]
            if not dropped:
                if self._alive(wanted, position, use) or self._copy_at(wanted, position, uses):
                    return True
                if 0 < 4 * wanted.memory_bytes <= variable.memory_bytes:
                    extended += wanted.memory_bytes
                    return True
            if not self._repeatable(step):
                return False
            if len(steps) > _MOST_DEEP or not all(require(v, dropped=False) for v in step.inputs):
                return False
            steps[step] = None
            return True

        if not require(variable, dropped=True):
            return None
        freed = variable.memory_bytes - extended
        if freed < least_bytes:
            return None
        for view in self._views_read_from(variable, position, uses):
            steps[view] = None
        cost = sum(step.cost for step in steps)
        reader = self.steps[position]
        return _Candidate(variable, reader, position, tuple(steps), freed / max(cost, 1.0))

    def _views_read_from(
        self, variable: _Variable, position: int, uses: dict[_Variable, _Use]
    ) -> list[_Step]:
        """Views of a value that are read at ``position`` or later, which need it as well."""
        names = {variable}
        found = []
        for step in self.steps[uses[variable].made + 1 : position]:
            if step.primitive.name not in VIEWS:
                continue
            pairs = zip(step.inputs, step.outputs, strict=False)
            mine = [view for viewed, view in pairs if viewed in names]
            names.update(mine)
            if any(uses[view].last >= position for view in mine):
                found.append(step)
        return found

    def _alive(self, wanted: _Variable, position: int, use: _Use) -> bool:
        return use.made < position <= use.last

    def _copy_at(
        self, wanted: _Variable, position: int, uses: dict[_Variable, _Use]
    ) -> _Variable | None:
        """A copy of a value that was computed again and is still there."""
        for copy in self._copies.get(wanted.original, ()):
            if copy in uses and self._alive(copy, position, uses[copy]):
                return copy
        return None

    # --- editing --------------------------------------------------------------------------------

    def _drop(self, candidate: _Candidate, uses: dict[_Variable, _Use]) -> None:
        """Run a value's steps again before its next reader, for all readers from there on."""
        position = candidate.position
        self.blocks += 1
        replaced: dict[_Variable, _Variable] = {}
        added = []
        for step in candidate.steps:
            inputs = []
            for wanted in step.inputs:
                found = replaced.get(wanted, wanted)
                if found is wanted and not self._alive(wanted, position, uses[wanted]):
                    found = self._copy_at(wanted, position, uses) or wanted
                inputs.append(found)
            again = _Step(step.primitive, inputs, step.node, [], step.cost, self.blocks)
            again.outputs = [
                _Variable(v.spec, again, v.original, v.memory_bytes, v.copies + 1)
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

    # --- the result -----------------------------------------------------------------------------

    def finish(self, *, barriers: bool) -> Graph:
        """The edited program as a graph."""
        builder = GraphBuilder(self.graph)
        new: dict[_Variable, Value] = {
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
        self, builder: GraphBuilder, group: Sequence[_Step], new: dict[_Variable, Value]
    ) -> dict[_Variable, Value]:
        """Put a barrier before what is computed again: it waits for the newest value so far."""
        own = {v for step in group for v in step.outputs}
        wanted: dict[_Variable, None] = {}
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


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A value that could be dropped.

    Attributes:
        variable: What is dropped.
        reader: Before which step it is computed again.
        position: Of that step.
        steps: What runs again, in order.
        bytes_per_cost: How good a bargain it is.
    """

    variable: _Variable
    reader: _Step
    position: int
    steps: tuple[_Step, ...]
    bytes_per_cost: float
