"""Passes: functions from graph to graph, and what prepares a graph for a backend.

The way of a training step: ``precision`` narrows its products; ``micro_batches`` merges what
accumulation adds up. Then :func:`prepare`: ``inline`` and ``grouped_convolution`` leave only what
the backend has, ``simplify`` and ``cleanup`` drop the rest, ``schedule`` moves updates to where
their gradients are. If memory is short, ``rematerialisation`` repeats steps by ``editing``, guided
by ``cost``; ``partition`` cuts a program into parts where its order must be kept. ``memory`` says
what is alive when, and ``arena`` where it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelkit.graph import Graph
from accelkit.passes.arena import plan_memory
from accelkit.passes.cleanup import eliminate_dead_code
from accelkit.passes.cost import graph_cost, node_cost, transfer_cost
from accelkit.passes.grouped_convolution import split_grouped_convolutions
from accelkit.passes.inline import inline_composites
from accelkit.passes.memory import (
    MemoryPlan,
    peak_bytes,
    plan_values,
    updated_in_place,
)
from accelkit.passes.micro_batches import (
    accumulate_in_momentum,
    merge_products,
    update_by_products,
)
from accelkit.passes.partition import Part, cut_around_updates, cut_at_barriers, partition
from accelkit.passes.precision import mixed_precision
from accelkit.passes.schedule import update_early
from accelkit.passes.simplify import simplify
from accelkit.primitives.scheduling import barrier

if TYPE_CHECKING:
    from accelkit.backend import Backend
    from accelkit.passes.rematerialisation import Rematerialised, rematerialise

__all__ = [
    "MemoryPlan",
    "Part",
    "Rematerialised",
    "accumulate_in_momentum",
    "barrier",
    "cut_around_updates",
    "cut_at_barriers",
    "eliminate_dead_code",
    "graph_cost",
    "inline_composites",
    "merge_products",
    "mixed_precision",
    "node_cost",
    "partition",
    "peak_bytes",
    "plan_memory",
    "plan_values",
    "prepare",
    "rematerialise",
    "simplify",
    "split_grouped_convolutions",
    "transfer_cost",
    "update_by_products",
    "update_early",
    "updated_in_place",
]


def prepare(graph: Graph, backend: Backend) -> Graph:
    """The graph that ``backend`` compiles.

    Composites that the backend lacks are replaced by their definitions, grouped convolutions are
    split unless it declares ``fast_grouped_convolution``; then expressions are simplified, equal
    ones merged, unused ones dropped, and parameters updated as soon as their gradient is known.

    Raises:
        CapabilityError: if a primitive has neither a native form nor a definition.
    """
    graph = eliminate_dead_code(graph)
    graph = inline_composites(graph, backend)
    if "fast_grouped_convolution" not in backend.capabilities:
        graph = split_grouped_convolutions(graph)
    return update_early(eliminate_dead_code(simplify(graph)))


def __getattr__(name: str) -> Any:
    """What few programs need is imported when it is asked for."""
    if name in ("Rematerialised", "rematerialise"):
        from accelkit.passes import rematerialisation

        return getattr(rematerialisation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
