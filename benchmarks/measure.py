"""Measures programs beside each other: own processes, equal settings, in turns.

Every program lives in a process of its own with the same number of threads and the same memory
allocator settings. All are built first; then they take turns, A B C, C B A, ..., one running at
a time, so that a slow spell of the machine hits all alike. Ratios are formed within a turn.
Before that, the programs' losses over a few steps from the same weights, with dropout off, are
compared: a program that computes something else has no business in the table.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.workload import Workload

__all__ = [
    "AGREEMENT_BOUND",
    "Plan",
    "ProgramError",
    "ProgramProcess",
    "Result",
    "deviations",
    "environment",
    "measure",
    "ratio",
    "summary",
]

# Losses of five float32 steps; correct programs differ by 1e-6 to 1e-5.
AGREEMENT_BOUND: Final = 1e-4
AGREEMENT_STEPS: Final = 5
# A thousandfold weight decay, so that leaving it out shows in the losses; steps small enough for
# rounding not to grow.
_AGREEMENT_SETTINGS: Final[dict[str, Any]] = {
    "dropout": 0.0,
    "weight_decay": 0.5,
    "learning_rate": 0.002,
}
_SETTLE_S: Final = 0.1  # lets the previous program's spinning threads go to sleep

Log = Callable[[str], None]


class ProgramError(RuntimeError):
    """A measured program failed or died."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Turns of each program.
        samples: Timed samples per turn.
        steps_per_sample: Steps per sample, with one wait at the end.
        check_batch_size: Batch size of the comparison of losses.
    """

    rounds: int
    samples: int
    steps_per_sample: int
    check_batch_size: int


@dataclasses.dataclass
class Result:
    """What was measured of one program.

    Attributes:
        name: Key in ``PROGRAMS``.
        version: Of its framework.
        losses: Of the comparison.
        build_s: Time to build it, compilation and first step included.
        rounds_s: Seconds per step: one list of samples per turn.
        peak_memory_bytes: Largest resident set of its process.
        error: Why it has no figures, or None.
    """

    name: str
    version: str = ""
    losses: list[float] = dataclasses.field(default_factory=list)
    build_s: float = 0.0
    rounds_s: list[list[float]] = dataclasses.field(default_factory=list)
    peak_memory_bytes: int = 0
    error: str | None = None


def environment(threads: int) -> dict[str, str]:
    """Environment variables that all programs run under, on top of the user's own.

    glibc returns large blocks to the system on every ``free`` and takes a page fault per 4 KB
    when they come back; a training loop frees and allocates the same gigabyte at each step.
    Keeping the memory helps every framework that allocates per step, so all get it.
    """
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "NPROC": count,  # the size of XLA's thread pool on CPUs
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


class ProgramProcess:
    """A worker process; requests are answered in order."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | environment(threads),
            cwd=Path(__file__).resolve().parent.parent,
        )

    def request(self, do: str, **arguments: Any) -> Any:
        """Ask the worker and wait for its answer.

        Raises:
            ProgramError: if it failed or died, with its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the missing reply tells the story
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ProgramError(
                f"{self.name} died with exit code {code} during {do!r}.\n{self._last_words()}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise ProgramError(f"{self.name}: {reply['error']}\n{self._last_words()}")
        return reply["result"]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self, lines: int = 15) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-lines:])


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
    results = {name: Result(name) for name in names}
    with _stored_weights(workload) as weights:
        for result in results.values():
            _collect_losses(result, workload, weights, plan, log)
        processes: dict[str, ProgramProcess] = {}
        try:
            for result in results.values():
                if result.error is None:
                    log(f"{result.name}: building")
                    processes[result.name] = ProgramProcess(result.name, workload.threads)
                    _build(result, processes[result.name], workload, weights)
            for turn in range(plan.rounds):
                log(f"round {turn + 1} of {plan.rounds}")
                order = [name for name in processes if results[name].error is None]
                for name in order if turn % 2 == 0 else reversed(order):
                    _take_turn(results[name], processes[name], plan)
        finally:
            for process in processes.values():
                process.close()
    return list(results.values())


def deviations(results: Sequence[Result]) -> dict[str, float]:
    """Each program's largest relative deviation from the median loss of all, over the check."""
    curves = {r.name: np.array(r.losses) for r in results if r.losses}
    if not curves:
        return {}
    middle = np.median(list(curves.values()), axis=0)
    return {name: float(np.abs(curve / middle - 1).max()) for name, curve in curves.items()}


def summary(result: Result) -> dict[str, float]:
    """Median, quartiles and minimum of the seconds per step, over all samples."""
    samples = [sample for turn in result.rounds_s for sample in turn]
    lower, median, upper = np.percentile(samples, [25, 50, 75]).tolist()
    return {
        "median": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "iqr": upper - lower,
        "min": min(samples),
    }


def ratio(result: Result, rival: Result) -> float:
    """Time of a program over its rival's: the median over turns of the ratio of medians."""
    return statistics.median(
        statistics.median(own) / statistics.median(other)
        for own, other in zip(result.rounds_s, rival.rounds_s, strict=True)
    )


def _collect_losses(result: Result, workload: Workload, weights: str, plan: Plan, log: Log) -> None:
    log(f"{result.name}: comparing losses")
    check = dataclasses.replace(workload, batch_size=plan.check_batch_size, **_AGREEMENT_SETTINGS)
    process = ProgramProcess(result.name, workload.threads)
    try:
        result.version = process.request("version")
        result.losses = process.request(
            "losses", workload=check.to_json(), weights=weights, steps=AGREEMENT_STEPS
        )
    except ProgramError as error:
        result.error = str(error)
    finally:
        process.close()


def _build(result: Result, process: ProgramProcess, workload: Workload, weights: str) -> None:
    try:
        result.build_s = process.request("build", workload=workload.to_json(), weights=weights)
    except ProgramError as error:
        result.error = str(error)


def _take_turn(result: Result, process: ProgramProcess, plan: Plan) -> None:
    time.sleep(_SETTLE_S)
    try:
        times = process.request("run", samples=plan.samples, steps_per_sample=plan.steps_per_sample)
        result.peak_memory_bytes = process.request("peak_memory")
    except ProgramError as error:
        result.error = str(error)
    else:
        result.rounds_s.append(times)


@contextmanager
def _stored_weights(workload: Workload) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="accelkit-benchmark-") as folder:
        path = str(Path(folder) / "weights.npz")
        np.savez(path, allow_pickle=False, **workload.weights())
        yield path
