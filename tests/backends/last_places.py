"""What the tests of elementary functions share: samples, and errors in units of the last place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mpmath
import numpy as np
from accelkit_opencl.runtime import Runtime

import accelkit as ak

COUNT = 600  # samples of each range
DTYPES = (np.float32, np.float64)
SPECIAL = (
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    2.5,
    1e30,
)


def errors(found: np.ndarray, exact: list[mpmath.mpf]) -> Iterator[float]:
    """Distances in units of the last place of the exact results, where these are normal."""
    tiny = np.finfo(found.dtype).tiny
    for y, wanted in zip(found, exact, strict=True):
        if abs(wanted) < tiny:
            yield 0.0 if abs(y) <= 2 * tiny else float("inf")
            continue
        unit = np.spacing(np.abs(found.dtype.type(float(wanted))))
        yield float(abs(mpmath.mpf(float(y)) - wanted) / mpmath.mpf(float(unit)))


def on_device(runtime: Runtime, function: Callable[..., ak.Tensor], *x: np.ndarray) -> np.ndarray:
    device = str(runtime.device)
    found: np.ndarray = ak.jit(function)(*(ak.asarray(a, device=device) for a in x)).numpy()
    return found
