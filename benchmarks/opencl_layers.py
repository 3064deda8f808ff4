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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

import accelkit as ak
from accelkit.primitives import get

__all__ = ["LAYERS", "Layer", "Row", "main"]


class Layer(NamedTuple):
    """A convolution of AlexNet, torchvision's variant."""

    name: str
    size: int
    channels: int
    features: int
    kernel: int
    stride: int
    padding: int

    @property
    def out_size(self) -> int:
        """Height and width of its result."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1


LAYERS = (
    Layer("conv1", 224, 3, 64, 11, 4, 2),
    Layer("conv2", 27, 64, 192, 5, 1, 2),
    Layer("conv3", 13, 192, 384, 3, 1, 1),
    Layer("conv4", 13, 384, 256, 3, 1, 1),
    Layer("conv5", 13, 256, 256, 3, 1, 1),
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


class Convolution:
    """A layer's forward product and both gradients, on the device and by torch."""

    def __init__(self, device: Device, layer: Layer, batch: int) -> None:
        rng = np.random.default_rng(0)
        shapes = (
            (batch, layer.size, layer.size, layer.channels),
            (layer.kernel, layer.kernel, layer.channels, layer.features),
            (batch, layer.out_size, layer.out_size, layer.features),
        )
        x, w, g = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        self.layer = layer
        self.gigaflop = 2 * g.size * layer.channels * layer.kernel**2 / 1e9
        self._device = device
        self._x, self._w, self._g = map(device.put, (x, w, g))
        self._torch_x, self._torch_g = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, g))
        weights = torch.from_numpy(w).permute(3, 2, 0, 1)
        self._torch_w = weights.contiguous(memory_format=torch.channels_last)

    def rows(self, rounds: int) -> Iterator[Row]:
        """One for each product; its result is checked before it is timed."""
        layer, x, w, g = self.layer, self._x, self._w, self._g
        window, image = (layer.kernel,) * 2, (layer.size,) * 2
        yield self._row("forward", "conv2d", [x, w], {}, self._forward, rounds)
        yield self._row(
            "weight gradient",
            "conv2d_weight_grad",
            [x, g],
            {"kernel_size": window},
            self._weight_gradient,
            rounds,
        )
        if layer.channels > 3:  # nobody needs the gradient of the data
            yield self._row(
                "input gradient",
                "conv2d_input_grad",
                [g, w],
                {"image_size": image},
                self._input_gradient,
                rounds,
            )

    def _row(
        self,
        kind: str,
        primitive: str,
        arrays: list[Any],
        parameters: dict[str, Any],
        rival: Callable[[], torch.Tensor],
        rounds: int,
    ) -> Row:
        layer = self.layer
        name = f"{layer.name} {kind}"
        geometry = {
            "strides": (layer.stride,) * 2,
            "padding": ((layer.padding,) * 2,) * 2,
            "dilation": (1, 1),
            "groups": 1,
        }
        ours, result = self._device.runner(primitive, arrays, {**geometry, **parameters})
        order = (2, 3, 1, 0) if primitive == "conv2d_weight_grad" else (0, 2, 3, 1)
        check(name, result(), rival().permute(*order).numpy())
        return Row(name, self.gigaflop, *in_turns(ours, rival, rounds))

    def _forward(self) -> torch.Tensor:
        layer = self.layer
        return torch.conv2d(self._torch_x, self._torch_w, None, layer.stride, layer.padding)

    def _input_gradient(self) -> torch.Tensor:
        return self._backward([True, False, False])[0]

    def _weight_gradient(self) -> torch.Tensor:
        return self._backward([False, True, False])[1]

    def _backward(self, mask: list[bool]) -> Any:
        stride, padding = [self.layer.stride] * 2, [self.layer.padding] * 2
        operands = self._torch_g, self._torch_x, self._torch_w
        return torch.ops.aten.convolution_backward(
            *operands, None, stride, padding, [1, 1], False, [0, 0], 1, mask
        )


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
    layers = [
        row
        for layer in LAYERS
        for row in Convolution(device, layer, options.batch_size).rows(options.rounds)
    ]
    for row in (*products, *layers):
        print(row)
    total = [sum(getattr(r, field) for r in layers) for field in ("gigaflop", "ours_s", "rival_s")]
    print(Row("all convolutions", *total))


if __name__ == "__main__":
    main()
