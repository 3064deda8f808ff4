"""The interface of the measured programs, and the list of them.

A program is a module with ``build(workload, weights) -> Program`` and ``version() -> str``.
Nothing in ``benchmarks/native`` uses accelkit.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.workload import Workload

__all__ = ["PROGRAMS", "Program", "ProgramEntry"]


class Program(Protocol):
    """A training step that is ready to run, with its state."""

    def step(self) -> Any:
        """Start one training step; return its loss, a device scalar. Does not wait."""

    def finish(self) -> None:
        """Wait until all started steps are done."""


@dataclass(frozen=True)
class ProgramEntry:
    """How to find and describe a program.

    Attributes:
        module: Its module.
        framework: The importable name that it needs.
        label: For the table.
        rival: The program that it is compared with: the best of its framework; None for none.
        arguments: Further keyword arguments of the module's ``build`` and ``version``.
    """

    module: str
    framework: str
    label: str
    rival: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Why the program cannot run here, or None."""
        if importlib.util.find_spec(self.framework) is None:
            return f"{self.framework} is not installed"
        return None

    def version(self) -> str:
        """Name and version of what it runs on."""
        found: str = importlib.import_module(self.module).version(**dict(self.arguments))
        return found

    def builder(self) -> Callable[[Workload, dict[str, np.ndarray]], Program]:
        """The module's ``build`` with this entry's arguments."""
        build = importlib.import_module(self.module).build
        return lambda workload, weights: build(workload, weights, **dict(self.arguments))


def _accelkit(backend: str, rival: str) -> ProgramEntry:
    return ProgramEntry(
        "benchmarks.accelkit_program", backend, f"accelkit, {backend}", rival, {"backend": backend}
    )


PROGRAMS: Final[dict[str, ProgramEntry]] = {
    "torch-eager": ProgramEntry(
        "benchmarks.native.torch_eager", "torch", "PyTorch eager, NCHW, default SGD"
    ),
    "torch-channels-last": ProgramEntry(
        "benchmarks.native.torch_channels_last",
        "torch",
        "PyTorch eager, channels_last, fused SGD",
    ),
    "torch-compile": ProgramEntry(
        "benchmarks.native.torch_compile", "torch", "PyTorch torch.compile, fused SGD"
    ),
    "jax-jit": ProgramEntry("benchmarks.native.jax_jit", "jax", "JAX jit, NHWC, donated"),
    "tensorflow-xla": ProgramEntry(
        "benchmarks.native.tensorflow_xla", "tensorflow", "TensorFlow function, XLA"
    ),
    "tensorflow-graph": ProgramEntry(
        "benchmarks.native.tensorflow_graph", "tensorflow", "TensorFlow function, graph mode"
    ),
    "accelkit-torch": _accelkit("torch", rival="torch-channels-last"),
    "accelkit-jax": _accelkit("jax", rival="jax-jit"),
    "accelkit-tensorflow": _accelkit("tensorflow", rival="tensorflow-xla"),
}
