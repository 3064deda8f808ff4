"""Making a step fit: what is kept, what is computed again, what is done in parts.

None of the means changes the mathematics, the batch or the learning rate, and random masks are
those of the whole batch:

- *micro-batches* (:mod:`accelkit.train.differentiation`): fewer samples at a time; their
  gradients add up;
- *products merged* (:func:`accelkit.passes.merge_products`): of large matrices the operands of the
  gradient are kept instead of a running sum;
- *rematerialisation* (:func:`accelkit.passes.rematerialise`): idle values are computed again;
- *early updates*: a gradient is consumed as soon as it exists, that of a large matrix without
  ever existing as a whole (:func:`accelkit.passes.update_by_products`); those of micro-batches go
  into the momentum one by one (:func:`accelkit.passes.accumulate_in_momentum`);
- *host state* (:mod:`accelkit.train.offload`): optimizer slots stay in the host's memory;
- *no workspaces*: if nothing else suffices, kernels do without memory of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from accelkit import passes
from accelkit.backend import Backend, CompileOptions
from accelkit.device import Device
from accelkit.errors import OptionError
from accelkit.graph import Graph, Node, Value
from accelkit.train.program import StepProgram

__all__ = [
    "MemoryChoice",
    "MemoryMeans",
    "Planner",
    "Remat",
    "as_remat",
    "format_bytes",
    "parse_bytes",
    "predicted_peak_bytes",
]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_MOST_MICRO_BATCHES = 16  # they are unrolled: more would take long to compile
_ATTEMPTS = 4  # at a target that the backend's own plan meets
_EXPENSIVE = frozenset({"conv2d", "depthwise_conv2d", "matmul"})

Remat = bool | float | str | tuple[str, ...]


def parse_bytes(amount: int | str) -> int:
    """A number of bytes from a number or a text such as ``"8GiB"`` or ``"500MB"``.

    Raises:
        OptionError: if it is no positive amount.
    """
    if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
        return amount
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|K|M|G|Ki|Mi|Gi)B?\s*", str(amount))
    if match is None or float(match[1]) <= 0:
        raise OptionError(
            f"A memory limit is a number of bytes or a text such as '8GiB' or '500MB', got "
            f"{amount!r}."
        )
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(amount: int) -> str:
    """An amount in the unit that fits, as :func:`parse_bytes` reads it: never less than it is."""
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{math.ceil(amount / size * 10) / 10:.1f} {unit}"
    return f"{amount} B"


def as_remat(given: bool | float | str | Sequence[str]) -> Remat:
    """The checked form of ``TrainStep``'s ``remat=``.

    Raises:
        OptionError: if it is none of the forms.
    """
    if isinstance(given, bool) or given == "auto":
        return given
    if isinstance(given, float | int) and 0.0 < given < 1.0:
        return float(given)
    if isinstance(given, list | tuple) and given and all(isinstance(s, str) for s in given):
        return tuple(given)
    raise OptionError(
        f"remat must be True, 'auto', a fraction of the memory for intermediates between 0 and 1, "
        f"or a list of layers such as ['features'], got {given!r}."
    )


@dataclass(frozen=True)
class MemoryMeans:
    """By what means a step saves memory.

    Attributes:
        accumulate: Number of micro-batches.
        remat: Which values are computed again: False for none; True for all that lower the
            peak; ``"auto"`` for those that need no product or convolution; a fraction to come
            down to; names of layers; or, as an integer, a number of bytes for intermediates.
        early_update: Whether large gradients go into their update piece by piece.
        host_state: Whether optimizer slots are kept on the host.
        workspaces: Whether kernels may take memory of their own to be faster.
    """

    accumulate: int = 1
    remat: Remat | int = False
    early_update: bool = False
    host_state: bool = False
    workspaces: bool = True

    @classmethod
    def by_hand(
        cls, accumulate: int, remat: bool | float | str | Sequence[str], host_state: bool
    ) -> MemoryMeans:
        """What ``TrainStep``'s options of these names ask for; any of them brings early updates.

        Raises:
            OptionError: if ``remat`` is none of its forms.
        """
        recompute = as_remat(remat)
        early = accumulate != 1 or recompute is not False or host_state
        return cls(accumulate, recompute, early, host_state)

    def __str__(self) -> str:
        found = [f"{self.accumulate} micro-batches"] if self.accumulate > 1 else []
        found += ["rematerialisation"] if self.remat is not False else []
        found += ["early updates"] if self.early_update else []
        found += ["optimizer state on the host"] if self.host_state else []
        found += [] if self.workspaces else ["kernels without workspaces"]
        return ", ".join(found) or "nothing to be done"

    def before_preparation(self, graph: Graph) -> Graph:
        """The rewrites of a traced step."""
        if self.accumulate > 1:
            graph = passes.merge_products(graph)
            if self.early_update:
                graph = passes.accumulate_in_momentum(graph)
        return passes.update_by_products(graph) if self.early_update else graph

    def after_preparation(self, graph: Graph, backend: Backend, donate: Sequence[int]) -> Graph:
        """The rewrites of a step that is ready to compile."""
        if self.remat is False:
            return graph
        return self.recompute(graph, backend, donate).graph

    def recompute(
        self, graph: Graph, backend: Backend, donate: Sequence[int]
    ) -> passes.Rematerialised:
        """Drop values by what ``remat`` says."""
        target, may_drop, may_repeat = 0.0, None, None
        remat = self.remat
        if isinstance(remat, tuple):
            may_drop = _inside(remat)
        elif isinstance(remat, float):
            fused = "fusion" in backend.capabilities
            target = remat * passes.peak_bytes(graph, donate=donate, fused=fused)
        elif remat == "auto":
            may_repeat = _is_cheap
        elif not isinstance(remat, bool | str):
            target = remat
        return passes.rematerialise(
            graph,
            target_bytes=int(target),
            donate=donate,
            fused="fusion" in backend.capabilities,
            barriers=backend.supports(passes.barrier, {}),
            may_drop=may_drop,
            may_repeat=may_repeat,
        )


def _inside(scopes: Sequence[str]) -> Callable[[Value], bool]:
    def inside(value: Value) -> bool:
        scope = "" if value.node is None else value.node.scope
        return any(scope == name or scope.startswith(f"{name}.") for name in scopes)

    return inside


def _is_cheap(node: Node) -> bool:
    return node.primitive.name not in _EXPENSIVE


@dataclass(frozen=True)
class MemoryChoice:
    """How a step was made to fit its memory limit.

    Attributes:
        limit_bytes: What was asked for.
        means: What is done.
        predicted_peak_bytes: Inputs, state, intermediates, and what kernels need to work, as far as
            the backend knows.
        unplanned_peak_bytes: The same if nothing were done. What a compiler was seen to need beyond
            the prediction for one plan is not assumed of this one, which was not compiled.
        predicted_slowdown: Time relative to the step as it would be without a limit:
            :func:`accelkit.passes.graph_cost` of both, which adds up floating-point operations and
            15 for each byte that a node (or fused chain) reads or writes. What is computed again
            is counted again, and so are weights that every micro-batch reads.
    """

    limit_bytes: int
    means: MemoryMeans
    predicted_peak_bytes: int
    unplanned_peak_bytes: int
    predicted_slowdown: float

    @property
    def accumulate(self) -> int:
        """Number of micro-batches."""
        return self.means.accumulate

    def __str__(self) -> str:
        return (
            f"memory limit {format_bytes(self.limit_bytes)}: {self.means}; predicted peak "
            f"{format_bytes(self.predicted_peak_bytes)} instead of "
            f"{format_bytes(self.unplanned_peak_bytes)}, predicted time "
            f"{self.predicted_slowdown:.2f} times that without a limit"
        )


def predicted_peak_bytes(
    graph: Graph, backend: Backend, device: Device, donate: Sequence[int]
) -> int:
    """State, batch and everything in between, for a prepared graph.

    As the backend plans it, or else by liveness.
    """
    return graph.input_bytes + _arena_bytes(graph, backend, device, donate, CompileOptions())


def _arena_bytes(
    graph: Graph, backend: Backend, device: Device, donate: Sequence[int], options: CompileOptions
) -> int:
    exact = backend.planned_bytes(graph, device, frozenset(donate), options)
    if exact is not None:
        return exact
    fused = "fusion" in backend.capabilities
    alive = passes.peak_bytes(graph, donate=donate, fused=fused)
    return alive + backend.workspace_bytes(graph, device, options)


@dataclass(frozen=True)
class _Option:
    """A way to run the step that was looked at.

    Attributes:
        means: What is done.
        peak_bytes: With intermediates scaled to what a compiler was seen to need.
        predicted_bytes: The same as it would be by the plan alone.
        cost: Relative time.
    """

    means: MemoryMeans
    peak_bytes: int
    predicted_bytes: int
    cost: float


class Planner:
    """Looks for the fastest way to run a step within a limit.

    Args:
        build: Traces the step for a number of micro-batches: the program, and its graph after
            the precision pass.
        batch_size: Number of samples; micro-batches have equal size.
        backend: What the step is compiled by.
        device: Where it runs.
        may_accumulate: False for models with batch statistics.
    """

    def __init__(
        self,
        build: Callable[[int], tuple[StepProgram, Graph]],
        batch_size: int,
        backend: Backend,
        device: Device,
        *,
        may_accumulate: bool,
    ) -> None:
        self._build = build
        self._batch_size = batch_size
        self._backend = backend
        self._device = device
        most = min(batch_size, _MOST_MICRO_BATCHES) if may_accumulate else 1
        self._counts = [k for k in range(1, most + 1) if batch_size % k == 0]

    def choose(self, limit_bytes: int, *, scale: float = 1.0) -> MemoryChoice:
        """The option with the smallest predicted time whose predicted peak is within the limit.

        Args:
            limit_bytes: What may be used.
            scale: Intermediates that a compiler was seen to need, relative to the prediction.

        Raises:
            OptionError: if none fits; the message tells the smallest limit that can be met.
        """
        first: _Option | None = None
        best: _Option | None = None
        smallest: int | None = None
        for option in self._options(limit_bytes, scale):
            first = first or option
            smallest = min(option.peak_bytes, smallest or option.peak_bytes)
            if option.peak_bytes <= limit_bytes and (best is None or option.cost < best.cost):
                best = option
        assert first is not None
        assert smallest is not None
        if best is None:
            raise OptionError(
                f"A batch of {self._batch_size} cannot be trained within "
                f"{format_bytes(limit_bytes)}: with every means it needs "
                f"{format_bytes(smallest)}. That is the smallest limit that can be met; use it, "
                f"a smaller model, or an optimizer with fewer slots."
            )
        return MemoryChoice(
            limit_bytes, best.means, best.peak_bytes, first.predicted_bytes, best.cost / first.cost
        )

    def _options(self, limit_bytes: int, scale: float) -> Iterator[_Option]:
        """Options from the fastest to the smallest; the first one is to do nothing."""
        fits = False
        for option in self._options_with(MemoryMeans(), limit_bytes, scale):
            fits = fits or option.peak_bytes <= limit_bytes
            yield option
        # What kernels without workspaces cost is not known, but it is more than a little.
        if not fits and "workspaces" in self._backend.capabilities:
            yield from self._options_with(MemoryMeans(workspaces=False), limit_bytes, scale)

    def _options_with(
        self, least: MemoryMeans, limit_bytes: int, scale: float
    ) -> Iterator[_Option]:
        """Options that do what ``least`` does, and more."""
        for count in self._counts:
            program, traced = self._build(count)
            early = replace(least, accumulate=count, early_update=True)
            # Of micro-batches the gradients go where the updates want them at no cost.
            for means in (early,) if count > 1 else (least, early):
                graph = passes.prepare(means.before_preparation(traced), self._backend)
                option = self._evaluate(means, graph, program, scale)
                yield option
                if option.peak_bytes <= limit_bytes:
                    return  # more micro-batches would only take longer
            ways = [early]
            if program.slots and self._backend.has_own_memory(self._device):
                ways.append(replace(early, host_state=True))
                yield self._evaluate(ways[-1], graph, program, scale)
            for means in ways:
                yield from self._with_recomputation(means, graph, program, limit_bytes, scale)

    def _with_recomputation(
        self,
        means: MemoryMeans,
        graph: Graph,
        program: StepProgram,
        limit_bytes: int,
        scale: float,
    ) -> Iterator[_Option]:
        """Options that come down to the limit, if they can.

        The search goes by liveness; where the backend's own plan needs more, it aims lower.
        """
        kept = graph.input_bytes - (_spared_bytes(program) if means.host_state else 0)
        arena = max(0, int((limit_bytes - kept) / scale))
        before: int | None = None
        for attempt in range(_ATTEMPTS):
            chosen = replace(means, remat=arena)
            changed = chosen.after_preparation(graph, self._backend, program.donated)
            option = self._evaluate(chosen, changed, program, scale)
            yield option
            excess = option.peak_bytes - limit_bytes
            if excess <= 0 or arena == 0:
                return
            # The smallest of all comes last, and whatever else was tried in vain.
            last = attempt + 2 == _ATTEMPTS or option.peak_bytes == before
            before = option.peak_bytes
            arena = 0 if last else max(0, arena - int(excess / scale))

    def _evaluate(
        self, means: MemoryMeans, graph: Graph, program: StepProgram, scale: float
    ) -> _Option:
        options = CompileOptions(workspaces=means.workspaces)
        arena = _arena_bytes(graph, self._backend, self._device, program.donated, options)
        cost = passes.graph_cost(graph, fused="fusion" in self._backend.capabilities)
        kept = graph.input_bytes
        if means.host_state:
            kept -= _spared_bytes(program)
            cost += passes.transfer_cost(2 * sum(_slot_sizes(program)))
        return _Option(means, kept + int(scale * arena), kept + arena, cost)


def _slot_sizes(program: StepProgram) -> list[int]:
    return [program.graph.inputs[i].spec.memory_bytes for i in program.slots]


def _spared_bytes(program: StepProgram) -> int:
    """Of the optimizer's slots all but the largest are elsewhere at any time."""
    sizes = _slot_sizes(program)
    return sum(sizes) - max(sizes)
