"""Graphs as ahead-of-time compiled XLA programs."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from accelkit.backend import CompileOptions, Executable, evaluate
from accelkit.device import Device
from accelkit.errors import OptionError
from accelkit.graph import Graph, Node
from accelkit_jax.runtime import wide_types

__all__ = [
    "JaxExecutable",
    "compile_graph",
    "in_place_options",
    "precision",
    "preferred_options",
    "reusable",
]

# XLA's three levels: on GPUs the middle one is TF32, on TPUs three bfloat16 passes.
_PRECISIONS = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}


class JaxExecutable(Executable):
    """One compiled XLA program."""

    def __init__(self, graph: Graph, device: Device, program: Any, compile_time_s: float) -> None:
        self.graph = graph
        self.device = device
        self.compile_time_s = compile_time_s
        self._program = program

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        with wide_types():
            return list(self._program(*arrays))

    def temporary_memory_bytes(self) -> int | None:
        analysis = self._program.memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)


def compile_graph(
    graph: Graph,
    device: Device,
    native_device: jax.Device,
    implementation: Callable[[Node], Callable[..., Any]],
    donate: Iterable[int],
    options: CompileOptions,
) -> JaxExecutable:
    """Trace, lower and compile a prepared graph for one device. Call it in wide types."""
    start = time.perf_counter()
    sharding = SingleDeviceSharding(native_device)
    specs = [
        jax.ShapeDtypeStruct(v.spec.shape, v.spec.dtype.numpy, sharding=sharding)
        for v in graph.inputs
    ]

    def program(*arrays: Any) -> tuple[Any, ...]:
        return tuple(evaluate(graph, arrays, implementation))

    program.__name__ = program.__qualname__ = graph.name
    jitted = jax.jit(
        program, donate_argnums=reusable(graph, donate), out_shardings=sharding, keep_unused=True
    )
    traced = jitted.trace(*specs)
    xla_options = _compiler_options(native_device, options)
    if not _has_branches(traced.jaxpr.jaxpr):
        xla_options |= in_place_options(native_device)
    compiled = traced.lower().compile(xla_options or None)
    return JaxExecutable(graph, device, compiled, time.perf_counter() - start)


def _has_branches(jaxpr: Any) -> bool:
    """Whether a program has loops or conditionals, also in what it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("while", "scan", "cond"):
            return True
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and _has_branches(inner):
                return True
    return False


def reusable(graph: Graph, donate: Iterable[int]) -> tuple[int, ...]:
    """The donated inputs that have an output of their own shape and dtype to become.

    JAX warns of the others, and could not use them.
    """
    wanted = Counter(v.spec for v in graph.outputs)
    found = []
    for position in sorted(donate):
        spec = graph.inputs[position].spec
        if wanted[spec] > 0:
            wanted[spec] -= 1
            found.append(position)
    return tuple(found)


_CPU_OPTIONS: dict[str, Any] = {
    # XLA hands single convolutions to YNNPACK, whose weight gradients take two to five times as
    # long as Eigen's (AlexNet's, batch 32); for matrix products it is the better one.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
_CPU_IN_PLACE_OPTIONS: dict[str, Any] = {
    # Otherwise each parameter that the backward pass reads is copied before its update in place:
    # 244 MB per step of AlexNet. With loops it is wrong (jax 0.10.2): a result overwrites a donated
    # array that a later loop still reads.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}


@functools.cache
def preferred_options(native_device: jax.Device) -> dict[str, Any]:
    """Compiler options that make programs faster on a device, where its XLA knows them."""
    return _known(native_device, _CPU_OPTIONS)


@functools.cache
def in_place_options(native_device: jax.Device) -> dict[str, Any]:
    """Compiler options that save copies of donated arrays in programs without loops."""
    return _known(native_device, _CPU_IN_PLACE_OPTIONS)


def _known(native_device: jax.Device, options: dict[str, Any]) -> dict[str, Any]:
    if native_device.platform != "cpu":
        return {}
    return {k: v for k, v in options.items() if _is_known(native_device, {k: v})}


def _is_known(native_device: jax.Device, option: dict[str, Any]) -> bool:
    probe = jax.jit(lambda: 0, out_shardings=SingleDeviceSharding(native_device))
    try:
        probe.lower().compile(option)
    except Exception:  # an XLA that does not know the option says so in several ways
        return False
    return True


def _compiler_options(native_device: jax.Device, options: CompileOptions) -> dict[str, Any]:
    found = dict(preferred_options(native_device))
    if options.deterministic and native_device.platform == "gpu":
        found["xla_gpu_deterministic_ops"] = True
    return found


def precision(options: CompileOptions) -> jax.lax.Precision:
    """XLA's precision for these options.

    Raises:
        OptionError: if the precision is unknown.
    """
    if options.matmul_precision not in _PRECISIONS:
        raise OptionError(
            f"matmul_precision must be one of {', '.join(map(repr, _PRECISIONS))}, got "
            f"{options.matmul_precision!r}."
        )
    return _PRECISIONS[options.matmul_precision]
