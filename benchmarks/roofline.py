"""What the machine can do at most: measured peaks, and programs and primitives below them.

The peak of arithmetic is the best of several large float32 matrix products, by NumPy's BLAS and
by torch where it is installed; the peak of bandwidth is the best of copies of memory far larger
than any cache, one slice per thread, counting what is read and what is written.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.processes import environment

__all__ = ["markdown", "measure_machine"]

_SIZES: Final = (1024, 2048)
_COPIED_BYTES: Final = 256 * 2**20
_ROUNDS: Final = 8


def measure_machine(threads: int, *, quick: bool = False) -> dict[str, Any]:
    """The machine's peaks, measured in a process of its own with so many threads.

    Returns:
        ``peak_flops``, ``peak_bytes_per_s``, and ``products``: FLOP/s by library and size.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.roofline", str(threads), "2" if quick else str(_ROUNDS)],
        env=os.environ | environment(threads),
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def markdown(machine: Mapping[str, Any]) -> str:
    """The section's text."""
    return (
        "## The machine\n\n"
        f"Measured peaks: {machine['peak_flops'] / 1e9:,.0f} GFLOP/s in float32 matrix products, "
        f"{machine['peak_bytes_per_s'] / 1e9:,.1f} GB/s in copies.\n\n![roofline](roofline.png)"
    )


def _best(function: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _products(rounds: int, threads: int) -> dict[str, float]:
    found = {}
    generator = np.random.default_rng(0)
    for size in _SIZES:
        a, b = (generator.standard_normal((size, size), np.float32) for _ in range(2))
        out = np.empty_like(a)
        seconds = _best(lambda a=a, b=b, out=out: np.matmul(a, b, out=out), rounds)
        found[f"numpy {size}"] = 2 * size**3 / seconds
        if importlib.util.find_spec("torch") is not None:
            import torch

            torch.set_num_threads(threads)
            x, y, z = map(torch.from_numpy, (a, b, out))
            seconds = _best(lambda x=x, y=y, z=z: torch.mm(x, y, out=z), rounds)
            found[f"torch {size}"] = 2 * size**3 / seconds
    return found


def _copies(rounds: int, threads: int) -> float:
    count = _COPIED_BYTES // 4 // threads
    source = [np.ones(count, np.float32) for _ in range(threads)]
    target = [np.zeros(count, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        # NumPy releases the interpreter's lock while it copies.
        seconds = _best(lambda: list(pool.map(np.copyto, target, source)), rounds)
    return 2 * 4 * count * threads / seconds


def _main() -> None:
    threads, rounds = int(sys.argv[1]), int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    products = _products(rounds, threads)
    copies = _copies(rounds, threads)
    found = {"peak_flops": max(products.values()), "peak_bytes_per_s": copies}
    print(json.dumps({**found, "products": products}))


if __name__ == "__main__":
    _main()
