"""What accelkit costs beside arithmetic: imports, eager dispatch, tracing, compiling, first steps.

Every backend is measured in a process of its own. Imports are timed in fresh processes; eager
operations beside the framework's own on arrays so small that arithmetic is nothing, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.processes import environment

__all__ = ["FRAMEWORKS", "OPERATIONS", "markdown", "measure_overheads", "tables"]

FRAMEWORKS: Final = {
    "numpy": "numpy",
    "torch": "torch",
    "jax": "jax",
    "tensorflow": "tensorflow",
    "opencl": "pyopencl",
}
_NOTE: Final = (
    "Differentiate: what tracing the step takes beyond tracing the forward pass, optimizer "
    "included. Compile: the backend's own work. First step: with the data's way to the device, "
    "and the compilation of backends that compile large programs in their first call. Planned "
    "peak: what accelkit predicts for state, batch and intermediates; process at most: the "
    "resident set, framework and compiler included."
)
OPERATIONS: Final = ("add", "multiply", "exp", "sum", "matmul")
_CALLS: Final = 20
STAGES: Final = ("trace forward", "differentiate", "passes", "plan", "compile", "first step")


def measure_overheads(
    backends: Iterable[str], threads: int, *, peers: Iterable[str] = (), quick: bool = False
) -> dict[str, Any]:
    """Imports (of ``peers`` too), and per backend dispatch and the stages before the first step.

    Returns:
        ``imports_s`` by module and, under ``backends``, what :func:`measure_backend` returns, or
        an ``error``.
    """
    backends = list(backends)
    repeats = 1 if quick else 5
    modules = ["accelkit", *(FRAMEWORKS[backend] for backend in backends), *peers]
    found = {}
    for backend in backends:
        done = _python(
            "-m", "benchmarks.overheads", backend, "--quick" if quick else "--full", threads=threads
        )
        if done.returncode:
            found[backend] = {"error": done.stderr.strip().splitlines()[-1]}
        else:
            found[backend] = json.loads(done.stdout)
    imports = {m: _import_time(m, repeats, threads) for m in modules}
    known = {m: seconds for m, seconds in imports.items() if seconds is not None}
    return {"imports_s": known, "backends": found}


def _python(*arguments: str, threads: int) -> subprocess.CompletedProcess[str]:
    variables = os.environ | environment(threads)
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # or every import would compile accelkit anew
    return subprocess.run(
        [sys.executable, *arguments],
        env=variables,
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )


def _import_time(module: str, repeats: int, threads: int) -> float | None:
    """Median seconds of ``import module`` in a fresh process, or None if it is missing."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = []
    for repeat in range(repeats + 1):
        done = _python("-c", code, threads=threads)
        if done.returncode:
            return None
        if repeat:  # the first one wrote bytecode and warmed the disk's cache
            times.append(float(done.stdout.splitlines()[-1]))
    return statistics.median(times)


def measure_backend(backend: str, *, quick: bool = False) -> dict[str, Any]:
    """One backend's overheads, in this process.

    Returns:
        ``dispatch_us``: by operation, microseconds through accelkit and through the framework;
        ``stages_s``: seconds of each of ``STAGES`` for AlexNet's training; ``step_s`` of a later
        step and ``small_step_s`` of the MLP's; ``primitives`` in the graph as traced and as
        compiled; ``memory_bytes`` of the state, of the plan's peak, and of the process at most.
    """
    rounds = 3 if quick else 100
    dispatch = {name: list(_dispatch(backend, name, rounds)) for name in OPERATIONS}
    return {"dispatch_us": dispatch, **_stages(backend, quick=quick)}


def _native(backend: str, operation: str, arrays: list[Any]) -> Callable[[], Any]:
    """The framework's own call on the same arrays, waited for by nobody."""
    modules = {"jax": "jax.numpy", "tensorflow": "tensorflow.math"}
    module: Any = importlib.import_module(modules.get(backend, FRAMEWORKS[backend]))
    name = operation
    if backend == "torch":
        name = {"multiply": "mul"}.get(operation, operation)
    if backend == "tensorflow":
        name = {"sum": "reduce_sum"}.get(operation, operation)
        if operation == "matmul":
            module = importlib.import_module("tensorflow.linalg")
    function = getattr(module, name)
    return lambda: function(*arrays)


def _dispatch(backend: str, operation: str, rounds: int) -> tuple[float, float | None]:
    """Best microseconds of one eager operation through accelkit, and of the native one."""
    import accelkit as ak
    from accelkit import registry

    count = 1 if operation in ("exp", "sum") else 2
    device = ak.device(f"{backend}:cpu")
    tensors = [ak.asarray(np.ones((4, 4), np.float32), device=device) for _ in range(count)]
    function = getattr(ak, operation)
    native = None
    if backend != "opencl":  # buffers have no operations of their own there
        native = _native(backend, operation, [t.native for t in tensors])
    synchronize = registry.backend(backend).synchronize
    ours, theirs = [], []
    for _ in range(rounds + 1):
        ours.append(timeit.timeit(lambda: function(*tensors), number=_CALLS) / _CALLS)
        synchronize(device)
        if native is not None:
            theirs.append(timeit.timeit(native, number=_CALLS) / _CALLS)
    return min(ours[1:]) * 1e6, min(theirs[1:]) * 1e6 if theirs else None


def _stages(backend: str, *, quick: bool) -> dict[str, Any]:
    from accelkit import host, models, passes, registry, train

    options = {"image_size": 95, "width": 0.125} if quick else {}
    model = models.build("alexnet", **options)
    step = _step(model.module, backend)
    shape = (8, *model.input_shape)
    state = step.init(0, shape)
    batch = (np.zeros(shape, np.float32), np.zeros(shape[0], np.int32))
    forward = train.EvalStep(model.module, step.recipe.loss, device=step.device)
    for trace in (forward.graph, step.graph):
        trace(state, batch)  # imports what tracing needs
    forward_s, _ = _timed(lambda: forward.graph(state, batch))
    traced_s, traced = _timed(lambda: step.graph(state, batch))
    passes_s, prepared = _timed(lambda: passes.prepare(traced, registry.backend(backend)))
    donated = range(len(state.tensors))
    plan_s, plan = _timed(lambda: passes.plan_values(prepared, donate=donated))
    whole_s, compiled = _timed(lambda: step.compile(state, batch))
    state_bytes = sum(tensor.spec.memory_bytes for tensor in state.tensors.values())
    first, *later = _steps(step, state, batch, 4)
    seconds = (
        forward_s,
        max(0.0, traced_s - forward_s),
        passes_s,
        plan_s,
        max(0.0, whole_s - traced_s - passes_s),
        first,
    )
    return {
        "stages_s": dict(zip(STAGES, seconds, strict=True)),
        "step_s": statistics.median(later),
        "small_step_s": _small_step(backend, quick=quick),
        "primitives": [len(traced), len(compiled.graph)],
        "memory_bytes": [
            state_bytes,
            plan.input_bytes + plan.arena_bytes,
            host.process_memory().peak_bytes,
        ],
    }


def _step(module: Any, backend: str) -> Any:
    """A training step as in ``benchmarks.workload``."""
    from accelkit import losses, optim, train

    optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=5e-4)
    loss = losses.SoftmaxCrossEntropy()
    return train.TrainStep(module, loss, optimizer, device=f"{backend}:cpu")


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def _steps(step: Any, state: Any, batch: Any, count: int) -> list[float]:
    """Seconds of each step, its loss read and everything waited for."""
    from accelkit import registry

    times = [time.perf_counter()]
    for _ in range(count):
        state, metrics = step(state, batch)
        float(metrics["loss"])
        registry.backend(step.device.backend).synchronize(step.device)
        times.append(time.perf_counter())
    return np.diff(times).tolist()


def _small_step(backend: str, *, quick: bool) -> float:
    """Median seconds of a step of the MLP of 100,000 parameters, batch 32, loss read each time."""
    from benchmarks.accelkit_program import TrainingProgram
    from benchmarks.workload import named

    workload = named("mlp-train", os.cpu_count() or 1)
    program = TrainingProgram(workload, workload.weights(), backend=backend)
    times = [_timed(lambda: float(program.step()))[0] for _ in range(20 if quick else 500)]
    return statistics.median(times[10:])


def markdown(section: Mapping[str, Any]) -> str:
    """The section's text: what the figures are, the tables, and who failed."""
    failed = {name: b["error"] for name, b in section["backends"].items() if "error" in b}
    notes = [f"{name} failed: {error}" for name, error in failed.items()]
    return "\n\n".join([f"## Overheads\n\n{_NOTE}", *tables(section), *notes])


def tables(section: Mapping[str, Any]) -> list[str]:
    """Tables of imports, of eager dispatch, and of the stages of a training step."""
    from benchmarks.report import table

    good = {name: b for name, b in section["backends"].items() if "error" not in b}
    imports = table(
        ("import", "ms"), [(m, f"{s * 1e3:,.0f}") for m, s in section["imports_s"].items()]
    )
    dispatch = table(
        ("operation on 4x4, us: accelkit / native", *good),
        [
            (name, *(_pair(backend["dispatch_us"][name]) for backend in good.values()))
            for name in OPERATIONS
        ],
    )
    stages = table(
        ("AlexNet (torchvision), training, batch 8", *good),
        [(name, *cells) for name, cells in _stage_rows(good.values())],
    )
    return [imports, dispatch, stages]


def _stage_rows(found: Collection[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Names of figures, and a cell for every backend."""
    rows = [(f"{name}, s", [f"{b['stages_s'][name]:.3f}" for b in found]) for name in STAGES]
    rows.append(("a later step, s", [f"{b['step_s']:.3f}" for b in found]))
    small = [f"{1.0 / b['small_step_s']:,.0f}" for b in found]
    rows.append(("steps per second of the MLP, batch 32, loss read", small))
    counts = [" / ".join(map(str, b["primitives"])) for b in found]
    rows.append(("primitives traced / compiled", counts))
    for position, name in enumerate(("state", "planned peak", "process at most")):
        cells = [b["memory_bytes"][position] for b in found]
        rows.append((f"{name}, MiB", ["" if c is None else f"{c / 2**20:,.0f}" for c in cells]))
    return rows


def _pair(times: list[float | None]) -> str:
    ours, theirs = times
    return f"{ours:.1f}" if theirs is None else f"{ours:.1f} / {theirs:.1f}"


def main() -> None:
    """Print one backend's overheads as JSON: what :func:`measure_overheads` starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=FRAMEWORKS)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--full", action="store_true")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = measure_backend(options.backend, quick=options.quick)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
