"""What the PyTorch programs share: the models as modules, and a step of forward, backward, SGD."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.workload import Workload

__all__ = ["TorchProgram", "prepare", "sgd", "version"]


def version() -> str:
    """The framework's version."""
    return f"torch {torch.__version__}"


def _model(workload: Workload) -> nn.Sequential:
    layers: list[nn.Module] = []
    for conv in workload.convolutions:
        layers.append(nn.Conv2d(conv.inputs, conv.outputs, conv.kernel, conv.stride, conv.padding))
        layers.append(nn.ReLU(inplace=True))
        if conv.pool:
            layers.append(nn.MaxPool2d(3, stride=2))
    if workload.convolutions:
        layers += [nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten()]
    for dense in workload.dense:
        if dense.dropout:
            layers.append(nn.Dropout(workload.dropout))
        layers.append(nn.Linear(dense.inputs, dense.outputs))
        if dense.relu:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _load(model: nn.Sequential, workload: Workload, weights: dict[str, np.ndarray]) -> None:
    """Copy weights from (height, width, in, out) and (in, out) into torch's layouts."""
    owners = [module for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for module, layer in zip(owners, workload.layers, strict=True):
            weight = torch.from_numpy(weights[f"{layer.name}.weight"])
            if isinstance(module, nn.Conv2d):
                weight = weight.permute(3, 2, 0, 1)
            else:
                if workload.convolutions and layer.name == "dense1":
                    # Our rows run over (height, width, channel), torch's over (channel, ...).
                    weight = weight.view(6, 6, -1, layer.outputs).permute(2, 0, 1, 3)
                    weight = weight.reshape(-1, layer.outputs)
                weight = weight.t()
            module.weight.copy_(weight)
            assert module.bias is not None
            module.bias.copy_(torch.from_numpy(weights[f"{layer.name}.bias"]))


def prepare(
    workload: Workload, weights: dict[str, np.ndarray]
) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """The model in training mode with its weights, and the batch (images in NCHW)."""
    torch.set_num_threads(workload.threads)
    torch.manual_seed(workload.seed)
    model = _model(workload).train()
    _load(model, workload, weights)
    inputs, labels = map(torch.from_numpy, workload.batch())
    if inputs.ndim == 4:
        inputs = inputs.permute(0, 3, 1, 2)
    return model, inputs.contiguous(), labels.long()


class TorchProgram:
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


def sgd(model: nn.Module, workload: Workload, *, fused: bool) -> torch.optim.SGD:
    """The workload's optimizer; ``fused=False`` takes torch's default for CPUs."""
    return torch.optim.SGD(
        model.parameters(),
        lr=workload.learning_rate,
        momentum=workload.momentum,
        weight_decay=workload.weight_decay,
        fused=True if fused else None,
    )
