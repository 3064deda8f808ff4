"""How close OpenCL's elementwise kernels and reductions come to the bandwidth of a plain copy.

    python -m benchmarks.opencl_elementwise
    python -m benchmarks.opencl_elementwise --only tanh,sgd --rounds 20 --json found.json

A kernel's rate is the bytes that its function *must* move, every input read once and every result
written once, over its time: an intermediate that goes through memory counts against it, and so
does a buffer that is read twice. A batch norm alone must read its input three times, because no
cache holds it until the last row is known: for the means, for the variances about them, and for
the result. The plain copy is the faster of the driver's own copy
(``clEnqueueCopyBuffer``) and of a compiled kernel that copies on all compute units; its bytes are
those read and those written. Every case is timed in turns with that copy, in one process, so
that a slow spell of the machine hits both; the figure is the copy's rate over the kernel's, so 1.0
is as fast as copying and 1.3 a third slower. Results are checked against the NumPy backend first.

The last column is the kernel's time for as many elements that lie in the cache, in the same unit:
about what it would take if memory cost nothing. As large as the first ratio, the arithmetic is what
takes the time, and no better use of memory helps; far below it, the kernel waits for memory. It is
a bound from above, since it holds the cost of a launch per ``--cached-elements``: the cheapest
kernels show how much that is.

Exits with 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

import accelkit as ak
from accelkit.bench.report import write_json
from accelkit.primitives import get

__all__ = ["CASES", "Case", "Measurement", "main"]

SCHEMA_VERSION: Final = 2
COLUMNS: Final = 1024  # of the matrices
DEVIATION: Final = 2e-5  # of max|a - b| / max|b| from the NumPy backend's result
CHECKED_ELEMENTS: Final = 64 * COLUMNS
CACHED_ELEMENTS: Final = 512 * COLUMNS  # 2 MiB of float32: long beside the cost of a launch
_UPDATE: Final = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}

_ADAM: Final = {
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "decoupled": False,
}


@dataclass(frozen=True)
class Case:
    """One function to measure.

    Attributes:
        name: In the table and for ``--only``.
        function: Of tensors; returns a tensor or a tuple of tensors.
        inputs: One letter per argument: ``x`` float32 of any sign, ``p`` positive, ``d`` float64,
            ``u`` uint8, ``b`` bool, ``v`` a float32 vector of ``COLUMNS``, ``s`` a float32 scalar,
            ``i`` an int32 label per row, ``k`` a random key. All but the last four are matrices
            of ``COLUMNS`` columns.
        donated: Positions of arguments that the results replace in place.
        reads: Times that the first argument must come from memory.
    """

    name: str
    function: Callable[..., Any]
    inputs: str = "x"
    donated: tuple[int, ...] = ()
    reads: int = 1

    def arrays(self, elements: int) -> list[np.ndarray]:
        """The arguments, the same ones every time."""
        rng = np.random.default_rng(7)
        return [_array(letter, elements // COLUMNS, rng) for letter in self.inputs]


def _array(letter: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, COLUMNS)
    if letter == "v":
        return rng.standard_normal(COLUMNS, dtype=np.float32)
    if letter == "s":
        return np.array(0.01, np.float32)
    if letter == "i":
        return rng.integers(0, COLUMNS, rows, dtype=np.int32)
    if letter == "k":
        return np.array([7, 11], np.uint32)
    if letter == "u":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if letter == "b":
        return rng.integers(0, 2, shape, dtype=np.uint8).astype(bool)
    drawn = rng.standard_normal(shape, dtype=np.float64 if letter == "d" else np.float32)
    return np.abs(drawn) + np.float32(0.01) if letter == "p" else drawn


def _batch_norm(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - ak.mean(x, axis=0)
    var = ak.mean(centred * centred, axis=0)
    return centred * (scale * ak.rsqrt(var + 1e-5)) + bias


def _layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - ak.mean(x, axis=-1, keepdims=True)
    var = ak.mean(centred * centred, axis=-1, keepdims=True)
    return centred * ak.rsqrt(var + 1e-5) * scale + bias


def _adam(p: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return get("adam_update")(p, g, m, v, rate, rate, rate, **_ADAM)


CASES: Final = (
    Case("relu", ak.relu),
    Case("relu gradient", lambda y, g: get("relu_grad")(y, g), "xx"),
    Case("a * b + c", lambda a, b, c: a * b + c, "xxx"),
    Case("bias + relu", lambda x, b: ak.relu(x + b), "xv"),
    Case("compare", lambda a, b: a > b, "xx"),
    Case("select", ak.where, "bxx"),
    Case("uint8 to float32", lambda x: ak.astype(x, ak.float32) * (1 / 255), "u"),
    Case("float32 to float64", lambda x: ak.astype(x, ak.float64)),
    Case("sqrt", ak.sqrt, "p"),
    Case("exp", ak.exp),
    Case("expm1", ak.expm1),
    Case("log", ak.log, "p"),
    Case("log1p", ak.log1p, "p"),
    Case("tanh", ak.tanh),
    Case("sigmoid", ak.sigmoid),
    Case("silu", ak.silu),
    Case("erf", ak.erf),
    Case("gelu", ak.gelu),
    Case("sin", ak.sin),
    Case("cos", ak.cos),
    Case("atan", ak.atan),
    Case("power", lambda x: ak.pow(x, 1.7), "p"),
    Case("power, large", lambda x: ak.pow(x, 11.3), "p"),
    Case("power, of two arrays", ak.pow, "px"),
    Case("float64 exp", ak.exp, "d"),
    Case("float64 tanh", ak.tanh, "d"),
    Case("float64 erf", ak.erf, "d"),
    Case("float64 sin", ak.sin, "d"),
    Case("dropout", lambda x, key: get("dropout")(x, key, rate=0.5, offset=0), "xk"),
    Case("SGD update", lambda *a: get("sgd_update")(*a, **_UPDATE), "xxxs", (0, 2)),
    Case("Adam update", _adam, "xxxps", (0, 2, 3)),
    Case("sum", ak.sum),
    Case("sum of rows", lambda x: ak.sum(x, axis=1)),
    Case("sum of columns", lambda x: ak.sum(x, axis=0)),
    Case("max of rows", lambda x: ak.max(x, axis=1)),
    Case("softmax", lambda x: ak.softmax(x, axis=-1)),
    Case("cross-entropy", ak.softmax_cross_entropy, "xi"),
    Case("layer norm", _layer_norm, "xvv"),
    Case("batch norm", _batch_norm, "xvv", reads=3),
)


@dataclass
class Measurement:
    """Seconds of a case, from memory and from cache, and of the copy, one of each per round.

    Attributes:
        name: Of the case.
        moved_bytes: What the function must read and write.
        copied_bytes: What the copy reads and writes.
        cached_bytes: What the function must read and write in the cache.
        case_s, cached_s, copy_s: Samples, in order.
    """

    name: str
    moved_bytes: int
    copied_bytes: int
    cached_bytes: int
    case_s: list[float] = field(default_factory=list)
    cached_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)

    @property
    def bandwidth(self) -> float:
        """Bytes per second, of the best round."""
        return self.moved_bytes / min(self.case_s)

    @property
    def times_copy(self) -> float:
        """The copy's best rate over the case's."""
        return self.copied_bytes / min(self.copy_s) / self.bandwidth

    @property
    def median_times_copy(self) -> float:
        """Median over rounds of the ratio of neighbours."""
        scale = self.copied_bytes / self.moved_bytes
        return statistics.median(
            scale * case / copy for case, copy in zip(self.case_s, self.copy_s, strict=True)
        )

    @property
    def cached_times_copy(self) -> float:
        """The copy's best rate, from memory, over the case's in the cache."""
        return self.copied_bytes / min(self.copy_s) / (self.cached_bytes / min(self.cached_s))

    def to_json(self) -> dict[str, Any]:
        """Plain values, raw samples included."""
        return {
            "name": self.name,
            "moved_bytes": self.moved_bytes,
            "copied_bytes": self.copied_bytes,
            "cached_bytes": self.cached_bytes,
            "bytes_per_s": self.bandwidth,
            "copy_bytes_per_s": self.copied_bytes / min(self.copy_s),
            "times_copy": self.times_copy,
            "median_times_copy": self.median_times_copy,
            "cached_times_copy": self.cached_times_copy,
            "case_s": self.case_s,
            "cached_s": self.cached_s,
            "copy_s": self.copy_s,
        }

    def __str__(self) -> str:
        return (
            f"{self.name:20} {min(self.case_s) * 1e3:9.3f} ms {self.bandwidth / 1e9:7.2f} GB/s "
            f"{self.times_copy:7.2f} {self.median_times_copy:7.2f} {self.cached_times_copy:8.2f}"
        )


class Lab:
    """Cases and copies on one device, run to completion."""

    def __init__(self, name: str) -> None:
        self.backend: Any = ak.registry.backend("opencl")
        self.device = ak.device(name)
        (self.info,) = (i for i in self.backend.devices() if i.device == self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.backend.synchronize(self.device)

    def copies(self, elements: int) -> list[Callable[[], None]]:
        """The two plain copies of so many float32 elements, each into memory of its own."""
        source = self.backend.put(np.ones(elements, np.float32), self.device)
        tensor = ak.Tensor._eager(source, self.device)
        identity = ak.jit(lambda x: x)

        def by_driver() -> None:
            self.backend.copy(source, self.device)
            self.synchronize()

        def by_kernel() -> None:
            identity(tensor)
            self.synchronize()

        return [by_driver, by_kernel]

    def runner(self, case: Case, elements: int, turns: int = 1) -> tuple[Callable[[], None], int]:
        """What runs the case so many times in a row, and the bytes that it must move."""
        arguments = [ak.asarray(a, device=self.device) for a in case.arrays(elements)]
        function = ak.jit(case.function, donate_argnums=case.donated)
        moved = sum(_size_bytes(a) for a in arguments)
        moved += (case.reads - 1) * _size_bytes(arguments[0])

        def run() -> Any:
            found = function(*arguments)
            results = found if isinstance(found, tuple) else (found,)
            for position, result in zip(case.donated, results, strict=bool(case.donated)):
                arguments[position] = result
            return results

        moved += sum(_size_bytes(r) for r in run())

        def timed() -> None:
            for _ in range(turns):
                run()
            self.synchronize()

        return timed, moved * turns

    def check(self, case: Case) -> float:
        """Deviation of the results from the NumPy backend's, at a small size."""
        found, wanted = (
            _results(case, [ak.asarray(a, device=device) for a in case.arrays(CHECKED_ELEMENTS)])
            for device in (self.device, "numpy")
        )
        return max(
            float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30)
            for a, b in zip(found, wanted, strict=True)
        )


def _size_bytes(tensor: Any) -> int:
    return int(tensor.size) * int(tensor.dtype.itemsize)


def _results(case: Case, arguments: list[Any]) -> list[np.ndarray]:
    found = ak.jit(case.function)(*arguments)
    results = found if isinstance(found, tuple) else (found,)
    return [np.asarray(r.numpy(), np.float64) for r in results]


CLOCKS: Final = {"wall": time.perf_counter, "processor": time.process_time}


def measure(
    lab: Lab,
    case: Case,
    elements: int,
    rounds: int,
    clock: Callable[[], float],
    cached_elements: int = CACHED_ELEMENTS,
) -> Measurement:
    """Time a case in turns with itself in the cache and the copies; a first round warms up."""
    run, moved_bytes = lab.runner(case, elements)
    size = min(cached_elements, elements)
    cached, cached_bytes = lab.runner(case, size, turns=elements // size)
    copies = lab.copies(elements)
    result = Measurement(case.name, moved_bytes, 2 * 4 * elements, cached_bytes)
    for round_ in range(rounds + 1):
        case_s = _seconds(run, clock)
        cached_s = _seconds(cached, clock)
        copy_s = min(_seconds(copy, clock) for copy in copies)
        if round_:
            result.case_s.append(case_s)
            result.cached_s.append(cached_s)
            result.copy_s.append(copy_s)
    return result


def _seconds(function: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    options = _options(arguments)
    lab = Lab(options.device)
    print(f"{lab.device}: {lab.info.description}, {lab.info.driver}; {options.elements} elements")
    print(f"{'':46} {'times a plain copy':>24}")
    print(f"{'':20} {'best':>12} {'rate':>12} {'best':>7} {'median':>7} {'in cache':>8}")
    clock = CLOCKS[options.clock]
    found, wrong = [], []
    for case in options.cases:
        deviation = lab.check(case)
        if not deviation <= DEVIATION:
            wrong.append(f"{case.name}: results deviate by {deviation:.1e}, at most {DEVIATION:g}")
            continue
        found.append(
            measure(lab, case, options.elements, options.rounds, clock, options.cached_elements)
        )
        print(found[-1], flush=True)
    if options.json is not None:
        write_json(options.json, _report(options, lab, found))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The checked options, and in ``cases`` what ``--only`` chooses."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.opencl_elementwise", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--elements", type=int, default=16 * 2**20, help="of each large array")
    parser.add_argument(
        "--cached-elements", type=int, default=CACHED_ELEMENTS, help="of each array in the cache"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", help="comma-separated beginnings of names")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for all samples")
    options = parser.parse_args(arguments)
    sizes = options.elements, options.cached_elements
    if any(size < COLUMNS or size % COLUMNS for size in sizes) or options.rounds < 1:
        parser.error(
            f"--elements and --cached-elements must be multiples of {COLUMNS}, and --rounds "
            "at least 1"
        )
    starts = tuple(options.only.split(",")) if options.only else ("",)
    options.cases = [case for case in CASES if case.name.startswith(starts)]
    if not options.cases:
        parser.error(f"--only names none of: {', '.join(case.name for case in CASES)}")
    return options


def _report(options: argparse.Namespace, lab: Lab, found: Sequence[Measurement]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "system": platform.platform(),
        "numpy": np.__version__,
        "device": str(lab.device),
        "hardware": lab.info.description,
        "driver": lab.info.driver,
        "elements": options.elements,
        "cached_elements": min(options.cached_elements, options.elements),
        "clock": options.clock,
        "measurements": [m.to_json() for m in found],
    }


if __name__ == "__main__":
    raise SystemExit(main())
