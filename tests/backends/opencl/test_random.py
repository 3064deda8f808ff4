"""Random bits on the device: those of the reference, wherever a tensor starts and ends."""

from __future__ import annotations

import numpy as np
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit import dtypes
from accelkit.primitives import get

SIZES = (1, 5, 8193, 16388)  # around the words of a block and the blocks of a work-item
OFFSETS = (0, 3, (1 << 34) + 2)  # the last one past 2^32 blocks


def draw(key: ak.Tensor) -> tuple[ak.Tensor, ...]:
    """Every kind of random tensor, of all sizes and offsets: one program."""
    found = []
    for size in SIZES:
        for offset in OFFSETS:
            place = {"shape": (size,), "offset": offset}
            found.append(get("random_keep_mask")(key, rate=0.3, **place))
            for dtype in (dtypes.float32, dtypes.float64):
                found.append(get("random_uniform")(key, dtype=dtype, **place))
    return tuple(found)


def test_bits_are_those_of_the_reference(runtime: Runtime) -> None:
    key = np.array([4_000_000_007, 3_000_000_011], np.uint32)
    ours, reference = (
        ak.jit(draw)(ak.asarray(key, device=device)) for device in (str(runtime.device), "numpy")
    )
    assert len(ours) == 3 * len(SIZES) * len(OFFSETS)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
