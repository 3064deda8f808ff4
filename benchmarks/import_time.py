"""How long ``import accelkit`` takes beyond ``import numpy``.

Both are imported in fresh processes with their bytecode cached, one behind the other, so that a
busy machine slows both alike. The figure is the processor time of the importing thread: imports
wait for nothing once their files are cached, and the threads that NumPy's BLAS starts spin for
some 25 ms before they sleep, which the time of the whole process would count as accelkit's. The
bound of the design is 30 ms over NumPy; the exit status is 1 when the median passes it.

    python -m benchmarks.import_time --repeats 30
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BUDGET_MS = 30.0
_PROGRAM = """
import time
start = time.thread_time()
import numpy
middle = time.thread_time()
import accelkit
end = time.thread_time()
print((middle - start) * 1e3, (end - middle) * 1e3)
"""


def measure(repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each import of NumPy, and of what accelkit adds to it."""
    numpy_ms, accelkit_ms = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for repeat in range(repeats + 1):
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            first, second = map(float, done.stdout.split())
            if repeat:  # the first run writes the bytecode
                numpy_ms.append(first)
                accelkit_ms.append(second)
    return numpy_ms, accelkit_ms


def main() -> int:
    """Measure, print, and compare with the budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    numpy_ms, accelkit_ms = measure(parser.parse_args().repeats)
    for name, samples in (("numpy", numpy_ms), ("accelkit, on top", accelkit_ms)):
        low, _, high = statistics.quantiles(samples, n=4)
        print(
            f"{name:18} median {statistics.median(samples):6.1f} ms   "
            f"min {min(samples):6.1f}   quartiles {low:.1f} to {high:.1f}"
        )
    extra = statistics.median(accelkit_ms)
    print(f"budget {BUDGET_MS:.0f} ms: {'kept' if extra <= BUDGET_MS else 'EXCEEDED'}")
    return int(extra > BUDGET_MS)


if __name__ == "__main__":
    raise SystemExit(main())
