"""What a program takes beyond its inputs, by XLA's own plan of its buffers.

XLA plans the memory of a cluster while it compiles, and TensorFlow can be asked for that plan
without running anything. Compiling once more is what it costs, so that only memory limits ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from accelkit.backend import evaluate
from accelkit.device import Device
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.passes import Part
from accelkit.passes.arena import alive_bytes
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.placed import Implementation, read
from accelkit_tensorflow.placement import PlacedPart
from accelkit_tensorflow.runtime import native_name
from accelkit_tensorflow.winograd import workspace_bytes

__all__ = ["kernel_bytes", "planned_bytes"]

ops = tf.raw_ops
_STAGE: Final = "optimized_hlo_proto_serialized"


def planned_bytes(
    graph: Graph,
    parts: Sequence[PlacedPart],
    targets: Mapping[int, int],
    implementation: Implementation,
    device: Device,
    *,
    workspaces: bool = True,
) -> int | None:
    """Memory for intermediates; None where TensorFlow does not tell XLA's plan.

    Args:
        graph: The whole program.
        parts: Its parts, in the order in which they run.
        targets: The output that takes the place of each donated input, by positions.
        implementation: Gives the native function of a node.
        device: Where it runs.
        workspaces: Whether kernels may take memory to be faster.
    """
    updates = {graph.outputs[o]: graph.inputs[i] for i, o in targets.items()}
    times = _times(parts)
    last_use = {v: time for time, p in zip(times, parts, strict=True) for v in p.part.inputs}
    crossing = last_use.keys() - set(graph.outputs)
    own = [0] * (times[-1] + 1)
    lives: list[tuple[int, int, int]] = []
    for time, placed in zip(times, parts, strict=True):
        if placed.on_kernels:
            found: int | None = _part_bytes(placed, workspaces=workspaces)
        else:
            found = _cluster_bytes(placed.part, updates, implementation, device)
        if found is None:
            return None
        own[time] += found
        made = crossing.intersection(placed.part.outputs)
        lives += [(v.spec.memory_bytes, time, last_use[v]) for v in made]
    return max(map(sum, zip(own, alive_bytes(lives, len(own)), strict=True)))


def kernel_bytes(parts: Sequence[PlacedPart], *, workspaces: bool) -> int:
    """Most that kernels take at a time beside what goes in and comes out."""
    return max((_part_bytes(p, workspaces=workspaces) for p in parts if p.on_kernels), default=0)


def _part_bytes(placed: PlacedPart, *, workspaces: bool) -> int:
    """The kernels of a part may run at the same time."""
    return sum(_workspace_bytes(n, workspaces=workspaces) for n in placed.part.graph.nodes)


def _times(parts: Sequence[PlacedPart]) -> list[int]:
    """When each part runs; clusters between the same kernels may run at the same time."""
    times = [0]
    for before, part in itertools.pairwise(parts):
        times.append(times[-1] + (before.on_kernels or part.on_kernels))
    return times


def _workspace_bytes(node: Node, *, workspaces: bool) -> int:
    """Tiles, or a copy of the weights in oneDNN's order, while a convolution runs."""
    tiles = workspace_bytes(node) if workspaces else None
    if tiles is not None:
        return tiles
    if node.primitive.name == "conv2d_weight_grad":
        return node.outputs[0].spec.memory_bytes
    if node.primitive.name in ("conv2d", "conv2d_input_grad"):
        return node.inputs[1].spec.memory_bytes
    return 0


def _cluster_bytes(
    part: Part, updates: Mapping[Value, Value], implementation: Implementation, device: Device
) -> int | None:
    """What XLA allocates for a part beside what goes in and comes out."""
    replaced = {v: updates[v] for v in part.outputs if updates.get(v) in part.inputs}
    operands = [v for v in part.inputs if v not in replaced.values()]
    with tf.device(native_name(device)):
        variables = {v: _stand_in(v.spec) for v in replaced.values()}

    def cluster(*tensors: Any) -> list[Any]:
        given = dict(zip(operands, tensors, strict=True))
        given |= {v: read(variables[v].handle, v.spec) for v in variables}
        outputs = evaluate(part.graph, [given[v] for v in part.inputs], implementation)
        found = dict(zip(part.outputs, outputs, strict=True))
        for successor, variable in replaced.items():
            ops.AssignVariableOp(resource=variables[variable].handle, value=found[successor])
        return [tf.identity(x) for v, x in found.items() if v not in replaced]

    specs = [tf.TensorSpec(v.spec.shape, v.spec.dtype.name) for v in operands]
    plan = _plan(tf.function(cluster, autograph=False, jit_compile=True), specs, device)
    if plan is None:
        return None
    return sum(
        block.size
        for block in plan.buffer_allocations
        if not (block.is_entry_computation_parameter or block.maybe_live_out)
        and not block.is_thread_local
    )


def _plan(function: Any, specs: Sequence[Any], device: Device) -> Any:
    """XLA's ``BufferAssignmentProto``; None if this TensorFlow does not hand it out."""
    try:
        from tensorflow.compiler.xla.service import hlo_pb2

        describe = function.experimental_get_compiler_ir(*specs)
        found = describe(stage=_STAGE, platform_name=device.kind.upper())
    except (ImportError, NotImplementedError, ValueError, tf.errors.OpError):
        return None
    program = hlo_pb2.HloProto()
    program.ParseFromString(found)
    return program.buffer_assignment if program.HasField("buffer_assignment") else None


def _stand_in(spec: TensorSpec) -> Any:
    """A variable of zeros to compile with, of pages that are never touched where that can be."""
    zeros = np.zeros(spec.shape, spec.dtype.numpy)
    if zeros.dtype.kind in "fiu" and zeros.size:
        return tf.Variable(tf.experimental.dlpack.from_dlpack(zeros.__dlpack__()), trainable=False)
    return tf.Variable(tf.zeros(spec.shape, spec.dtype.name), trainable=False)
