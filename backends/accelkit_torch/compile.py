"""Compiled graphs: rewritten, then run as straight-line Python.

Nothing here waits for the device. Inputs are never changed unless they are donated; a donated
tensor whose memory something else shares is copied first.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from accelkit.backend import CompileOptions, Executable, generate
from accelkit.device import Device
from accelkit.graph import Graph, Node, Value
from accelkit_torch import convolution, elementwise, fused, shaping, updates
from accelkit_torch.devices import native_device
from accelkit_torch.dtypes import TO_TORCH
from accelkit_torch.precision import matmul_precision
from accelkit_torch.reuse import Reuse
from accelkit_torch.rewrites import rewrite_for_torch
from accelkit_torch.table import TABLE
from accelkit_torch.unsigned import WIDE
from accelkit_torch.winograd import Workspace, last_of_inference, slot_bytes

if TYPE_CHECKING:
    from accelkit_torch import TorchBackend

_CONSTANT_LIMIT_BYTES: Final = 1 << 20


def _over(function: Callable[..., Tensor], operand: int) -> Callable[..., Tensor]:
    """``function`` with its result written over one of its operands."""

    def run(*arrays: Tensor, **parameters: Any) -> Tensor:
        return function(*arrays, out=arrays[operand], **parameters)

    return run


def _relu_grad(y: Tensor, g: Tensor, *, out: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(g, y, 0, grad_input=out)
    return result


def _relu(x: Tensor, *, out: Tensor) -> Tensor:
    return torch.relu_(out)


# Elementwise primitives that can write their result over an operand, with the functions for it.
OVERWRITING: Final[dict[str, Callable[..., Tensor]]] = {
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "negative": torch.negative,
    "absolute": torch.absolute,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "average_update": torch.lerp,
    "select": torch.where,
    "relu": _relu,
    "relu_grad": _relu_grad,
    "gelu": elementwise.gelu,
    "gelu_grad": elementwise.gelu_grad,
    fused.KEEP.name: fused.keep,
}


class TorchExecutable(Executable):
    """A graph ready to run on one torch device.

    Attributes:
        program: The graph as it runs, after this backend's rewrites.
        workspace: Memory for tiles of convolutions; training keeps it between calls.
    """

    def __init__(
        self,
        backend: TorchBackend,
        graph: Graph,
        device: Device,
        donate: frozenset[int],
        options: CompileOptions,
    ) -> None:
        start = time.perf_counter()
        self.graph = graph
        self.device = device
        # Some of torch's kernels for accelerators add in any order.
        self._in_order = options.deterministic and device.kind != "cpu"
        self.program = rewrite_for_torch(
            graph,
            donate,
            use_pooling_indices=not self._in_order,
            in_host_memory=device.kind == "cpu",
            workspaces=options.workspaces,
        )
        in_tiles = fused.nodes_with_workspace(self.program)
        self.workspace = Workspace(reserved_bytes=slot_bytes(in_tiles))
        self._releasing = last_of_inference(in_tiles)
        self._options = options
        self._donate = tuple(sorted(donate))
        self._backend = backend
        self._native = native_device(device)
        self._reuse = Reuse(self.program, donate, OVERWRITING)
        self._clone = tuple(self._outputs_to_clone(donate))
        with torch.no_grad():
            functions = {node: self._function(node) for node in self.program.nodes}
        self._run = generate(self.program, functions.__getitem__)
        del self._reuse
        self.compile_time_s = time.perf_counter() - start

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        if self._donate:
            arrays = self._with_own_memory(arrays)
        # As `torch.no_grad` does in four times the time, which small steps feel.
        grad_enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            with matmul_precision(self.device, self._options):
                results = self._run(*arrays)
                for position in self._clone:
                    results[position] = results[position].clone()
        finally:
            torch._C._set_grad_enabled(grad_enabled)
        return results

    def _with_own_memory(self, arrays: Sequence[Any]) -> list[Any]:
        """Donated tensors whose memory is not theirs alone become copies."""
        found = list(arrays)
        twice = len({id(array) for array in arrays}) != len(arrays)
        for position in self._donate:
            array = found[position]
            if _is_shared(array) or (twice and sum(other is array for other in arrays) > 1):
                found[position] = array.clone()
        return found

    def _outputs_to_clone(self, donate: frozenset[int]) -> list[int]:
        """Outputs that could share memory with an input, a constant, or another output."""
        kept: set[Value] = {self.program.inputs[i] for i in donate}
        seen: set[Value] = set()
        clone = []
        for position, value in enumerate(self.program.outputs):
            root = self._reuse.shares_memory(value)
            given = root.node is None and root not in kept
            constant = root.node is not None and not root.node.inputs
            if given or constant or root in seen or root in self._reuse.foreign:
                clone.append(position)
            seen.add(root)
        return clone

    def _function(self, node: Node) -> Callable[..., Any]:
        name = node.primitive.name
        if name in shaping.CREATION:
            return self._creation(node)
        if node in self._reuse.overwritten:
            return _over(OVERWRITING[name], self._reuse.overwritten[node])
        if node.primitive is fused.SGD:
            return updates.sgd(self._reuse.owned[node])
        if node.primitive is fused.ADAM:
            return updates.adam(self._reuse.owned[node])
        if name in fused.FUSED:
            return fused.FUSED[name]
        if name in fused.WITH_WORKSPACE:
            function = functools.partial(fused.WITH_WORKSPACE[name], self.workspace)
            return self._and_release(function) if node is self._releasing else function
        if name == "max_pool2d_grad" and self._in_order:
            return convolution.deterministic_max_pool2d_grad
        found = self._backend.implementation(node.primitive, self.device)
        if not any(TO_TORCH[v.spec.dtype] in WIDE for v in node.inputs):
            return getattr(found, "narrow", found)
        return found

    def _and_release(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arrays: Tensor, **parameters: Any) -> Any:
            result = function(*arrays, **parameters)
            self.workspace.release()
            return result

        return run

    def _creation(self, node: Node) -> Callable[..., Any]:
        """Small constants are made once."""
        create = functools.partial(TABLE[node.primitive.name], device=self._native)
        if node.outputs[0].spec.memory_bytes > _CONSTANT_LIMIT_BYTES:
            return create
        constant = create(**node.parameters)
        return lambda **parameters: constant


def _is_shared(array: Tensor) -> bool:
    """Whether somebody else sees the memory of ``array``: another tensor, or its allocator.

    One use of a storage is the tensor's own, one is the Python object asked here. Memory from
    NumPy or DLPack cannot be resized.
    """
    storage = array.untyped_storage()
    uses: int = torch._C._storage_Use_Count(storage._cdata)
    return uses > 2 or not storage.resizable()
