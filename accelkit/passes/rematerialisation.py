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
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from accelkit.graph import Graph, Node, Value
from accelkit.passes.editing import EditedProgram, Step, Use, Variable
from accelkit.passes.memory import VIEWS, peak_bytes

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
    program = EditedProgram(graph, donate, fused=fused)
    original = program.peak()
    _Search(program, may_drop, may_repeat).lower(target_bytes)
    found = program.finish(barriers=barriers)
    # A fence can part a chain that would have run as one kernel: what counts is the graph itself.
    peak = peak_bytes(found, donate=donate, fused=fused)
    if peak > original:
        return Rematerialised(graph, original, original, 0)
    return Rematerialised(found, peak, original, program.blocks)


class _Search:
    """The search for what to drop.

    Args:
        program: What is changed.
        may_drop: Which values may be dropped; any if None.
        may_repeat: Which nodes may run again; any if None.
    """

    def __init__(
        self,
        program: EditedProgram,
        may_drop: Callable[[Value], bool] | None,
        may_repeat: Callable[[Node], bool] | None,
    ) -> None:
        self._program = program
        self._may_drop = may_drop
        self._may_repeat = may_repeat

    def lower(self, target_bytes: int) -> None:
        """Drop values until the peak is at most the target, or nothing lowers it any more."""
        refused: set[tuple[Variable, Step]] = set()
        uses = self._program.uses()
        profile = self._program.profile(uses)
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
        uses: dict[Variable, Use],
        refused: set[tuple[Variable, Step]],
    ) -> tuple[dict[Variable, Use], list[int]] | None:
        program = self._program
        least = max(1.0, profile[at] * _LEAST_SHARE)
        found = self._candidates(at, least, uses)
        candidates = [c for c in found if (c.variable, c.reader) not in refused]
        candidates.sort(key=lambda c: c.bytes_per_cost, reverse=True)
        for candidate in candidates[:_TRIES]:
            before = program.steps, [s.inputs for s in program.steps], program.blocks
            program.repeat(candidate.steps, candidate.position, uses)
            changed = program.uses()
            lowered = self._program.profile(changed)
            if max(lowered) <= max(profile) and lowered[at] < profile[at]:
                return changed, lowered
            program.restore(*before)
            refused.add((candidate.variable, candidate.reader))
        return None

    def _candidates(
        self, at: int, least_bytes: float, uses: dict[Variable, Use]
    ) -> Iterable[_Candidate]:
        """Values that lie idle while the step at the peak runs."""
        for variable, use in uses.items():
            if not use.made < at < use.last or variable.memory_bytes < least_bytes:
                continue
            after = bisect.bisect_right(use.reads, at)
            reader = use.reads[after]
            idle = (after == 0 or use.reads[after - 1] < at) and reader < len(self._program.steps)
            if not idle or not self._droppable(variable):
                continue
            found = self._recomputation(variable, reader, least_bytes, uses)
            if found is not None:
                yield found

    def _droppable(self, variable: Variable) -> bool:
        step = variable.step
        assert step is not None
        return (
            self._repeatable(step)
            and variable.copies < 2
            and (self._may_drop is None or self._may_drop(variable.original))
        )

    def _repeatable(self, step: Step) -> bool:
        return (
            step.node.phase != "update"
            and not step.primitive.has_side_effect
            and (self._may_repeat is None or self._may_repeat(step.node))
        )

    def _recomputation(
        self,
        variable: Variable,
        position: int,
        least_bytes: float,
        uses: dict[Variable, Use],
    ) -> _Candidate | None:
        """What has to run again before ``position`` for a value; None if it cannot, or if that
        would free too little."""
        program = self._program
        steps: dict[Step, None] = {}
        extended = 0

        def require(wanted: Variable, *, dropped: bool) -> bool:
            nonlocal extended
            step = wanted.step
            if step is None:
                update = program.overwritten.get(wanted)
                return update is None or uses[update].made >= position
            if step in steps:
                return True
            use = uses[wanted]
            if not dropped:
                if use.spans(position) or program.copy_at(wanted, position, uses):
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
        reader = self._program.steps[position]
        return _Candidate(variable, reader, position, tuple(steps), freed / max(cost, 1.0))

    def _views_read_from(
        self, variable: Variable, position: int, uses: dict[Variable, Use]
    ) -> list[Step]:
        """Views of a value that are read at ``position`` or later, which need it as well."""
        names = {variable}
        found = []
        for step in self._program.steps[uses[variable].made + 1 : position]:
            if step.primitive.name not in VIEWS:
                continue
            pairs = zip(step.inputs, step.outputs, strict=False)
            mine = [view for viewed, view in pairs if viewed in names]
            names.update(mine)
            if any(uses[view].last >= position for view in mine):
                found.append(step)
        return found


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

    variable: Variable
    reader: Step
    position: int
    steps: tuple[Step, ...]
    bytes_per_cost: float
