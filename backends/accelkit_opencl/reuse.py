"""Which values are written over others: whose memory each result takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelkit.graph import Value

__all__ = ["Heirs", "Work", "outputs_in_place"]


@dataclass
class Work:
    """A step with what it touches."""

    reads: list[Value]
    writes: list[Value]
    in_place: frozenset[Value]  # inputs that may be overwritten by this very step


class Heirs:
    """Intermediates that are written over a value that is read for the last time.

    A running sum, a gradient through an elementwise function or a normalisation need one block,
    not two; a sum that begins with a donated input, as momentum does, needs none.

    Args:
        works: All steps.
        outputs: What the program returns.
        donated: Inputs whose memory may be taken.
        kept: Values with storage of their own that nothing may take.

    Attributes:
        memory: The value whose memory each heir has: an input, or an intermediate.
        latest: The value that each input's memory holds in the end.
        last_read: Position of the last step that reads a value.
        donated: Inputs whose memory may be taken.
    """

    def __init__(
        self,
        works: Sequence[Work],
        outputs: Sequence[Value],
        donated: frozenset[Value],
        kept: frozenset[Value],
    ) -> None:
        self.memory: dict[Value, Value] = {}
        self.latest: dict[Value, Value] = {}
        self.last_read = {v: position for position, work in enumerate(works) for v in work.reads}
        self.donated = donated.difference(outputs)
        kept = kept.difference(self.donated).union(outputs)
        for position, work in enumerate(works):
            free = [v for v in work.reads if v in work.in_place - kept]
            free = [v for v in free if self.last_read[v] == position]
            for value in work.writes:
                same = [v for v in free if v.spec == value.spec and self._may_take(value, v)]
                if same and value not in kept and value in self.last_read:
                    free.remove(same[0])
                    source = self.memory[value] = self.memory.get(same[0], same[0])
                    self.latest[source] = value

    def _may_take(self, value: Value, old: Value) -> bool:
        """A donated input is taken by what its update is made of, not for values in between."""
        is_update = value.node is not None and value.node.phase == "update"
        return is_update or self.memory.get(old, old) not in self.donated


def outputs_in_place(
    outputs: Sequence[Value],
    works: Sequence[Work],
    heirs: Heirs,
) -> dict[int, Value]:
    """Output positions that take over a donated input's buffer.

    What is in the buffer must not be read after the output is written; in the same step only
    element by element, at the element's own place.
    """
    written = {v: position for position, work in enumerate(works) for v in work.writes}
    free = sorted(heirs.donated, key=lambda v: v.index)
    reused: dict[int, Value] = {}
    for position, output in enumerate(outputs):
        if output not in written:
            continue
        step = written[output]
        read = {v: heirs.last_read.get(heirs.latest.get(v, v), -1) for v in free}
        candidates = [
            v
            for v in free
            if v.spec.memory_bytes == output.spec.memory_bytes
            and (
                read[v] < step
                or (
                    read[v] == step
                    and heirs.latest.get(v, v) in works[step].in_place
                    and v.spec == output.spec
                )
            )
        ]
        if candidates:
            # What this very step reads first: its memory is at hand.
            best = min(candidates, key=lambda v: (read[v] != step, free.index(v)))
            reused[position] = best
            free.remove(best)
    return reused
