"""Measures programs beside each other: own processes, equal settings, in turns.

Every program lives in a process of its own with the same number of threads and the same memory
allocator settings. First each trains a small form of the network for a few steps, without
dropout, from the same weights: a program whose losses differ from the others' computes something
else and is not timed. Then they take turns, A B C, C B A, ..., one running at a time, so that a
slow spell of the machine hits all alike; ratios are formed within a turn. A program that needs
seconds per step takes fewer samples and turns. Where memory runs short, a program's process ends
with its turn and is started again for the next one.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.processes import ProgramError, ProgramProcess
from benchmarks.workload import Workload, small

__all__ = [
    "AGREEMENT_BOUND",
    "Plan",
    "Result",
    "agreement_workload",
    "deviations",
    "measure",
    "ratio",
    "samples_of",
]

# Losses of five float32 steps; correct programs differ by 1e-6 to 1e-5.
AGREEMENT_BOUND: Final = 1e-4
AGREEMENT_STEPS: Final = 5
_SETTLE_S: Final = 0.1  # lets the previous program's spinning threads go to sleep
_RESERVE_BYTES: Final = 4 * 2**30  # less than this free ends a process after its turn

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        turns: Turns of each program.
        samples: Timed samples per turn.
        budget_s: Seconds of stepping per program over all turns; a program too slow for that
            gets fewer samples, then fewer turns, but one of each.
        sample_s: What a sample lasts at least: the wait at its end must not count.
        time_limit_s: After so many seconds, checks and builds included, no turn begins; None for
            no limit.
    """

    turns: int = 4
    samples: int = 5
    budget_s: float = 20.0
    sample_s: float = 0.1
    time_limit_s: float | None = None

    def pace(self, step_s: float) -> tuple[int, int, int, int]:
        """Turns, samples per turn, steps per sample and uncounted samples for a step time."""
        steps = max(1, math.ceil(self.sample_s / step_s))
        sample_s = steps * step_s
        per_turn = self.budget_s / self.turns
        samples = max(1, min(self.samples, int(per_turn / sample_s) - 1))
        warm_up = 1 if (samples + 1) * sample_s <= per_turn else 0
        turns = int(self.budget_s / (sample_s * (samples + warm_up)))
        return max(1, min(self.turns, turns)), samples, steps, warm_up


@dataclasses.dataclass
class Result:
    """What was measured of one program.

    Attributes:
        name: Key in ``PROGRAMS``.
        version: Of what it runs on.
        losses: Of the small network, compared before anything was timed.
        loss: Of the first step of the workload itself.
        import_s: Time to import the program.
        build_s: Time to put weights and batch on the device.
        first_step_s: Time of the first step, compilation included.
        turns_s: Seconds per step: a list of samples for each turn, by its number.
        peak_memory_bytes: Largest resident set of its process once warm.
        error: Why it has no figures, or None.
    """

    name: str
    version: str = ""
    losses: list[float] = dataclasses.field(default_factory=list)
    loss: float | None = None
    import_s: float = 0.0
    build_s: float = 0.0
    first_step_s: float = 0.0
    turns_s: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """The result from what :meth:`to_json` returned, perhaps by way of a file."""
        turns = {int(turn): samples for turn, samples in values["turns_s"].items()}
        return cls(**{**values, "turns_s": turns})


def agreement_workload(workload: Workload) -> Workload:
    """The small form of a workload on which losses are compared.

    Without dropout; with a thousandfold weight decay, so that leaving it out shows in the losses;
    with steps small enough, and for batch statistics a batch large enough, for rounding not to
    grow.
    """
    return dataclasses.replace(
        small(workload), batch_size=8, dropout=False, weight_decay=0.5, learning_rate=0.002
    )


def measure(
    names: Sequence[str], workload: Workload, plan: Plan, *, log: Log = lambda line: None
) -> list[Result]:
    """Check, build and time programs on one workload.

    Args:
        names: Keys of ``PROGRAMS``.
        workload: What they compute.
        plan: How much to measure.
        log: Called with a line about every stage.

    Returns:
        One result per name. A program that fails has an ``error``; the others go on.
    """
    session = _Session(names, workload, plan, log)
    try:
        session.compare_losses()
        for turn in range(plan.turns):
            for name in names if turn % 2 == 0 else reversed(names):
                session.take_turn(name, turn)
    finally:
        session.close()
    return list(session.results.values())


def deviations(results: Sequence[Result]) -> dict[str, float]:
    """Each program's largest relative deviation from the median loss of all, over the check."""
    curves = {r.name: np.array(r.losses) for r in results if r.losses}
    if not curves:
        return {}
    middle = np.median(list(curves.values()), axis=0)
    return {name: float(np.abs(curve / middle - 1).max()) for name, curve in curves.items()}


def samples_of(results: Sequence[Result]) -> list[float]:
    """All samples of one program's results."""
    return [s for result in results for turn in result.turns_s.values() for s in turn]


def ratio(results: Sequence[Result], rivals: Sequence[Result]) -> float | None:
    """Time of a program over its rival's: the median over shared turns of the ratio of medians.

    Args:
        results: The program's, one per run.
        rivals: The other's in the same runs.

    Returns:
        None if they never took turns with each other.
    """
    found = [
        statistics.median(result.turns_s[turn]) / statistics.median(rival.turns_s[turn])
        for result, rival in zip(results, rivals, strict=True)
        for turn in result.turns_s.keys() & rival.turns_s.keys()
    ]
    return statistics.median(found) if found else None


class _Session:
    """The processes of one run, and what they said."""

    def __init__(self, names: Sequence[str], workload: Workload, plan: Plan, log: Log) -> None:
        self.workload, self.plan, self.log = workload, plan, log
        self.results = {name: Result(name) for name in names}
        self._processes: dict[str, ProgramProcess] = {}
        self._built: set[str] = set()
        self._paces: dict[str, tuple[int, int, int, int]] = {}
        self._begin = time.monotonic()

    def compare_losses(self) -> None:
        """Collect the losses of the small network; who deviates gets no further."""
        check = agreement_workload(self.workload)
        for name in self.results:
            self._guarded(name, self._collect_losses, check)
        deviation = deviations(list(self.results.values()))
        for name, result in self.results.items():
            if result.error is None and not deviation[name] <= AGREEMENT_BOUND:  # NaN too
                result.error = (
                    f"{name} computes something else: its losses {result.losses} deviate by "
                    f"{deviation[name]:.1e} from the others' (bound {AGREEMENT_BOUND:g})."
                )
                self._end(name)

    def take_turn(self, name: str, turn: int) -> None:
        """Time one program, unless it failed, has had all its turns, or time is over."""
        limit = self.plan.time_limit_s
        if limit is not None and time.monotonic() - self._begin > limit:
            self.log(f"{name}: no time is left for turn {turn + 1}")
            return
        turns = self._paces.get(name, (self.plan.turns,))[0]
        if self.results[name].error is None and turn < turns:
            self._guarded(name, self._time, turn)
            if psutil.virtual_memory().available < _RESERVE_BYTES:
                self._end(name)

    def close(self) -> None:
        """End all processes."""
        for name in list(self._processes):
            self._end(name)

    def _guarded(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(name, *arguments)
        except ProgramError as error:
            self.results[name].error = str(error)
            self._end(name)

    def _collect_losses(self, name: str, check: Workload) -> None:
        self.log(f"{name}: comparing losses")
        steps = AGREEMENT_STEPS if check.is_training else 1
        result, process = self.results[name], self._process(name)
        result.losses = process.request("losses", workload=check.to_json(), steps=steps)

    def _process(self, name: str) -> ProgramProcess:
        """The program's process, started if there is none."""
        if name not in self._processes:
            process = ProgramProcess(name, self.workload.threads)
            self._processes[name] = process
            loaded = process.request("load")
            self.results[name].version = loaded["version"]
            self.results[name].import_s = loaded["import_s"]
        return self._processes[name]

    def _ready(self, name: str) -> ProgramProcess:
        process, result = self._process(name), self.results[name]
        if name not in self._built:
            self.log(f"{name}: building")
            built = process.request("build", workload=self.workload.to_json())
            self._built.add(name)
            if name not in self._paces:
                self._paces[name] = self.plan.pace(built.pop("step_s"))
                result.loss = built["loss"]
                result.build_s, result.first_step_s = built["build_s"], built["first_step_s"]
        return process

    def _time(self, name: str, turn: int) -> None:
        process, result = self._ready(name), self.results[name]
        _, samples, steps, warm_up = self._paces[name]
        time.sleep(_SETTLE_S)
        result.turns_s[turn] = process.request(
            "run", samples=samples, steps_per_sample=steps, warm_up=warm_up
        )
        result.peak_memory_bytes = process.request("peak_memory")
        median = statistics.median(result.turns_s[turn])
        self.log(f"{name}: turn {turn + 1}, {median * 1e3:,.4g} ms per step")

    def _end(self, name: str) -> None:
        self._built.discard(name)
        process = self._processes.pop(name, None)
        if process is not None:
            process.close()
