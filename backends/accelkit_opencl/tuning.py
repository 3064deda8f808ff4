"""Tuning: measuring which tile is fastest for each product of a program, once per device.

Results are kept in the user's cache folder, per device, driver, width of vectors and number of
units, and used by every program that is compiled afterwards. A table that is corrupt, or was
written for something else, is ignored with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Protocol

from accelkit.errors import DataError
from accelkit.filesystem import FileSystem
from accelkit.graph import Graph
from accelkit_opencl.candidates import candidates
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.lowering import Choice, Profile, choice_key
from accelkit_opencl.nodes import product_of
from accelkit_opencl.products import LOWERINGS
from accelkit_opencl.programs import cache_folder
from accelkit_opencl.runtime import Runtime

__all__ = [
    "Trial",
    "Tunable",
    "Tuned",
    "different_candidates",
    "load_choices",
    "products_in",
    "save_choices",
    "tunable",
    "tune",
]

_VERSION = 6  # of the table; raise it when the kernels change
_HOPELESS = 1.2  # times the best so far: not measured more than once
_CLEARLY_FASTER = 0.98  # of the default's time: what a choice must reach


class Tunable(NamedTuple):
    """A product that can be run in more than one way.

    Attributes:
        kind, product: Which.
        choices: The ways to run it that lead to different kernels, the default first.
    """

    kind: str
    product: Matmul | Convolution
    choices: list[Choice]

    @property
    def key(self) -> str:
        """Its name in the table."""
        return choice_key(self.kind, self.product)


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


def different_candidates(
    kind: str, product: Matmul | Convolution, profile: Profile
) -> list[Choice]:
    """The candidates, without those that lead to the same kernels as an earlier one."""
    found: dict[tuple[str, ...], Choice] = {}
    for choice in candidates(kind, product, profile):
        launches = LOWERINGS[kind](product, profile, choice).launches
        found.setdefault(tuple(launch.source.name for launch in launches), choice)
    return list(found.values())


def tunable(
    products: Iterable[tuple[str, Matmul | Convolution]], profile: Profile
) -> list[Tunable]:
    """Those of the products that a device can run in more than one way: none in GPU forms."""
    if not profile.cpu:
        return []
    found = [Tunable(*item, different_candidates(*item, profile)) for item in products]
    return [item for item in found if len(item.choices) > 1]


class Trial(Protocol):
    """What compiles and measures choices: :class:`accelkit_opencl.trials.Trials`.

    Attributes:
        workers: Choices that it compiles at the same time.
    """

    workers: int

    def __call__(
        self,
        kind: str,
        product: Matmul | Convolution,
        choice: Choice,
        *,
        give_up_s: float,
        within_s: float,
    ) -> float:
        """Seconds of one run of a choice, infinite if it cannot run."""
        ...

    def compile_ahead(
        self, items: Iterable[tuple[str, Matmul | Convolution, Choice]], *, within_s: float
    ) -> None:
        """Compile choices that will be measured next."""
        ...


def tune(
    products: Iterable[Tunable],
    measure: Trial,
    *,
    budget_s: float = 30.0,
) -> Iterator[Tuned]:
    """Measure candidates until the time is used up.

    First the default and the likeliest other choice of every product, costliest product first;
    then, in the same order, the next choice of each that has one, and so on. The default is kept
    unless the fastest one is at least 2 % faster when both are measured again: the fastest of
    many is partly the luckiest.

    Args:
        products: What to tune, from :func:`tunable`.
        measure: A :class:`~accelkit_opencl.trials.Trials`.
        budget_s: No result is waited for after that many seconds.

    Yields:
        One result for each product of which at least two choices were measured, and another one
        whenever a further choice turns out to be faster.
    """
    deadline = time.perf_counter() + budget_s
    searches = [_Search(item, measure, deadline) for item in products]
    while searches:
        # All of one compilation each: a processor that waits for the others' is lost.
        for first in range(0, len(searches), measure.workers):
            group = searches[first : first + measure.workers]
            now = time.perf_counter()
            if now >= deadline:
                return
            ahead = [item for search in group for item in search.next()]
            measure.compile_ahead(ahead, within_s=deadline - now)
            for search in group:
                found = search.run()
                if found is not None:
                    yield found
        searches = [search for search in searches if search.next()]


class _Search:
    """The search for the fastest choice for one product."""

    def __init__(self, item: Tunable, measure: Trial, deadline: float) -> None:
        self._item = item
        self._left = list(item.choices)
        self._tried: dict[Choice, float] = {}
        self._confirmed = {Choice()}
        self._told: Choice | None = None
        self._measure, self._deadline = measure, deadline

    def next(self) -> list[tuple[str, Matmul | Convolution, Choice]]:
        """What :meth:`run` will measure: two choices at first, then one at a time."""
        count = 1 if self._tried else 2
        return [(self._item.kind, self._item.product, choice) for choice in self._left[:count]]

    def _seconds(self, choice: Choice, *, give_up_s: float = math.inf) -> float:
        within_s = self._deadline - time.perf_counter()
        if within_s <= 0:
            return math.inf
        kind, product, _ = self._item
        return self._measure(kind, product, choice, give_up_s=give_up_s, within_s=within_s)

    def run(self) -> Tuned | None:
        """A result if there is one, and it is new."""
        for _, _, choice in self.next():
            if time.perf_counter() >= self._deadline:
                return None
            self._left.remove(choice)
            best_s = min(self._tried.values(), default=math.inf)
            self._tried[choice] = self._seconds(choice, give_up_s=_HOPELESS * best_s)
        if len(self._tried) < 2 or min(self._tried.values()) == math.inf:
            return None
        self._confirm_the_fastest()
        best, default_s = self._fastest(), self._tried[Choice()]
        if self._tried[best] > _CLEARLY_FASTER * default_s:
            best = Choice()
        if best == self._told:
            return None
        self._told = best
        return Tuned(self._item.key, best, default_s, self._tried[best])

    def _fastest(self) -> Choice:
        return min(self._tried, key=lambda choice: self._tried[choice])

    def _confirm_the_fastest(self) -> None:
        """Measure it once more beside the default, which may make another one the fastest.

        Without the time for that the first measurements count.
        """
        while (best := self._fastest()) not in self._confirmed:
            self._confirmed.add(best)
            again_s = self._seconds(best), self._seconds(Choice())
            if math.inf not in again_s:
                self._tried[best], self._tried[Choice()] = again_s


# --- the table on disk -------------------------------------------------------------------------


def _made_for(runtime: Runtime) -> dict[str, str | int]:
    """What the speed of a choice depends on: another table for each."""
    return {
        **runtime.identity,
        "vector_bytes": runtime.vector_bytes,
        "compute_units": runtime.handle.max_compute_units,
    }


def _path(runtime: Runtime, folder: Path | None) -> Path:
    made_for = json.dumps(_made_for(runtime), sort_keys=True)
    name = hashlib.sha256(made_for.encode()).hexdigest()[:16]
    return (folder or cache_folder()) / f"tuning-{name}.json"


def load_choices(runtime: Runtime, folder: Path | None = None) -> dict[str, Choice]:
    """The tuner's table for this device as it is; empty if there is none that is valid.

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
    if content["made_for"] != _made_for(runtime):
        raise ValueError(f"it is of {content['made_for']}, this is {_made_for(runtime)}")
    return {key: Choice(**fields) for key, fields in content["choices"].items()}


def save_choices(choices: dict[str, Choice], runtime: Runtime, folder: Path | None = None) -> Path:
    """Add choices to the table, or replace one that is not valid; returns its path.

    Raises:
        DataError: if it cannot be written; the old one is as it was.
    """
    path = _path(runtime, folder)
    merged = dict(choices)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        merged = {**_read(path, runtime), **choices}
    content = {
        "version": _VERSION,
        "made_for": _made_for(runtime),
        "choices": {key: asdict(choice) for key, choice in sorted(merged.items())},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FileSystem().replace_file(path, json.dumps(content, indent=1).encode(), durable=False)
    except OSError as error:
        raise DataError(
            f"The tuning table {path} cannot be written: {error.strerror}. Free some space, or let "
            "this user write there, and tune again."
        ) from error
    return path
