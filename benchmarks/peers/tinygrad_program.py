"""tinygrad: a ``TinyJit`` step on the device that DEV names."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

with contextlib.suppress(ImportError):
    import pyopencl  # noqa: F401 shows the OpenCL loader the drivers that come as wheels

from tinygrad import Context, Device, Tensor, TinyJit
from tinygrad.nn import BatchNorm, optim

from benchmarks import architecture as arch
from benchmarks.workload import Workload

__all__ = ["build", "version"]

Function = Callable[[Tensor], Tensor]


def version() -> str:
    """tinygrad's version and device."""
    return f"tinygrad {importlib.metadata.version('tinygrad')}, {Device.DEFAULT}"


class _Builder:
    """Makes a function of every layer; images are NCHW, as tinygrad has them."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.parameters: list[Tensor] = []
        self._flat: arch.Flatten | None = None

    def sequence(self, layers: Sequence[arch.Layer]) -> Function:
        """All layers in a row."""
        functions = [self.function(layer) for layer in layers]

        def run(x: Tensor) -> Tensor:
            for function in functions:
                x = function(x)
            return x

        return run

    def function(self, layer: arch.Layer) -> Function:
        """One layer."""
        match layer:
            case arch.Convolution(name, _, _, _, stride, padding, groups, bias):
                kernel = self._parameter(f"{name}.weight", lambda a: a.transpose(3, 2, 0, 1))
                offset = self._parameter(f"{name}.bias") if bias else None
                return lambda x: x.conv2d(kernel, offset, groups, stride, padding=padding)
            case arch.Dense(name):
                return self._dense(name)
            case arch.BatchNorm():
                return self._batch_norm(layer)
            case arch.LayerNorm(name):
                scale, shift = (self._parameter(f"{name}.{part}") for part in ("scale", "bias"))
                return lambda x: x.layernorm(eps=1e-6) * scale + shift
            case arch.LocalResponseNorm():
                return _local_response_norm
            case arch.Relu():
                return Tensor.relu
            case arch.Gelu():
                return lambda x: x.gelu("none")
            case arch.Dropout(rate):
                return lambda x: x.dropout(rate)
            case arch.MaxPool(padding):
                return lambda x: x.max_pool2d((3, 3), 2, padding=padding)
            case arch.AdaptiveAveragePool():
                return _adaptive_average_pool
            case arch.GlobalAveragePool():
                return lambda x: x.mean((2, 3))
            case arch.Flatten():
                self._flat = layer
                return lambda x: x.flatten(1)
            case arch.Patches():
                return _patches
            case arch.Tokens(name):
                token = self._parameter(f"{name}.class_token")
                positions = self._parameter(f"{name}.positions")
                return lambda x: token.expand(x.shape[0], -1, -1).cat(x, dim=1) + positions
            case arch.FirstToken():
                return lambda x: x[:, 0]
            case arch.Attention():
                return self._attention(layer)
            case arch.Residual(body, shortcut):
                long, short = self.sequence(body), self.sequence(shortcut)
                return lambda x: long(x) + short(x)
        raise TypeError(f"no function for {layer}")

    def _parameter(
        self, name: str, convert: Callable[[np.ndarray], np.ndarray] = lambda a: a
    ) -> Tensor:
        tensor = Tensor(np.ascontiguousarray(convert(self.weights[name]))).realize()
        self.parameters.append(tensor)
        return tensor

    def _dense(self, name: str) -> Function:
        def convert(array: np.ndarray) -> np.ndarray:
            flat, self._flat = self._flat, None
            if flat is not None:
                # Our rows run over (height, width, channel), NCHW's over (channel, ...).
                grid = array.reshape(flat.height, flat.width, -1, array.shape[1])
                array = grid.transpose(2, 0, 1, 3).reshape(array.shape)
            return array.T

        weight = self._parameter(f"{name}.weight", convert)
        bias = self._parameter(f"{name}.bias")
        return lambda x: x.linear(weight.transpose(), bias)

    def _batch_norm(self, layer: arch.BatchNorm) -> Function:
        norm = BatchNorm(layer.features)
        norm.weight = self._parameter(f"{layer.name}.scale")
        norm.bias = self._parameter(f"{layer.name}.bias")
        self.parameters += [norm.running_mean, norm.running_var]
        return norm

    def _attention(self, layer: arch.Attention) -> Function:
        query, key, value, output = (self._dense(f"{layer.name}.{p}") for p in layer.parts)

        def run(x: Tensor) -> Tensor:
            n, length, features = x.shape
            q, k, v = (
                f(x).reshape(n, length, layer.heads, -1).transpose(1, 2)
                for f in (query, key, value)
            )
            mixed = q.scaled_dot_product_attention(k, v)
            return output(mixed.transpose(1, 2).reshape(n, length, features))

        return run


def _local_response_norm(x: Tensor) -> Tensor:
    channels = x.shape[1]
    padded = x.square().pad(((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum((padded[:, i : i + channels] for i in range(1, 5)), start=padded[:, :channels])
    root = (2.0 + 1e-4 * total).rsqrt()
    return x * root * root.sqrt()


def _adaptive_average_pool(x: Tensor) -> Tensor:
    if x.shape[2] == arch.AdaptiveAveragePool.size:
        return x
    pool = Tensor(arch.pooling_matrix(x.shape[2]))
    return (pool @ x) @ pool.transpose()


def _patches(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    p = arch.PATCH
    grid = x.reshape(n, channels, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(n, (height // p) * (width // p), p * p * channels)


class TinygradProgram:
    """A jitted step on a batch that is on the device already."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray]) -> None:
        Tensor.manual_seed(workload.seed)
        builder = _Builder(weights)
        model = builder.sequence(workload.network().layers)
        inputs, labels = workload.batch()
        if inputs.ndim == 4:
            inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        self.batch = (Tensor(inputs).realize(), Tensor(labels).realize())
        optimizer = optim.SGD(
            builder.parameters,
            lr=workload.learning_rate,
            momentum=workload.momentum,
            weight_decay=workload.weight_decay,
        )

        @TinyJit
        def train(x: Tensor, y: Tensor) -> Tensor:
            with Context(TRAINING=1):
                optimizer.zero_grad()
                loss = model(x).sparse_categorical_crossentropy(y)
                loss.backward()
                return loss.realize(*optimizer.schedule_step())

        @TinyJit
        def evaluate(x: Tensor, y: Tensor) -> Tensor:
            return model(x).sparse_categorical_crossentropy(y).realize()

        self._function = train if workload.is_training else evaluate

    def step(self) -> Any:
        """One step; does not wait."""
        return _Loss(self._function(*self.batch))

    def finish(self) -> None:
        """Wait for everything that was started."""
        Device[Device.DEFAULT].synchronize()


class _Loss:
    """A loss as a number, read when it is asked for."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __float__(self) -> float:
        return float(self.tensor.item())


def build(workload: Workload, weights: dict[str, np.ndarray]) -> TinygradProgram:
    """Ready to step; the first two steps compile."""
    return TinygradProgram(workload, weights)
