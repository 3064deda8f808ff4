"""The stored result of one or several runs on one machine, and the figures that follow from it.

```
schema_version, environment, agreement_bound
workloads   name -> workload, flops_per_step, parameters, runs: [started, commit, plan, results]
sections    name -> what overheads, layers and the machine's peaks measured
```

Programs are compared only within the turns of a run that they shared; runs can be added one by
one, for instance one per framework where memory or time is short.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from accelkit.bench.report import write_json
from benchmarks.measure import AGREEMENT_BOUND, Plan, Result, deviations, ratio, samples_of
from benchmarks.program import PROGRAMS
from benchmarks.workload import Workload

__all__ = ["SCHEMA_VERSION", "Comparison", "Figures", "Measured", "Report"]

SCHEMA_VERSION: Final = 2


class Comparison(NamedTuple):
    """One program beside another.

    Attributes:
        rival: The other's name.
        time: Step time over the other's, within shared turns; below 1 is faster.
    """

    rival: str
    time: float


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a table says about one program.

    Attributes:
        name: Key in ``PROGRAMS``.
        version: Of what it runs on.
        step_s: Median seconds per step.
        iqr_s: Their interquartile range.
        examples_per_s, gflops: From the median.
        compile_s: First step less a median one.
        import_s, build_s: Before the first step.
        peak_memory_bytes: Once warm.
        deviation: Of its losses from the median of all.
        memory: Peak memory over the least of the hand-written programs of its group; None where
            there are none.
        native: Beside the fastest hand-written program of its group, which may be itself.
        peer: Beside the fastest peer of its group.
        best: Beside the fastest of all other programs that are not accelkit's; None if they never
            took turns with each other.
    """

    name: str
    version: str
    step_s: float
    iqr_s: float
    examples_per_s: float
    gflops: float
    compile_s: float
    import_s: float
    build_s: float
    peak_memory_bytes: int
    deviation: float
    memory: float | None
    native: Comparison | None
    peer: Comparison | None
    best: Comparison | None

    @property
    def label(self) -> str:
        """For tables."""
        return PROGRAMS[self.name].label


class Measured:
    """All runs of one workload.

    Attributes:
        workload: What was computed.
        runs: As stored.
    """

    def __init__(self, workload: Workload, runs: Sequence[Mapping[str, Any]] = ()) -> None:
        self.workload = workload
        self.runs = list(runs)

    def add(
        self, results: Sequence[Result], plan: Plan, *, started: str, commit: str | None
    ) -> None:
        """Add a run."""
        self.runs.append(
            {
                "started": started,
                "commit": commit,
                "plan": dataclasses.asdict(plan),
                "results": [result.to_json() for result in results],
            }
        )

    def results(self) -> dict[str, list[Result]]:
        """Every program's results, one per run: those of runs without it are empty."""
        runs = [[Result.from_json(r) for r in run["results"]] for run in self.runs]
        found: dict[str, list[Result]] = {}
        for name in PROGRAMS:
            own = [next((r for r in run if r.name == name), Result(name)) for run in runs]
            if any(result.turns_s or result.error for result in own):
                found[name] = own
        return found

    def failures(self) -> dict[str, str]:
        """Why programs have no figures: the error of the last run that tried."""
        return {
            name: next(r.error for r in reversed(own) if r.error)
            for name, own in self.results().items()
            if not samples_of(own)
        }

    def figures(self) -> list[Figures]:
        """Of every program that was timed, in the order of ``PROGRAMS``."""
        timed = {name: own for name, own in self.results().items() if samples_of(own)}
        return [self._figures(name, own, timed) for name, own in timed.items()]

    def deviations(self) -> dict[str, float]:
        """Largest deviation of each program's losses over all runs."""
        found: dict[str, float] = {}
        for run in self.runs:
            deviation = deviations([Result.from_json(r) for r in run["results"]])
            for name, value in deviation.items():
                found[name] = max(value, found.get(name, 0.0))
        return found

    def problems(self) -> list[str]:
        """Programs that failed, and full-size losses that differ where nothing is random."""
        problems = [f"{name} failed: {error}" for name, error in self.failures().items()]
        if self.workload.dropout and self.workload.is_training and self._drops():
            return problems
        losses = {
            name: own[-1].loss for name, own in self.results().items() if own[-1].loss is not None
        }
        if losses:
            middle = statistics.median(losses.values())
            for name, loss in losses.items():
                if not abs(loss / middle - 1) <= AGREEMENT_BOUND:
                    problems.append(f"{name}: its first loss {loss} differs from {middle}.")
        return problems

    def _drops(self) -> bool:
        from benchmarks.architecture import Dropout

        return any(isinstance(layer, Dropout) for layer, _ in self.workload.network().walk())

    def _figures(self, name: str, own: list[Result], timed: dict[str, list[Result]]) -> Figures:
        samples = samples_of(own)
        lower, median, upper = np.percentile(samples, [25, 50, 75]).tolist()
        good = [result for result in own if result.turns_s]
        group = PROGRAMS[name].group
        others = {n: r for n, r in timed.items() if n != name and PROGRAMS[n].kind != "accelkit"}
        same = {n: r for n, r in others.items() if PROGRAMS[n].group == group}
        native = _fastest(own, {n: r for n, r in same.items() if _is_native(n, group)})
        if PROGRAMS[name].kind == "native" and (native is None or native.time < 1):
            native = Comparison(name, 1.0)
        best = min(others.items(), key=lambda item: np.median(samples_of(item[1])), default=None)
        return Figures(
            name=name,
            version=good[-1].version,
            step_s=median,
            iqr_s=upper - lower,
            examples_per_s=self.workload.batch_size / median,
            gflops=self.workload.flops_per_step / median / 1e9,
            compile_s=max(0.0, min(r.first_step_s for r in good) - median),
            import_s=min(r.import_s for r in good),
            build_s=min(r.build_s for r in good),
            peak_memory_bytes=max(r.peak_memory_bytes for r in good),
            deviation=self.deviations()[name],
            memory=_over_least_memory(own, [r for n, r in timed.items() if _is_native(n, group)]),
            native=native,
            peer=_fastest(own, {n: r for n, r in same.items() if PROGRAMS[n].kind == "peer"}),
            best=_fastest(own, dict([best]) if best else {}),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "workload": self.workload.to_json(),
            "flops_per_step": self.workload.flops_per_step,
            "parameters": self.workload.parameters,
            "runs": self.runs,
        }


def _fastest(own: list[Result], rivals: dict[str, list[Result]]) -> Comparison | None:
    """Beside the rival against which the ratio is largest."""
    found = []
    for name, results in rivals.items():
        time = ratio(own, results)
        if time is not None:
            found.append(Comparison(name, time))
    return max(found, key=lambda c: c.time, default=None)


def _is_native(name: str, group: str) -> bool:
    return PROGRAMS[name].kind == "native" and PROGRAMS[name].group == group


def _over_least_memory(own: list[Result], natives: list[list[Result]]) -> float | None:
    """Peak memory over that of the hand-written program that needs least."""
    peaks = [max(r.peak_memory_bytes for r in results) for results in natives]
    return max(r.peak_memory_bytes for r in own) / min(peaks) if peaks else None


@dataclasses.dataclass
class Report:
    """Everything that was measured on one machine.

    Attributes:
        environment: Of the last run.
        workloads: By name.
        sections: Overheads, layers, the machine's peaks: plain values by name.
    """

    environment: dict[str, Any]
    workloads: dict[str, Measured] = dataclasses.field(default_factory=dict)
    sections: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "environment": self.environment,
            "agreement_bound": AGREEMENT_BOUND,
            "workloads": {name: found.to_json() for name, found in self.workloads.items()},
            "sections": self.sections,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """The report from what :meth:`to_json` returned.

        Raises:
            ValueError: for another schema.
        """
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"the results have schema version {values.get('schema_version')}, expected "
                f"{SCHEMA_VERSION}: measure again"
            )
        workloads = {
            name: Measured(Workload(**found["workload"]), found["runs"])
            for name, found in values["workloads"].items()
        }
        return cls(dict(values["environment"]), workloads, dict(values["sections"]))

    @classmethod
    def read(cls, path: Path) -> Report:
        """A stored report."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Store it, numbers rounded to nine digits; an earlier one is replaced at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rounded = json.loads(
            json.dumps(self.to_json()), parse_float=lambda t: float(f"{float(t):.9g}")
        )
        write_json(path, rounded, allow_nan=True)
