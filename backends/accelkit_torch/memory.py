"""What a program takes beyond its inputs, as this backend runs it."""

from __future__ import annotations

from typing import Final

from accelkit.backend import CompileOptions
from accelkit.graph import Graph, Node, Value
from accelkit.passes.memory import Lives
from accelkit_torch import fused
from accelkit_torch.compile import OVERWRITING
from accelkit_torch.precision import FULL
from accelkit_torch.reuse import Reuse
from accelkit_torch.rewrites import rewrite_for_torch
from accelkit_torch.winograd import last_of_inference, workspace_bytes

__all__ = ["planned_bytes"]

# Copies of a convolution's weights in the order of its kernels, while it runs: the weights'
# own, and in the backward pass those of the gradient before it is put into ours as well.
# Measured on CPUs (oneDNN) for AlexNet's convolutions: 0.95 and 1.9 times the weights.
_WEIGHT_COPIES: Final = {
    "conv2d": 1,
    fused.CONV2D_BIAS.name: 1,
    "conv2d_input_grad": 1,
    "conv2d_weight_grad": 1,
    fused.CONV2D_BACKWARD.name: 2,
}
# Of everything in use, what stays between steps beside arrays: generated kernels, buffers of
# threads, rounding to pages. Measured on AlexNet: 6 of 543 MiB.
_KEPT_SHARE: Final = 1 / 96


def planned_bytes(graph: Graph, donate: frozenset[int], options: CompileOptions = FULL) -> int:
    """Memory for intermediates of a prepared graph, workspaces of kernels included.

    By the life of each piece of memory, as results are written over operands and views share it.
    """
    program = rewrite_for_torch(graph, donate, workspaces=options.workspaces)
    reuse = Reuse(program, donate, OVERWRITING)
    lives = Lives({}, {v: v for v in program.inputs})
    last = program.last_uses()
    for position, node in enumerate(program.nodes):
        for value in node.outputs:
            end = last.get(value, position)
            shared = _shared_operand(node, value, reuse)
            root = lives.source[value] = value if shared is None else lives.source[shared]
            if shared is None:
                lives.blocks[root] = position, end
            elif root in lives.blocks:  # else an input's
                lives.blocks[root] = lives.blocks[root][0], max(lives.blocks[root][1], end)
    alive = lives.profile(len(program.nodes))
    taken = map(_workspace_bytes, program.nodes)
    most = max(map(sum, zip(alive, taken, _tile_bytes(program), strict=True)), default=0)
    return most + int(_KEPT_SHARE * (most + program.input_bytes))


def _shared_operand(node: Node, value: Value, reuse: Reuse) -> Value | None:
    """The operand whose memory a result has."""
    if node.primitive.name == "cast" and node.inputs[0].spec.dtype != value.spec.dtype:
        return None
    root = reuse.shares_memory(value)
    return next((v for v in node.inputs if reuse.shares_memory(v) is root), None)


def _tile_bytes(program: Graph) -> list[int]:
    """What convolutions in tiles keep while each node runs."""
    nodes = fused.nodes_with_workspace(program)
    kept = [workspace_bytes(nodes) if nodes else 0] * len(program.nodes)
    last = last_of_inference(nodes)
    if last is not None:
        first, end = program.nodes.index(nodes[0]), program.nodes.index(last) + 1
        kept[:first] = [0] * first
        kept[end:] = [0] * (len(kept) - end)
    return kept


def _workspace_bytes(node: Node) -> int:
    copies = _WEIGHT_COPIES.get(node.primitive.name)
    if copies is None:
        return 0
    if node.primitive.name == "conv2d_weight_grad":
        return copies * node.outputs[0].spec.memory_bytes
    return copies * node.inputs[1].spec.memory_bytes
