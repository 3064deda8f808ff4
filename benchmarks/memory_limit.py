"""AlexNet within a memory limit: what it costs, and what it really uses.

Per backend two processes train the same model on the same batch: one freely, the other with
``memory_limit=`` a share of the first one's measured peak. They take steps in turns, so that a
slow spell of the machine hits both. Dropout is on: equal losses show equal masks too.

    python -m benchmarks.memory_limit --backends opencl torch jax --share 0.6

The peak is the device's own account where there is one. On CPUs that of the operating system is
taken (resident set), less what the process held beside the training state before its first step
(interpreter, framework, compiled code) and less the code of libraries, mapped from files, that
comes in as it is first run. So that the figure is what is in use and not what the C library keeps
for later, blocks from 64 KB on are returned to the system at once, in both.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_CPP_MIN_LOG_LEVEL": "3"}
PIXEL_MEAN, PIXEL_DEVIATION = 127.5, 64.0


class Trainee:
    """One training run, asked for steps through pipes.

    Args:
        options: ``device``, ``variant``, ``batch_size`` and, perhaps, ``memory_limit`` in bytes.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from accelkit_models.alexnet import alexnet

        import accelkit as ak
        from accelkit import losses, optim, train
        from accelkit.registry import backend
        from accelkit.train.peak import PeakWatch

        self.device = ak.device(options["device"])
        self.backend = backend(self.device.backend)
        model = alexnet(options["variant"])
        self.step = train.TrainStep(
            model.module,
            losses.SoftmaxCrossEntropy(),
            optim.sgd(0.01, momentum=0.9, weight_decay=5e-4),
            device=self.device,
            preprocess=lambda x: (x.astype("float32") - PIXEL_MEAN) / PIXEL_DEVIATION,
            memory_limit=options.get("memory_limit"),
        )
        rng = np.random.default_rng(0)
        shape = (options["batch_size"], *model.input_shape)
        self.batch = (
            rng.integers(0, 256, shape, np.uint8),
            rng.integers(0, 1000, shape[0], np.int32),
        )
        self.state = self.step.init(0, shape)
        self.step.compile(self.state, self.batch)
        _tidy()
        self.method = self.backend.memory(self.device).method
        limit = self.step.memory_limit_bytes or sys.maxsize
        late = self.step.compile(self.state, self.batch).compiles_in_first_call
        values = self.state.tensors.values()
        self.peak = PeakWatch(self.device, values, limit, compiles_late=late)
        self.steps = 0

    def run(self) -> dict[str, Any]:
        """One step: its seconds and loss, and the peak so far."""
        self.peak.check(has_run=self.steps > 0)
        self.steps += 1
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, self.batch)
        loss = metrics["loss"]
        self.backend.synchronize(self.device)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": loss, "peak_bytes": self.peak.measured_bytes()}

    def describe(self) -> dict[str, Any]:
        """How memory is measured, and the plan."""
        choice = self.step.memory_choice
        return {
            "method": self.method,
            "plan": "" if choice is None else str(choice),
            "predicted_bytes": 0 if choice is None else choice.predicted_peak_bytes,
            "slowdown": 1.0 if choice is None else choice.predicted_slowdown,
        }


def _tidy() -> None:
    """Give back what tracing and compiling left over."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(options: dict[str, Any]) -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trainee = Trainee(options)
    for line in sys.stdin:
        print(json.dumps(getattr(trainee, line.strip())()), file=replies, flush=True)


class Process:
    """A trainee in a process of its own."""

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.memory_limit", "--serve", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def ask(self, request: str) -> dict[str, Any]:
        """A request and its reply.

        Raises:
            RuntimeError: if the process died; its own words are on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a trainee died with exit code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(device: str, share: float, rounds: int, **options: Any) -> dict[str, Any]:
    """Both runs of one backend; the first step of each counts for the peak, not for the time."""
    free = Process(device=device, **options)
    first = [free.ask("run") for _ in range(2)]
    limit = int(share * first[-1]["peak_bytes"])
    limited = Process(device=device, memory_limit=limit, **options)
    second = [limited.ask("run") for _ in range(2)]
    for _ in range(rounds):
        first.append(free.ask("run"))
        second.append(limited.ask("run"))
    about = limited.ask("describe")
    free.close()
    limited.close()
    losses = [(a["loss"], b["loss"]) for a, b in zip(first, second, strict=True)]
    return {
        "device": device,
        "unplanned_bytes": first[-1]["peak_bytes"],
        "limit_bytes": limit,
        "measured_bytes": second[-1]["peak_bytes"],
        "time_ratio": statistics.median(
            b["seconds"] / a["seconds"] for a, b in zip(first[2:], second[2:], strict=True)
        ),
        "seconds": [[a["seconds"], b["seconds"]] for a, b in zip(first, second, strict=True)],
        "loss_deviation": max(abs(b / a - 1) for a, b in losses),
        **about,
    }


def line(found: dict[str, Any]) -> str:
    """One backend's figures."""
    sizes = (found[f"{name}_bytes"] / 2**20 for name in ("unplanned", "limit", "measured"))
    return (
        f"{found['device']:12} {' '.join(f'{size:10.0f}' for size in sizes)} "
        f"{found['predicted_bytes'] / 2**20:10.0f} {found['time_ratio']:8.2f} "
        f"{found['slowdown']:10.2f} {found['loss_deviation']:10.1e}\n"
        f"             {found['plan']}\n             measured by: {found['method']}"
    )


def main() -> int:
    """Measure the backends asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["opencl", "torch", "jax"])
    parser.add_argument("--variant", default="2012", choices=("2012", "torchvision"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.6, help="of the unplanned peak")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    print(
        f"AlexNet {options.variant}, batch {options.batch_size}, float32; MiB\n"
        f"{'backend':12} {'unplanned':>10} {'limit':>10} {'measured':>10} {'predicted':>10} "
        f"{'time x':>8} {'predicted':>10} {'loss dev.':>10}"
    )
    results = []
    for device in options.backends:
        results.append(
            measure(
                device,
                options.share,
                options.rounds,
                variant=options.variant,
                batch_size=options.batch_size,
            )
        )
        print(line(results[-1]), flush=True)
    if options.json:
        from accelkit.bench.report import write_json

        write_json(options.json, results, allow_nan=True)
    kept = all(r["measured_bytes"] <= r["limit_bytes"] for r in results)
    print(f"limits {'kept' if kept else 'EXCEEDED'}")
    return int(not kept)


if __name__ == "__main__":
    raise SystemExit(main())
