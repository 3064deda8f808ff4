"""What every program of the benchmark computes: a network, a batch that stays on the device, and
either a training step or an evaluation of the loss.

Training is SGD with momentum and weight decay in PyTorch's form: ``g += wd*p; v = mu*v + g;
p -= lr*v``, on all weights alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks import networks
from benchmarks.architecture import Network

__all__ = ["MODELS", "WORKLOADS", "Workload", "named"]

# By name: a function of the image size, the width and the dropout rate; None is the model's own.
_Build = Callable[..., Network]
MODELS: Final[dict[str, tuple[_Build, frozenset[str]]]] = {
    "alexnet": (networks.alexnet, frozenset({"image_size", "width", "rate"})),
    "alexnet-2012": (networks.alexnet_2012, frozenset({"image_size", "width", "rate"})),
    "resnet18": (networks.resnet18, frozenset({"image_size", "width"})),
    "vit-tiny": (
        lambda **options: networks.vit("tiny", **options),
        frozenset({"image_size", "rate"}),
    ),
    "vit-micro": (
        lambda **options: networks.vit("micro", **options),
        frozenset({"image_size", "rate"}),
    ),
    "mlp": (networks.mlp, frozenset()),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """One problem.

    Attributes:
        model: A key of ``MODELS``.
        batch_size: Examples per step.
        threads: CPU threads that the program may use.
        task: ``"train"`` (forward, backward, update) or ``"infer"`` (forward and loss).
        image_size: Height and width of the images, in pixels; None for the model's own.
        width: Scale of channel counts, where the model can be scaled; None for 1.
        dropout: Whether training drops; without, losses of all programs can be compared.
        learning_rate, momentum, weight_decay: Of SGD.
        seed: Of the weights and the batch.
    """

    model: str
    batch_size: int
    threads: int
    task: str = "train"
    image_size: int | None = None
    width: float | None = None
    dropout: bool = True
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    @property
    def is_training(self) -> bool:
        """Whether a step updates the weights."""
        return self.task == "train"

    def network(self) -> Network:
        """The network; its dropout rates are 0 where nothing drops."""
        build, accepted = MODELS[self.model]
        options: dict[str, Any] = {"image_size": self.image_size, "width": self.width}
        if not (self.dropout and self.is_training):
            options["rate"] = 0.0
        given = {k: v for k, v in options.items() if v is not None and k in accepted}
        return build(**given)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch of inputs, NHWC for images."""
        return (self.batch_size, *self.network().input_shape)

    def weights(self) -> dict[str, np.ndarray]:
        """Initial weights: He normal kernels, small normal biases, scales near 1; float32.

        The last layer's kernel is ten times smaller, so that the loss begins near log(classes).
        """
        generator = np.random.default_rng(self.seed)
        shapes = self.network().weight_shapes()
        last = [name for name in shapes if name.endswith(".weight")][-1]
        weights = {}
        for name, shape in shapes.items():
            is_kernel = name.endswith(".weight")
            scale = math.sqrt(2.0 / math.prod(shape[:-1])) if is_kernel else 0.01
            if name == last:
                scale *= 0.1
            values = generator.standard_normal(shape, np.float32) * np.float32(scale)
            weights[name] = values + np.float32(1.0 if name.endswith(".scale") else 0.0)
        return weights

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (float32, unit variance) and labels (int32)."""
        generator = np.random.default_rng(self.seed + 1)
        inputs = generator.standard_normal(self.input_shape, np.float32)
        classes = self.network().classes
        return inputs, generator.integers(0, classes, self.batch_size, np.int32)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.network().weight_shapes().values())

    @property
    def flops_per_step(self) -> int:
        """Operations of all convolutions and matrix products, a multiply-add counted as two.

        The backward pass costs twice the forward one, but for the first layer, whose input
        needs no gradient.
        """
        counts = self.network().multiply_adds()
        total = 3 * sum(counts) - counts[0] if self.is_training else sum(counts)
        return 2 * self.batch_size * total

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values; ``Workload(**...)`` reads it back."""
        return dataclasses.asdict(self)


# Batch sizes that a CPU of two cores steps through in about half a second.
WORKLOADS: Final[dict[str, dict[str, Any]]] = {
    "alexnet-train": {"model": "alexnet", "batch_size": 32},
    "alexnet-infer": {"model": "alexnet", "batch_size": 32, "task": "infer"},
    "alexnet-2012-train": {"model": "alexnet-2012", "batch_size": 16},
    "alexnet-2012-infer": {"model": "alexnet-2012", "batch_size": 16, "task": "infer"},
    "resnet18-train": {"model": "resnet18", "batch_size": 8},
    "resnet18-infer": {"model": "resnet18", "batch_size": 8, "task": "infer"},
    "vit-train": {"model": "vit-tiny", "batch_size": 8},
    "vit-infer": {"model": "vit-tiny", "batch_size": 8, "task": "infer"},
    "mlp-train": {"model": "mlp", "batch_size": 32},
    "mlp-infer": {"model": "mlp", "batch_size": 32, "task": "infer"},
}
# The same programs where seconds have to do: `--quick`, the check of losses, and the tests.
_SMALL: Final[dict[str, dict[str, Any]]] = {
    "alexnet": {"image_size": 95, "width": 1 / 8},
    "alexnet-2012": {"image_size": 99, "width": 1 / 8},
    "resnet18": {"image_size": 64, "width": 1 / 4},
    "vit-tiny": {"model": "vit-micro", "image_size": 32},
    "vit-micro": {"image_size": 32},
    "mlp": {},
}


def named(name: str, threads: int, batch_size: int | None = None) -> Workload:
    """A workload of ``WORKLOADS``, perhaps with another batch size."""
    workload = Workload(threads=threads, **WORKLOADS[name])
    return workload if batch_size is None else dataclasses.replace(workload, batch_size=batch_size)


def small(workload: Workload) -> Workload:
    """The same layers with fewer channels and pixels, and a batch of at most 8."""
    changes = _SMALL[workload.model]
    return dataclasses.replace(workload, batch_size=min(8, workload.batch_size), **changes)
