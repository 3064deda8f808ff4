"""OpenCL's matrix products and convolutions beside NumPy's and torch's.

Run it as ``python -m benchmarks.opencl_layers [--batch-size 32] [--rounds 10]``. Every product is
checked against the rival's result, then both are timed in turns in one process, so that a slow
spell of the machine hits both. Before its turn each side waits until the other's threads have gone
to sleep, since those of NumPy and torch go on spinning for a while after a product, and runs once
untimed; who is first changes from round to round. Ratios are formed between the medians. torch is
the rival for convolutions (channels_last), NumPy for matrix products. For kernels bound by memory
see :mod:`benchmarks.opencl_elementwise`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import accelkit as ak
from accelkit.primitives import get

__all__ = ["LAYERS", "Row", "main"]

# (name, image size, channels, features, filter, stride, padding): the torchvision variant.
LAYERS = (
    ("conv1", 224, 3, 64, 11, 4, 2),
    ("conv2", 27, 64, 192, 5, 1, 2),
    ("conv3", 13, 192, 384, 3, 1, 1),
    ("conv4", 13, 384, 256, 3, 1, 1),
    ("conv5", 13, 256, 256, 3, 1, 1),
)
DEVIATION = 1e-4  # of max|a - b| / max|b| between two float32 results
PAUSE_S = 0.06  # OpenBLAS's threads spin for 2^26 cycles before they sleep, others for less
TURN_S = 0.05  # of timed runs in one turn; two at least


class Row(NamedTuple):
    """One comparison; times are medians."""

    name: str
    gigaflop: float
    ours_s: float
    rival_s: float

    def __str__(self) -> str:
        ours, rival = (self.gigaflop / s for s in (self.ours_s, self.rival_s))
        return (
            f"{self.name:28} {self.ours_s * 1e3:8.2f} ms {ours:6.0f} GFLOP/s   "
            f"{self.rival_s * 1e3:8.2f} ms {rival:6.0f} GFLOP/s  {self.rival_s / self.ours_s:5.2f}x"
        )


def in_turns(ours: Callable[[], Any], rival: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of both, over ``rounds`` turns of each."""
    times: tuple[list[float], list[float]] = [], []
    sides = [(ours, times[0]), (rival, times[1])]
    for _ in range(rounds):
        for function, found in sides:
            time.sleep(PAUSE_S)
            function()
            found += _turn(function)
        sides.reverse()
    return statistics.median(times[0]), statistics.median(times[1])


def _turn(function: Callable[[], Any]) -> list[float]:
    """Seconds of some runs."""
    found: list[float] = []
    while len(found) < 2 or sum(found) < TURN_S:
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


class Device:
    """Compiled primitives on the OpenCL device, run to completion."""

    def __init__(self, name: str) -> None:
        self.device = ak.device(name)
        self.backend = ak.registry.backend("opencl")

    def put(self, array: np.ndarray) -> Any:
        """A native array."""
        return self.backend.put(array, self.device)

    def runner(
        self, primitive: str, arrays: list[Any], parameters: dict[str, Any]
    ) -> tuple[Callable[[], None], Callable[[], np.ndarray]]:
        """A function that runs a primitive and waits, and one that gives its result."""

        def run() -> Any:
            return self.backend.run(get(primitive), arrays, parameters, self.device)

        def timed() -> None:
            run()
            self.backend.synchronize(self.device)

        return timed, lambda: self.backend.get(run())


def check(name: str, ours: np.ndarray, rival: np.ndarray) -> None:
    """Refuse to time a wrong result."""
    deviation = float(np.abs(ours - rival).max() / np.abs(rival).max())
    if not deviation <= DEVIATION:
        raise AssertionError(f"{name}: results deviate by {deviation:.1e}.")


def convolution_rows(device: Device, batch: int, rounds: int) -> list[Row]:
    """Forward product and both gradients of every layer, against torch."""
    import torch

    rows = []
    rng = np.random.default_rng(0)
    for name, size, channels, features, kernel, stride, padding in LAYERS:
        out = (size + 2 * padding - kernel) // stride + 1
        shapes = (
            (batch, size, size, channels),
            (kernel, kernel, channels, features),
            (batch, out, out, features),
        )
        x, w, g = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        tx, tg = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, g))
        tw = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        pair = {"strides": (stride,) * 2, "padding": ((padding,) * 2,) * 2, "dilation": (1, 1)}
        common = {**pair, "groups": 1}
        dx, dw, dg = device.put(x), device.put(w), device.put(g)

        def backward(mask: list[bool], tg=tg, tx=tx, tw=tw, stride=stride, padding=padding) -> Any:
            found = torch.ops.aten.convolution_backward(
                tg, tx, tw, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
            )
            return next(f for f in found if f is not None)

        def forward(tx=tx, tw=tw, stride=stride, padding=padding) -> Any:
            return torch.conv2d(tx, tw, None, stride, padding)

        gigaflop = 2 * g.size * channels * kernel**2 / 1e9
        kinds: list[tuple[str, str, list[Any], dict[str, Any], Callable[[], Any], Any]] = [
            ("forward", "conv2d", [dx, dw], common, forward, (0, 2, 3, 1)),
            (
                "weight gradient",
                "conv2d_weight_grad",
                [dx, dg],
                {**common, "kernel_size": (kernel, kernel)},
                lambda backward=backward: backward([False, True, False]),
                (2, 3, 1, 0),
            ),
        ]
        if channels > 3:  # nobody needs the gradient of the data
            kinds.append(
                (
                    "input gradient",
                    "conv2d_input_grad",
                    [dg, dw],
                    {**common, "image_size": (size, size)},
                    lambda backward=backward: backward([True, False, False]),
                    (0, 2, 3, 1),
                )
            )
        for kind, primitive, arrays, parameters, rival, order in kinds:
            ours, result = device.runner(primitive, arrays, parameters)
            check(f"{name} {kind}", result(), rival().permute(*order).numpy())
            rows.append(Row(f"{name} {kind}", gigaflop, *in_turns(ours, rival, rounds)))
    return rows


def matmul_rows(device: Device, rounds: int) -> list[Row]:
    """Square products, against NumPy."""
    rows = []
    rng = np.random.default_rng(0)
    for size in (1024, 2048):
        a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        plain = {"transpose_a": False, "transpose_b": False}
        ours, result = device.runner("matmul", [device.put(a), device.put(b)], plain)
        check(f"sgemm {size}", result(), a @ b)
        times = in_turns(ours, lambda a=a, b=b: a @ b, rounds)
        rows.append(Row(f"sgemm {size}", 2 * size**3 / 1e9, *times))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    device = Device(options.device)
    print(f"{'':28} {'OpenCL':>27}   {'rival':>27}   OpenCL's rate / rival's")
    products = matmul_rows(device, options.rounds)
    layers = convolution_rows(device, options.batch_size, options.rounds)
    for row in (*products, *layers):
        print(row)
    total = [sum(getattr(r, field) for r in layers) for field in ("gigaflop", "ours_s", "rival_s")]
    print(Row("all convolutions", *total))


if __name__ == "__main__":
    main()
