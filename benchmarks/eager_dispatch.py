"""What one eager operation costs beyond the framework's own call.

Run it as ``python -m benchmarks.eager_dispatch``. Each pair, the same addition through accelkit
and through the framework, is timed in turns, on arrays so small that the arithmetic is nothing.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

import accelkit as ak

__all__ = ["main", "overhead_us"]

ROUNDS = 500  # short ones: the best of them was not disturbed
CALLS = 100


def _native_add(backend: str) -> Callable[[Any, Any], Any]:
    if backend == "torch":
        import torch

        return torch.add
    return np.add


def overhead_us(backend: str) -> tuple[float, float]:
    """Best microseconds of one addition through accelkit, and of the native one."""
    a = ak.asarray(np.ones((4, 4), np.float32), device=backend)
    b = ak.asarray(np.ones((4, 4), np.float32), device=backend)
    x, y = a.native, b.native
    add, native = ak.add, _native_add(backend)
    np.testing.assert_array_equal(ak.add(a, b).numpy(), np.full((4, 4), 2.0))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(timeit.timeit(lambda: add(a, b), number=CALLS) / CALLS)
        theirs.append(timeit.timeit(lambda: native(x, y), number=CALLS) / CALLS)
    return min(ours) * 1e6, min(theirs) * 1e6


def main() -> None:
    """Print one line per backend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", nargs="+", default=["numpy", "torch"])
    for backend in parser.parse_args().backend:
        ours, theirs = overhead_us(backend)
        print(
            f"{backend:6}  add through accelkit {ours:6.2f} us, native {theirs:6.2f} us, "
            f"difference {ours - theirs:6.2f} us"
        )


if __name__ == "__main__":
    main()
