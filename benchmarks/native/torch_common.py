"""What the PyTorch programs share: the networks as modules, and the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import architecture as arch
from benchmarks.workload import Workload

__all__ = ["EvaluationProgram", "TrainingProgram", "prepare", "program", "sgd", "version"]


def version() -> str:
    """The framework's version."""
    return f"torch {torch.__version__}"


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


class Patches(nn.Module):
    """NCHW images as a sequence of patches, each in the order (row, column, channel)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        p = arch.PATCH
        grid = x.reshape(n, channels, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
        return grid.reshape(n, (height // p) * (width // p), p * p * channels)


class Tokens(nn.Module):
    """A learned token in front, and a learned position added to each."""

    def __init__(self, layer: arch.Tokens) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, layer.features))
        self.positions = nn.Parameter(torch.empty(1, layer.length + 1, layer.features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions


class Attention(nn.Module):
    """Self-attention with one product for queries, keys and values."""

    def __init__(self, layer: arch.Attention) -> None:
        super().__init__()
        self.heads = layer.heads
        self.joined = nn.Linear(layer.features, 3 * layer.features)
        self.output = nn.Linear(layer.features, layer.features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, features = x.shape
        joined = self.joined(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*joined.unbind(0))
        return self.output(mixed.transpose(1, 2).reshape(n, length, features))


class FirstToken(nn.Module):
    """The first of the sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def _module(layer: arch.Layer) -> nn.Module:
    match layer:
        case arch.Convolution(_, inputs, outputs, kernel, stride, padding, groups, bias):
            return nn.Conv2d(
                inputs, outputs, kernel, stride, padding, groups=groups, bias=bias
            )  # fmt: skip
        case arch.Dense(_, inputs, outputs):
            return nn.Linear(inputs, outputs)
        case arch.BatchNorm(_, features):
            return nn.BatchNorm2d(features)
        case arch.LayerNorm(_, features):
            return nn.LayerNorm(features, eps=1e-6)
        case arch.LocalResponseNorm():
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha
        case arch.Relu():
            return nn.ReLU(inplace=True)
        case arch.Gelu():
            return nn.GELU()
        case arch.Dropout(rate):
            return nn.Dropout(rate)
        case arch.MaxPool(padding):
            return nn.MaxPool2d(layer.kernel, layer.stride, padding)
        case arch.AdaptiveAveragePool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case arch.GlobalAveragePool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case arch.Flatten():
            return nn.Flatten()
        case arch.Patches():
            return Patches()
        case arch.Tokens():
            return Tokens(layer)
        case arch.FirstToken():
            return FirstToken()
        case arch.Attention():
            return Attention(layer)
        case arch.Residual(body, shortcut):
            return Residual(_sequence(body), _sequence(shortcut))
    raise TypeError(f"no module for {layer}")


def _sequence(layers: Sequence[arch.Layer]) -> nn.Sequential:
    return nn.Sequential(*map(_module, layers))


def _owners(
    modules: nn.Sequential, layers: Sequence[arch.Layer]
) -> Iterator[tuple[nn.Module, arch.Layer]]:
    """Every layer beside its module, bodies before shortcuts."""
    for module, layer in zip(modules, layers, strict=True):
        if isinstance(layer, arch.Residual):
            yield from _owners(module.body, layer.body)
            yield from _owners(module.shortcut, layer.shortcut)
        else:
            yield module, layer


def _values(
    layer: arch.Layer, weights: dict[str, torch.Tensor], flat: arch.Flatten | None
) -> list[torch.Tensor]:
    """A layer's weights in torch's layouts, in the order of its module's parameters."""
    own = {part: weights[f"{layer.name}.{part}"] for part in layer.weights()}
    match layer:
        case arch.Convolution():
            own["weight"] = own["weight"].permute(3, 2, 0, 1)
        case arch.Dense():
            weight = own["weight"]
            if flat is not None:
                # Our rows run over (height, width, channel), torch's over (channel, ...).
                weight = weight.view(flat.height, flat.width, -1, layer.outputs)
                weight = weight.permute(2, 0, 1, 3).reshape(-1, layer.outputs)
            own["weight"] = weight.t()
        case arch.Attention():
            joined = [
                torch.cat([own[f"{part}.{kind}"] for part in ("query", "key", "value")], dim=-1)
                for kind in ("weight", "bias")
            ]
            last = [own["output.weight"], own["output.bias"]]
            return [joined[0].t(), joined[1], last[0].t(), last[1]]
    return list(own.values())


def _load(model: nn.Sequential, workload: Workload, arrays: dict[str, np.ndarray]) -> None:
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    flat = None
    with torch.no_grad():
        for module, layer in _owners(model, workload.network().layers):
            if isinstance(layer, arch.Flatten):
                flat = layer
            parameters = list(module.parameters())
            if parameters:
                for own, value in zip(parameters, _values(layer, weights, flat), strict=True):
                    own.copy_(value)
                flat = None


def prepare(
    workload: Workload,
    weights: dict[str, np.ndarray],
    *,
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """The model in its mode with its weights, and the batch (images in NCHW, in this layout)."""
    torch.set_num_threads(workload.threads)
    torch.manual_seed(workload.seed)
    model = _sequence(workload.network().layers).train(workload.is_training)
    _load(model, workload, weights)
    inputs, labels = map(torch.from_numpy, workload.batch())
    if inputs.ndim == 4:
        inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return model.to(memory_format=layout), inputs, labels.long()


class TrainingProgram:
    """The usual training loop's body."""

    def __init__(
        self,
        model: nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels
        self.optimizer = optimizer

    def step(self) -> torch.Tensor:
        """Forward, backward, update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.model(self.inputs), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def finish(self) -> None:
        """Nothing to wait for: on a CPU torch runs each operation before it returns."""


class EvaluationProgram:
    """Forward and loss."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels

    def step(self) -> torch.Tensor:
        """The loss."""
        with torch.inference_mode():
            return functional.cross_entropy(self.model(self.inputs), self.labels)

    def finish(self) -> None:
        """Nothing to wait for."""


def program(
    workload: Workload,
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    fused: bool = True,
) -> TrainingProgram | EvaluationProgram:
    """The workload's program; ``fused=False`` takes torch's default SGD for CPUs."""
    if not workload.is_training:
        return EvaluationProgram(model, inputs, labels)
    return TrainingProgram(model, inputs, labels, sgd(model, workload, fused=fused))


def sgd(model: nn.Module, workload: Workload, *, fused: bool) -> torch.optim.SGD:
    """The workload's optimizer."""
    return torch.optim.SGD(
        model.parameters(),
        lr=workload.learning_rate,
        momentum=workload.momentum,
        weight_decay=workload.weight_decay,
        fused=True if fused else None,
    )
