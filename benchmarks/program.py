"""The interface of the measured programs, and the list of them.

A program is a module with ``build(workload, weights) -> Program`` and ``version() -> str``.
Nothing in ``benchmarks/native`` and ``benchmarks/peers`` uses accelkit.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.workload import Workload

__all__ = ["KINDS", "PROGRAMS", "Program", "ProgramEntry"]

KINDS: Final = ("native", "peer", "accelkit")


class Program(Protocol):
    """A step that is ready to run, with its state."""

    def step(self) -> Any:
        """Start one step; return its loss, of which ``float`` waits. Does not wait itself."""

    def finish(self) -> None:
        """Wait until all started steps are done."""


@dataclass(frozen=True)
class ProgramEntry:
    """How to find and describe a program.

    Attributes:
        kind: ``"native"`` (hand-written in a framework), ``"peer"`` or ``"accelkit"``.
        group: What it runs on: programs of one group are compared with each other.
        module: Its module.
        requires: Importable names that it needs.
        label: For tables.
        arguments: Further keyword arguments of the module's ``build`` and ``version``.
        variables: Environment variables of its process, as a function: they may depend on what
            is installed.
        command: A command that must be there, or None.
        warm_up_steps: Steps before it runs at full speed, the first included.
    """

    kind: str
    group: str
    module: str
    requires: tuple[str, ...]
    label: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    variables: Callable[[], dict[str, str]] = dict
    command: str | None = None
    warm_up_steps: int = 2

    def missing(self) -> str | None:
        """Why the program cannot run here, or None."""
        for name in self.requires:
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed"
        if self.command is not None and shutil.which(self.command) is None:
            return f"the command {self.command} is not installed"
        return None

    def version(self) -> str:
        """Name and version of what it runs on."""
        found: str = importlib.import_module(self.module).version(**dict(self.arguments))
        return found

    def builder(self) -> Callable[[Workload, dict[str, np.ndarray]], Program]:
        """The module's ``build`` with this entry's arguments."""
        build = importlib.import_module(self.module).build
        return lambda workload, weights: build(workload, weights, **dict(self.arguments))


def _native(group: str, module: str, label: str) -> ProgramEntry:
    return ProgramEntry("native", group, f"benchmarks.native.{module}", (group,), label)


def _keras(backend: str, label: str) -> ProgramEntry:
    return ProgramEntry(
        "peer",
        backend,
        "benchmarks.peers.keras_program",
        ("keras", backend),
        f"Keras 3 on {label}",
        variables=lambda: {"KERAS_BACKEND": backend},
    )


def _opencl_library() -> dict[str, str]:
    """tinygrad on the OpenCL loader that pyopencl brings, and so on the same drivers."""
    variables = {"DEV": "CL"}
    spec = importlib.util.find_spec("pyopencl")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / ".libs"
        for library in sorted(folder.glob("libOpenCL-*.so*")):
            variables["OPENCL_PATH"] = str(library)
    return variables


def _accelkit(backend: str, framework: str, label: str) -> ProgramEntry:
    return ProgramEntry(
        "accelkit",
        backend,
        "benchmarks.accelkit_program",
        (framework,),
        f"accelkit on {label}",
        {"backend": backend},
    )


_TINYGRAD: Final = "benchmarks.peers.tinygrad_program"

PROGRAMS: Final[dict[str, ProgramEntry]] = {
    "torch-eager": _native("torch", "torch_eager", "PyTorch eager, NCHW, default SGD"),
    "torch-channels-last": _native(
        "torch", "torch_channels_last", "PyTorch eager, channels_last, fused SGD"
    ),
    "torch-compile": _native(
        "torch", "torch_compile", "PyTorch torch.compile, channels_last, fused SGD"
    ),
    "jax-jit": _native("jax", "jax_jit", "JAX jit, NHWC, donated"),
    "tensorflow-xla": _native("tensorflow", "tensorflow_xla", "TensorFlow function, XLA"),
    "tensorflow-graph": _native(
        "tensorflow", "tensorflow_graph", "TensorFlow function, graph mode"
    ),
    "keras-torch": _keras("torch", "PyTorch"),
    "keras-jax": _keras("jax", "JAX"),
    "keras-tensorflow": _keras("tensorflow", "TensorFlow"),
    "tinygrad-opencl": ProgramEntry(
        "peer",
        "opencl",
        _TINYGRAD,
        ("tinygrad", "pyopencl"),
        "tinygrad on OpenCL",
        variables=_opencl_library,
        warm_up_steps=3,
    ),
    "tinygrad-cpu": ProgramEntry(
        "peer",
        "clang",
        _TINYGRAD,
        ("tinygrad",),
        "tinygrad on its CPU device (clang)",
        variables=lambda: {"DEV": "CPU"},
        command="clang",
        warm_up_steps=3,
    ),
    "accelkit-torch": _accelkit("torch", "torch", "PyTorch"),
    "accelkit-jax": _accelkit("jax", "jax", "JAX"),
    "accelkit-tensorflow": _accelkit("tensorflow", "tensorflow", "TensorFlow"),
    "accelkit-opencl": _accelkit("opencl", "pyopencl", "OpenCL"),
    "accelkit-numpy": _accelkit("numpy", "numpy", "NumPy"),
}
