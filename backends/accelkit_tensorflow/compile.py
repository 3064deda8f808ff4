"""Graphs as functions that XLA compiles, with donated inputs updated in place.

On CPUs the large convolutions of a program run on TensorFlow's kernels, and XLA compiles what is
between them (:mod:`accelkit_tensorflow.placement`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelkit.backend import CompileOptions, Executable, evaluate
from accelkit.device import Device
from accelkit.errors import OptionError
from accelkit.graph import Graph
from accelkit.passes import partition
from accelkit_tensorflow.arrays import VariableArray, as_tensor, as_variable
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.placed import Implementation, PlacedProgram, read
from accelkit_tensorflow.placement import PlacedPart, place
from accelkit_tensorflow.planned import planned_bytes
from accelkit_tensorflow.runtime import native_name, on, tf32
from accelkit_tensorflow.runtime_function import runtime_function

__all__ = ["TensorflowExecutable", "allows_tf32", "output_targets"]

ops = tf.raw_ops
# TensorFlow keeps what it has once allocated on CPUs: a program with a large state is not given a
# second one for a rehearsal, but compiles at its first call.
_MOST_REHEARSED_BYTES = 64 * 2**20


def allows_tf32(options: CompileOptions) -> bool:
    """Whether float32 products may use TF32.

    Raises:
        OptionError: if the precision is unknown.
    """
    if options.matmul_precision not in ("float32", "tf32"):
        raise OptionError(
            f"matmul_precision must be 'float32' or 'tf32', got {options.matmul_precision!r}."
        )
    return options.matmul_precision == "tf32"


class TensorflowExecutable(Executable):
    """One compiled function.

    Donated inputs that an output can take the place of enter as variables and are assigned; the
    output is then a :class:`VariableArray` of the same variable.

    Args:
        graph: A prepared graph.
        device: Where it runs.
        implementation: Gives the native function of a node.
        donate: Positions of inputs that may be overwritten.
        options: Precision, determinism, and whether kernels may take workspaces.
        use_xla: Whether to compile with XLA; TensorFlow's own executor runs the graph otherwise.

    Attributes:
        compile_time_s: Tracing, and the first call, at which XLA compiles. It is made here on
            zeros unless the inputs are large.
    """

    def __init__(
        self,
        graph: Graph,
        device: Device,
        implementation: Implementation,
        donate: Iterable[int],
        options: CompileOptions,
        *,
        use_xla: bool,
    ) -> None:
        start = time.perf_counter()
        self.graph = graph
        self.device = device
        self._device_name = native_name(device)
        self._tf32 = allows_tf32(options)
        self._workspaces = options.workspaces
        self._targets = output_targets(graph, donate)
        self._returned = [i for i in range(len(graph.outputs)) if i not in self._targets.values()]
        self._implementation = implementation
        self._parts = _parts(graph, device) if use_xla else []
        self._function = self._trace(use_xla)
        self.compile_time_s = time.perf_counter() - start
        self._is_compiled = False
        self.compiles_in_first_call = graph.input_bytes > _MOST_REHEARSED_BYTES
        if not self.compiles_in_first_call:
            self._rehearse()

    def _trace(self, use_xla: bool) -> Callable[[list[Any]], Sequence[Any]]:
        graph, targets, implementation = self.graph, self._targets, self._implementation
        if len(self._parts) > 1:
            program = PlacedProgram(
                graph,
                self._parts,
                targets,
                self._returned,
                implementation,
                workspaces=self._workspaces,
            )
            return self._concrete(program, use_xla=False)

        def whole(*inputs: Any) -> list[Any]:
            arrays = [
                read(x, value.spec) if i in targets else x
                for i, (x, value) in enumerate(zip(inputs, graph.inputs, strict=True))
            ]
            outputs = evaluate(graph, arrays, implementation)
            for position, index in targets.items():
                if outputs[index] is not arrays[position]:
                    ops.AssignVariableOp(resource=inputs[position], value=outputs[index])
            return [tf.identity(outputs[i]) for i in self._returned]

        return self._concrete(whole, use_xla=use_xla)

    def _concrete(
        self, program: Callable[..., list[Any]], *, use_xla: bool
    ) -> Callable[[list[Any]], Sequence[Any]]:
        signature = [
            tf.TensorSpec([], tf.resource)
            if i in self._targets
            else tf.TensorSpec(value.spec.shape, value.spec.dtype.name)
            for i, value in enumerate(self.graph.inputs)
        ]
        with tf.device(self._device_name):
            function = tf.function(
                program, input_signature=signature, autograph=False, jit_compile=use_xla
            ).get_concrete_function()
        return runtime_function(function)

    def _rehearse(self) -> None:
        """Run once on zeros: XLA compiles at the first call, which should not be the user's."""
        with tf.device(self._device_name):
            zeros = [tf.zeros(v.spec.shape, v.spec.dtype.name) for v in self.graph.inputs]
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            # too little memory for a second state beside the user's, but compiled
            self(zeros)

    def temporary_memory_bytes(self) -> int | None:
        if not self._parts:  # TensorFlow's executor plans nothing
            return None
        with tf32(self._tf32):
            return planned_bytes(
                self.graph,
                self._parts,
                self._targets,
                self._implementation,
                self.device,
                workspaces=self._workspaces,
            )

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        versions = {p: arrays[p] for p in self._targets if isinstance(arrays[p], VariableArray)}
        with on(self.device), tf32(self._tf32):
            variables = {position: as_variable(arrays[position]) for position in self._targets}
            inputs = [
                variables[position].handle if position in variables else as_tensor(array)
                for position, array in enumerate(arrays)
            ]
            if variables and isinstance(arrays, list):
                arrays.clear()  # a variable is updated in place where nothing else has its content
            found = self._function(inputs)
        outputs: list[Any] = [None] * len(self.graph.outputs)
        for index, tensor in zip(self._returned, found, strict=True):
            outputs[index] = tensor
        for version in versions.values():
            version.consume()
        for position, index in self._targets.items():
            outputs[index] = VariableArray(variables[position])
        if not self._is_compiled:
            self._is_compiled = True
            self.compile_time_s += time.perf_counter() - start
        return outputs


def _parts(graph: Graph, device: Device) -> list[PlacedPart]:
    """What XLA compiles, and on CPUs what it leaves to TensorFlow's kernels."""
    if device.kind == "cpu":
        return place(graph)
    return [PlacedPart(part, False) for part in partition(graph, [])]


def output_targets(graph: Graph, donate: Iterable[int]) -> dict[int, int]:
    """The output that takes the place of each donated input, where one can.

    An input that is returned as it is stays where it is; others take the first output of their
    shape and dtype, which in a training step is their own successor.
    """
    free = dict(enumerate(graph.outputs))
    targets: dict[int, int] = {}
    donated = sorted(donate)
    for position in donated:
        for index, value in free.items():
            if value is graph.inputs[position]:
                targets[position] = index
                del free[index]
                break
    for position in donated:
        if position in targets:
            continue
        for index, value in free.items():
            if value.spec == graph.inputs[position].spec:
                targets[position] = index
                del free[index]
                break
    return targets
