"""From a schedule to launches: every kernel with the storage of each of its buffers.

A :class:`Plan` holds no OpenCL object, so it can be written to a bundle and read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from accelkit.dtypes import uint8
from accelkit.graph import Graph, TensorSpec, Value
from accelkit.passes.arena import Interval, plan_memory
from accelkit_opencl.fusion import ProductStep, fuse_products
from accelkit_opencl.kernels.epilogue import Epilogue
from accelkit_opencl.kernels.fused import Body, elementwise_kernel
from accelkit_opencl.kernels.reductions import reduction_kernels
from accelkit_opencl.kernels.rowwise import rowwise_kernel
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Lowering, Profile
from accelkit_opencl.nodes import lower_node, lower_product
from accelkit_opencl.reuse import Heirs, Work, outputs_in_place
from accelkit_opencl.rows import RowStep, fuse_rows
from accelkit_opencl.schedule import Schedule
from accelkit_opencl.sizes import buffer_bytes
from accelkit_opencl.steps import ElementwiseStep, NodeStep, ReductionStep, Step

__all__ = ["Plan", "PlannedLaunch", "Storage", "make_plan"]


@dataclass(frozen=True)
class Storage:
    """Where a kernel's buffer is found.

    Attributes:
        kind: ``"input"``, ``"output"``, ``"constant"`` or ``"arena"``.
        index: Position among the inputs, outputs, constants or slabs.
        offset, size_bytes: Region of a slab.
    """

    kind: str
    index: int
    offset: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class PlannedLaunch:
    """A kernel and the storage of its arguments."""

    source: KernelSource
    arguments: tuple[Storage, ...]


@dataclass(frozen=True)
class Plan:
    """A compiled program without its device objects.

    Attributes:
        launches: In order.
        inputs, outputs: Their specs.
        reused: For each output the position of the donated input whose buffer it takes, or None.
        constants: Arrays that are part of the program.
        slab_bytes: Sizes of the arena's slabs.
        lower_bound_bytes: The least that any plan of the intermediates needs.
    """

    launches: tuple[PlannedLaunch, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    reused: tuple[int | None, ...]
    constants: tuple[np.ndarray, ...]
    slab_bytes: tuple[int, ...]
    lower_bound_bytes: int

    @property
    def memory_bytes(self) -> int:
        """What the program takes while it runs, beyond the content of its inputs.

        Buffers are somewhat larger than asked for, those of inputs too.
        """
        fresh = zip(self.outputs, self.reused, strict=True)
        sizes = [spec.memory_bytes for spec, reused in fresh if reused is None]
        sizes += [*self.slab_bytes, *(array.nbytes for array in self.constants)]
        unused = sum(buffer_bytes(s.memory_bytes) - s.memory_bytes for s in self.inputs)
        return sum(map(buffer_bytes, sizes)) + unused


AnyStep: TypeAlias = Step | ProductStep | RowStep

# Operands that kernels of a primitive have read where they write a result.
_OVERWRITING = {"sgd_update_matmul": (0, 3), "local_response_norm_grad": (1,)}


def _work(step: AnyStep) -> Work:
    if isinstance(step, RowStep):
        return Work(step.reads, step.wanted, frozenset())
    if isinstance(step, ProductStep):
        after = _work(step.after)
        operands = step.product.operands
        reads = [value for value in after.reads if value is not step.result]
        # Other work-items still read the product's operands while this one writes.
        return Work([*operands, *reads], after.writes, after.in_place.difference(operands))
    if isinstance(step, ElementwiseStep):
        written = step.body.written
        return Work(
            [v for name, v in step.values.items() if name not in written],
            [v for name, v in step.values.items() if name in written],
            frozenset(step.values[name] for name in step.identity),
        )
    if isinstance(step, ReductionStep):
        return Work(list(step.values.values()), [step.out], frozenset())
    elementwise = _OVERWRITING.get(step.node.primitive.name, ())
    in_place = frozenset(step.operands[position] for position in elementwise)
    return Work(list(step.operands), list(step.node.outputs), in_place)


def make_plan(graph: Graph, donate: frozenset[int], profile: Profile, *, limit_bytes: int) -> Plan:
    """Schedule a prepared graph, lower every step, and assign all memory.

    Args:
        graph: A prepared graph.
        donate: Positions of inputs whose memory may be reused.
        profile: What the choice of kernels depends on.
        limit_bytes: Largest buffer of the device.
    """
    donated = frozenset(graph.inputs[i] for i in donate)
    schedule = Schedule(graph, donated)
    steps: list[AnyStep] = fuse_products(schedule.steps, schedule.outputs)
    if profile.cpu:
        steps = fuse_rows(steps, schedule.outputs, lambda step: _work(step).reads)
    steps = _updates_after_readers(steps, schedule.outputs, donated)
    works = [_work(step) for step in steps]
    kept = frozenset(graph.inputs).union(
        node.outputs[0] for node in graph.nodes if node.primitive.name == "constant"
    )
    heirs = Heirs(works, schedule.outputs, donated, kept)
    reused = outputs_in_place(schedule.outputs, works, heirs)
    storage: dict[Value, Storage] = {}
    for position, value in enumerate(graph.inputs):
        storage[value] = Storage("input", position)
    for position, value in enumerate(schedule.outputs):
        if value not in storage:
            storage[value] = Storage("output", position)
    constants = _constants(graph, storage)
    taken = heirs.memory | {schedule.outputs[i]: v for i, v in reused.items()}
    lowered = [_lower(step, taken, profile) for step in steps]
    slabs, bound = _assign_arena(works, lowered, taken, storage, limit_bytes)
    launches = [
        PlannedLaunch(source, tuple(storage[buffer] for buffer in buffers))
        for step in lowered
        for source, buffers in step.launches
    ]
    input_position = {value: i for i, value in enumerate(graph.inputs)}
    places: list[int | None] = []
    for position, value in enumerate(schedule.outputs):
        found = value if value in input_position else reused.get(position)
        places.append(None if found is None else input_position[found])
    return Plan(
        tuple(launches),
        tuple(v.spec for v in graph.inputs),
        tuple(v.spec for v in graph.outputs),
        tuple(places),
        constants,
        tuple(slabs),
        bound,
    )


def _updates_after_readers(
    steps: Sequence[AnyStep], outputs: Sequence[Value], donated: frozenset[Value]
) -> list[AnyStep]:
    """The steps in an order in which more results can take a donated input's place.

    The update of a weight must come after the last product with the weight as it was, or the new
    weight needs memory of its own. What only the caller reads may be computed at any later time.
    """
    works = [_work(step) for step in steps]
    readers: dict[Value, list[int]] = {}
    for position, work in enumerate(works):
        for value in work.reads:
            readers.setdefault(value, []).append(position)
    results = set(outputs)

    def place(position: int) -> tuple[int, int]:
        work = works[position]
        if any(value in readers or value not in results for value in work.writes):
            return position, 0
        overwritten = [v for v in work.in_place if v in donated]
        return max([position, *(readers[v][-1] for v in overwritten)]), position

    return [steps[position] for position in sorted(range(len(steps)), key=place)]


def _constants(graph: Graph, storage: dict[Value, Storage]) -> tuple[np.ndarray, ...]:
    arrays: list[np.ndarray] = []
    for node in graph.nodes:
        if node.primitive.name == "constant":
            storage[node.outputs[0]] = Storage("constant", len(arrays))
            arrays.append(node.parameters["value"].array)
    return tuple(arrays)


@dataclass
class _Lowered:
    launches: list[tuple[KernelSource, tuple[Value, ...]]]
    scratch: list[Value]


def _scratch(size_bytes: int) -> Value:
    return Value(TensorSpec((size_bytes,), uint8))


def _lower(step: AnyStep, taken: dict[Value, Value], profile: Profile) -> _Lowered:
    if isinstance(step, RowStep):
        source, arguments, size = rowwise_kernel(
            step.stages, step.rows, step.columns, step.wanted, compute_units=profile.compute_units
        )
        scratch = [_scratch(size)] if size else []
        buffers = (*(taken.get(v, v) for v in arguments), *scratch)
        return _Lowered([(source, buffers)], scratch)
    if isinstance(step, ProductStep):
        body, values = _merge_in_place(step.after, taken)
        epilogue = Epilogue.of(body, step.argument, step.result.spec.shape[-1])
        assert epilogue is not None, "fuse_products has checked it"
        return _launches(
            lower_product(step.product.node, profile, epilogue), step.product, values, taken
        )
    if isinstance(step, NodeStep):
        results = {f"out{i}": taken.get(v, v) for i, v in enumerate(step.node.outputs)}
        return _launches(lower_node(step.node, profile), step, results, taken)
    if isinstance(step, ElementwiseStep):
        body, merged = _merge_in_place(step, taken)
        if 0 in body.shape:
            return _Lowered([], [])
        kernel = elementwise_kernel(body, cpu=profile.cpu, compute_units=profile.compute_units)
        return _Lowered([(kernel, tuple(merged[name] for name in kernel.arguments))], [])
    if step.out.spec.size == 0:
        return _Lowered([], [])
    kernels, partial = reduction_kernels(
        step.body, step.reduction, compute_units=profile.compute_units
    )
    out = taken.get(step.out, step.out)
    values = {name: taken.get(v, v) for name, v in step.values.items()}
    inputs = tuple(values[name] for name in kernels[0].arguments[:-1])
    if not partial:
        return _Lowered([(kernels[0], (*inputs, out))], [])
    partials = _scratch(partial * step.reduction.dtype.itemsize)
    return _Lowered([(kernels[0], (*inputs, partials)), (kernels[1], (partials, out))], [partials])


def _launches(
    lowering: Lowering, step: NodeStep, results: dict[str, Value], taken: dict[Value, Value]
) -> _Lowered:
    """A lowering with the values of its buffers."""
    buffers = {f"in{i}": taken.get(v, v) for i, v in enumerate(step.operands)}
    scratch = {name: _scratch(size) for name, size in lowering.scratch_bytes.items()}
    buffers.update({**results, **scratch})
    return _Lowered(
        [
            (launch.source, tuple(buffers[name] for name in launch.buffers))
            for launch in lowering.launches
        ],
        list(scratch.values()),
    )


def _merge_in_place(
    step: ElementwiseStep, taken: dict[Value, Value]
) -> tuple[Body, dict[str, Value]]:
    """One argument for an input and the output that takes its place: nothing may alias."""
    values = {name: taken.get(v, v) for name, v in step.values.items()}
    written = step.body.written
    reader = {v: name for name, v in values.items() if name not in written}
    rename = {name: reader[values[name]] for name in written if values[name] in reader}
    body = replace(
        step.body,
        outputs=tuple((variable, rename.get(name, name)) for variable, name in step.body.outputs),
        arguments=tuple(a for a in step.body.arguments if a[0] not in rename),
    )
    return body, values


def _assign_arena(
    works: Sequence[Work],
    lowered: Sequence[_Lowered],
    taken: dict[Value, Value],
    storage: dict[Value, Storage],
    limit_bytes: int,
) -> tuple[list[int], int]:
    """Give every value without storage, or another's, a place in the arena."""
    life: dict[Value, list[int]] = {}
    for position, (work, step) in enumerate(zip(works, lowered, strict=True)):
        for given in (*work.writes, *work.reads, *step.scratch):
            value = taken.get(given, given)
            if value not in storage:
                life.setdefault(value, [position, position])[1] = position
    values = list(life)
    blocks = [Interval(max(v.spec.memory_bytes, 1), *life[v]) for v in values]
    plan = plan_memory(blocks, slab_limit_bytes=limit_bytes)
    for value, place in zip(values, plan.places, strict=True):
        size = max(value.spec.memory_bytes, 1)
        storage[value] = Storage("arena", place.slab, place.offset, size)
    return plan.slab_bytes, plan.lower_bound_bytes
