"""Tuning: measuring which tile is fastest for each product of a program, once per device.

Results are kept per device and driver in the user's cache folder and used by every program that
is compiled afterwards. A table that is corrupt, or of another driver, is ignored with a warning.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyopencl as cl

from accelkit.graph import Graph
from accelkit_opencl.failures import funnel
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.nodes import product_of
from accelkit_opencl.products import (
    Choice,
    Lowering,
    Profile,
    candidates,
    choice_key,
    lower_forward,
    lower_input_gradient,
    lower_matmul,
    lower_weight_gradient,
)
from accelkit_opencl.programs import Provider, cache_folder
from accelkit_opencl.runtime import Runtime

__all__ = ["Tuned", "load_choices", "products_in", "save_choices", "tune"]

_VERSION = 2  # of the table; raise it when the kernels change
LOWERINGS: dict[str, Callable[..., Lowering]] = {
    "matmul": lower_matmul,
    "forward": lower_forward,
    "input gradient": lower_input_gradient,
    "weight gradient": lower_weight_gradient,
}


class Tuned(NamedTuple):
    """One product's result.

    Attributes:
        key: Its name in the table.
        choice: The fastest.
        default_s, best_s: Time of one launch by default, and of the fastest.
    """

    key: str
    choice: Choice
    default_s: float
    best_s: float


def products_in(graphs: Iterable[Graph]) -> list[tuple[str, Matmul | Convolution]]:
    """The different matrix products and convolutions of some graphs, costliest first."""
    found: dict[str, tuple[str, Matmul | Convolution]] = {}
    for graph in graphs:
        for node in graph.nodes:
            product = product_of(node)
            if product is not None:
                found[choice_key(*product)] = product
    return sorted(found.values(), key=lambda item: -item[1].flops)


def tune(
    products: Iterable[tuple[str, Matmul | Convolution]],
    runtime: Runtime,
    provider: Provider,
    profile: Profile,
    *,
    budget_s: float = 30.0,
) -> Iterator[Tuned]:
    """Measure candidates, costliest product first, until the time is used up.

    The default is measured with every product and kept unless another one is at least 2 %
    faster. GPU forms have one candidate and are not measured.
    """
    start = time.perf_counter()
    for kind, product in products:
        if not profile.cpu:
            return
        measured: list[tuple[float, Choice]] = []
        for choice in candidates(kind, product, profile):
            if measured and time.perf_counter() - start > budget_s:
                break
            lowering = LOWERINGS[kind](product, profile, choice)
            measured.append((_measure(lowering, product, runtime, provider), choice))
        default_s = measured[0][0]
        best_s, best = min(measured, key=lambda m: m[0])
        if best_s > 0.98 * default_s:
            best_s, best = default_s, Choice()
        yield Tuned(choice_key(kind, product), best, default_s, best_s)
        if time.perf_counter() - start > budget_s:
            return


def _measure(
    lowering: Lowering, product: Matmul | Convolution, runtime: Runtime, provider: Provider
) -> float:
    """Best time of a few runs, in seconds."""
    names = {name for launch in lowering.launches for name in launch.buffers}
    size = 8 if product.dtype == "double" else 4
    largest = _largest_operand(product) * size
    buffers = {
        name: runtime.memory.allocate(lowering.scratch_bytes.get(name, largest)) for name in names
    }
    kernels = provider.kernels([launch.source for launch in lowering.launches])
    times = []
    with funnel("tuning"):
        for buffer in buffers.values():  # zeros: uninitialised numbers may be slow ones
            cl.enqueue_fill_buffer(runtime.queue, buffer.buffer, b"\0\0\0\0", 0, buffer.size_bytes)
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(buffers[name].buffer for name in launch.buffers))
        for _ in range(4):
            runtime.queue.finish()
            start = time.perf_counter()
            for launch, kernel in zip(lowering.launches, kernels, strict=True):
                source = launch.source
                cl.enqueue_nd_range_kernel(
                    runtime.queue, kernel, source.global_size, source.local_size
                )
            runtime.queue.finish()
            times.append(time.perf_counter() - start)
    return min(times[1:])


def _largest_operand(product: Matmul | Convolution) -> int:
    if isinstance(product, Matmul):
        m, n, k = product.m, product.n, product.k
        return product.batch * max(m * n, m * k, n * k)
    image = product.batch * product.height * product.width * product.channels
    out = product.batch * product.out_height * product.out_width * product.features
    taps = product.kernel[0] * product.kernel[1]
    return max(image, out, taps * product.group_channels * product.features)


# --- the table on disk -------------------------------------------------------------------------


def _path(runtime: Runtime, folder: Path | None) -> Path:
    identity = json.dumps(runtime.identity, sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return (folder or cache_folder()) / f"tuning-{name}.json"


def load_choices(runtime: Runtime, folder: Path | None = None) -> dict[str, Choice]:
    """The tuner's table for this device and driver; empty if there is none that is valid."""
    path = _path(runtime, folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION or content["identity"] != runtime.identity:
            return {}
        return {key: Choice(**fields) for key, fields in content["choices"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"The tuning table {path} is ignored: {type(error).__name__}: {error}. Write a new "
            f"one with `python -m accelkit.opencl tune`.",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}


def save_choices(choices: dict[str, Choice], runtime: Runtime, folder: Path | None = None) -> Path:
    """Add choices to the table; returns its path."""
    path = _path(runtime, folder)
    merged = {**load_choices(runtime, folder), **choices}
    content = {
        "version": _VERSION,
        "identity": runtime.identity,
        "choices": {key: asdict(choice) for key, choice in sorted(merged.items())},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)
    return path
