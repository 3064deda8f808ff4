"""Tuning: measuring which tile is fastest for each product of a program, once per device.

Results are kept per device and driver in the user's cache folder and used by every program that
is compiled afterwards. A table that is corrupt, or of another driver, is ignored with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from accelkit.graph import Graph
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.nodes import product_of
from accelkit_opencl.products import Choice, Profile, candidates, choice_key
from accelkit_opencl.programs import cache_folder
from accelkit_opencl.runtime import Runtime

__all__ = ["Tuned", "load_choices", "products_in", "save_choices", "tune"]

_VERSION = 2  # of the table; raise it when the kernels change


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
    measure: Callable[[str, Matmul | Convolution, Choice], float],
    profile: Profile,
    *,
    budget_s: float = 30.0,
) -> Iterator[Tuned]:
    """Measure candidates, costliest product first, until the time is used up.

    The default is measured with every product and kept unless another one is at least 2 %
    faster. GPU forms have one candidate and are not measured.

    Args:
        products: Kinds and geometries.
        measure: Seconds of one run of a choice, infinite if it cannot run: a
            :class:`~accelkit_opencl.trials.Trials`.
        profile: Of the device.
        budget_s: No candidate is begun after that many seconds.
    """
    start = time.perf_counter()
    for kind, product in products:
        if not profile.cpu or time.perf_counter() - start > budget_s:
            return
        measured: list[tuple[float, Choice]] = []
        for choice in candidates(kind, product, profile):
            if measured and time.perf_counter() - start > budget_s:
                break
            measured.append((measure(kind, product, choice), choice))
        default_s = measured[0][0]
        best_s, best = min(measured, key=lambda m: m[0])
        if best_s > 0.98 * default_s:
            best_s, best = default_s, Choice()
        yield Tuned(choice_key(kind, product), best, default_s, best_s)


# --- the table on disk -------------------------------------------------------------------------


def _path(runtime: Runtime, folder: Path | None) -> Path:
    identity = json.dumps(runtime.identity, sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return (folder or cache_folder()) / f"tuning-{name}.json"


def load_choices(runtime: Runtime, folder: Path | None = None) -> dict[str, Choice]:
    """The tuner's table for this device and driver; empty if there is none that is valid.

    A table that is damaged, or was written for other kernels or another device, is ignored with a
    warning.
    """
    path = _path(runtime, folder)
    try:
        return _read(path, runtime)
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


def _read(path: Path, runtime: Runtime) -> dict[str, Choice]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["version"] != _VERSION:
        raise ValueError(f"it has version {content['version']}, this is version {_VERSION}")
    if content["identity"] != runtime.identity:
        raise ValueError(f"it is of {content['identity']}, this is {runtime.identity}")
    return {key: Choice(**fields) for key, fields in content["choices"].items()}


def save_choices(choices: dict[str, Choice], runtime: Runtime, folder: Path | None = None) -> Path:
    """Add choices to the table, or replace one that is not valid; returns its path."""
    path = _path(runtime, folder)
    merged = dict(choices)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        merged = {**_read(path, runtime), **choices}
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
