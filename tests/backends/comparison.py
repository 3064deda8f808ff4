"""Running a primitive on a backend, and comparing results with the NumPy backend's."""

from __future__ import annotations

from typing import Any

import numpy as np
from accelkit_numpy import NumpyBackend
from backends.primitive_cases import Case

from accelkit.backend import Backend
from accelkit.passes.inline import definition_graph, inline_composites
from accelkit.primitives import get

REFERENCE = NumpyBackend()
# The largest allowed deviation max|a - b| / max|b|, a few roundings for these small operands.
DEVIATION = {"float64": 1e-13, "float32": 2e-6, "float16": 3e-3, "bfloat16": 3e-2}


def run(backend: Backend, case: Case) -> list[np.ndarray]:
    """The results of a case on the backend's last device, as NumPy arrays."""
    primitive, device = get(case.primitive), backend.devices()[-1].device
    arrays = [backend.put(a, device) for a in case.arrays]
    if backend.supports(primitive, case.parameters):
        found = backend.run(primitive, arrays, case.parameters, device)
        found = found if primitive.multiple_outputs else (found,)
    else:
        specs = [backend.spec(a) for a in arrays]
        graph = definition_graph(primitive, specs, case.parameters)
        found = backend.compile(inline_composites(graph, backend), device)(arrays)
    expected = primitive.infer([backend.spec(a) for a in arrays], case.parameters)
    assert [backend.spec(a) for a in found] == list(expected)
    for before, array in zip(case.arrays, arrays, strict=True):
        np.testing.assert_array_equal(
            _wide(backend.get(array)), _wide(before)
        )  # operands are left alone
    return [backend.get(a) for a in found]


def assert_close(found: np.ndarray, expected: np.ndarray, *, exact: bool) -> None:
    """Same shape, dtype, infinities and NaN, and values within the deviation of the dtype."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if exact or expected.dtype.kind in "biu":
        np.testing.assert_array_equal(_wide(found), _wide(expected))
        return
    a, b = _wide(found), _wide(expected)
    ordinary = np.isfinite(b)
    np.testing.assert_array_equal(a[~ordinary], b[~ordinary])
    if ordinary.any():
        largest = max(np.abs(b[ordinary]).max(), 1e-30)
        deviation = np.abs(a[ordinary] - b[ordinary]).max() / largest
        assert deviation <= DEVIATION[expected.dtype.name]


def _wide(array: np.ndarray) -> Any:
    return array.astype(np.float64) if array.dtype.kind in "fV" else array
