"""Modules: layers as frozen dataclasses, parameters as plain nested dicts.

A module's fields are its configuration; it holds no tensors. Its ``forward(scope, x)`` asks the
scope for the parameters it needs, by name, shape and initialiser, and runs its children in named
sub-scopes. That one method is both the declaration and the computation: ``init`` runs it on shapes
to find out which parameters there are, ``apply`` runs it on values.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelkit import dtypes, tree
from accelkit.arguments import require_instance
from accelkit.device import Device, current_device, default_device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, DTypeError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.nn.scope import ParameterSpec, Scope, Session, located
from accelkit.ops.coercion import asarray, put
from accelkit.random.stream import Stream
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph

__all__ = ["Module", "ModuleSpec", "ParameterSpec", "Scope"]

Nested = Mapping[str, Any]


@dataclass(frozen=True)
class ModuleSpec:
    """What a module declares for one input.

    Attributes:
        parameters: By dotted name, in the order of the forward pass.
        state: Statistics that training updates, likewise.
        output: Spec of the result; a dict, list or tuple of them where it returns several.
        uses_batch_statistics: Whether a sample's result depends on the others in its batch.
    """

    parameters: dict[str, ParameterSpec]
    state: dict[str, ParameterSpec]
    output: Any
    uses_batch_statistics: bool

    @property
    def parameter_count(self) -> int:
        """Number of parameters, all elements counted."""
        return sum(spec.size for spec in self.parameters.values())

    def __str__(self) -> str:
        from accelkit.nn.printing import spec_lines

        return "\n".join(spec_lines(self))


def flatten_names(nested: Nested, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested dict, in its own order."""
    for key, value in nested.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flatten_names(value, name)
        else:
            yield name, value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of dotted names."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        level = result
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return result


class Module:
    """Base class of layers and models. Subclass it as a frozen dataclass and write ``forward``.

    Example:
        >>> from dataclasses import dataclass
        >>> import accelkit as ak
        >>> from accelkit import nn
        >>> @dataclass(frozen=True)
        ... class Scale(nn.Module):
        ...     start: float = 1.0
        ...     def forward(self, scope, x):
        ...         return x * scope.parameter("scale", x.shape[-1:], nn.Constant(self.start))
        >>> model = Scale(2.0)
        >>> parameters = model.init(0, (1, 3))
        >>> model(parameters, ak.ones((1, 3))).tolist()
        [[2.0, 2.0, 2.0]]
    """

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        """Compute the result, asking ``scope`` for parameters and running children in it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(scope, x).")

    def specify(
        self,
        input_shape: Sequence[int],
        *,
        input_dtype: DType | str = "float32",
        training: bool = False,
    ) -> ModuleSpec:
        """What the module declares for inputs of this shape (batch axis included).

        Raises:
            ShapeError: with the path of the layer that the input does not fit.
        """
        spec = TensorSpec(_positive_shape(input_shape), dtypes.dtype(input_dtype))
        dtype = spec.dtype if spec.dtype.is_floating else dtypes.float32
        session = Session(training, dtype, Stream(0), None, None)
        outputs: list[Any] = []

        def function(x: Tensor) -> list[Tensor]:
            outputs.append(output_specs(self, self._run(session, x)))
            return []

        trace_graph(function, [spec], name=type(self).__name__)
        return ModuleSpec(
            session.declared, session.declared_state, outputs[0], session.uses_batch_statistics
        )

    def init(
        self,
        seed: int,
        input_shape: Sequence[int],
        *,
        input_dtype: DType | str = "float32",
        dtype: DType | str = "float32",
        device: str | Device | None = None,
    ) -> dict[str, Any]:
        """Draw the initial parameters, the same bits for every backend.

        They are drawn on the host in float32, each from the seed and its own name, and then
        converted, so that runs of another precision start from the same numbers.

        Args:
            seed: 0 <= seed < 2^64.
            input_shape: Shape of an input, batch axis included.
            input_dtype: Dtype of an input.
            dtype: Dtype of the parameters.
            device: Where they go; the default device if None.

        Returns:
            Nested dict of tensors, e.g. ``parameters["features"]["0"]["weight"]``.
        """
        spec = self.specify(input_shape, input_dtype=input_dtype, training=True)
        return nest(_place(spec.parameters, seed, dtype, device))

    def init_state(
        self,
        input_shape: Sequence[int],
        *,
        input_dtype: DType | str = "float32",
        dtype: DType | str = "float32",
        device: str | Device | None = None,
    ) -> dict[str, Any]:
        """The initial state (statistics that training updates): a nested dict, empty if none."""
        spec = self.specify(input_shape, input_dtype=input_dtype, training=True)
        return nest(_place(spec.state, 0, dtype, device))

    def apply(
        self,
        parameters: Nested,
        *inputs: Any,
        training: bool = False,
        random: Stream | Tensor | None = None,
        state: Nested | None = None,
        first_sample: int = 0,
    ) -> tuple[Any, dict[str, Any]]:
        """Compute the result and the new state. Pure: nothing given is changed.

        What the module creates (keys, masks, constants) lands on the device of its parameters.

        Args:
            parameters: As returned by :meth:`init`.
            inputs: Tensors, or arrays of the host.
            training: Whether dropout drops and batch norm uses the batch.
            random: Source of keys, needed if the model draws random numbers: a stream, or a key of
                :func:`accelkit.random.key`, which in a compiled function may be an argument.
            state: As returned by :meth:`init_state`; needed if the model has state.
            first_sample: Index of the first sample in the whole batch, if this is a part of one.

        Returns:
            ``(result, new_state)``.

        Raises:
            OptionError: if parameters or state are not as ``init`` and ``init_state`` make them.
            ShapeError: with the path of the layer that an input does not fit.
        """
        if not isinstance(parameters, Mapping):
            raise OptionError(
                f"The parameters come first, model(parameters, x), and are a dict as `model.init` "
                f"makes it; got {type(parameters).__name__}."
            )
        flat = dict(flatten_names(parameters))
        for name, value in flat.items():
            if not isinstance(value, Tensor):
                raise OptionError(
                    f"The parameter {name!r} must be a Tensor, got {type(value).__name__}. Put it "
                    f"on a device with accelkit.asarray."
                )
        dtype = next((p.dtype for p in flat.values() if p.dtype.is_floating), dtypes.float32)
        if state is not None and not isinstance(state, Mapping):
            raise OptionError(
                f"`state` must be a dict as `model.init_state` makes it, got "
                f"{type(state).__name__}."
            )
        old_state = dict(flatten_names(state or {}))
        random = Stream(random) if isinstance(random, Tensor) else random
        if random is not None:
            require_instance("random", random, Stream, "Give accelkit.random.key(seed, step=step).")
        session = Session(training, dtype, random, flat, old_state, first_sample)
        with _on_device_of([*flat.values(), *inputs]):
            given = (asarray(x) if isinstance(x, np.ndarray) else x for x in inputs)
            result = self._run(session, *given)
        return result, nest({**old_state, **session.new_state})

    def _run(self, session: Session, *inputs: Any) -> Any:
        try:
            return self.forward(Scope(session, ""), *inputs)
        except AccelkitError as error:
            raise located(error, "", self, inputs) from error.__cause__

    def __str__(self) -> str:
        from accelkit.nn.printing import module_lines

        return "\n".join(module_lines(self))

    def __call__(self, parameters: Nested, *inputs: Any, state: Nested | None = None) -> Any:
        """The result of inference: :meth:`apply` without training."""
        return self.apply(parameters, *inputs, state=state)[0]


def output_specs(module: Module, result: Any) -> Any:
    """The specs of a module's result: of one tensor, or a pytree of them.

    Raises:
        OptionError: if it holds no tensor.
    """
    if not any(isinstance(leaf, Tensor) for leaf in tree.flatten(result)[0]):
        raise OptionError(
            f"{type(module).__name__}.forward must return a Tensor, or dicts, lists and tuples of "
            f"them; got {type(result).__name__}."
        )
    return tree.map(lambda leaf: leaf.spec if isinstance(leaf, Tensor) else leaf, result)


def _positive_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        extents = tuple(map(operator.index, shape))
    except TypeError:
        extents = (0,)
    if any(n < 1 for n in extents):
        raise ShapeError(
            f"An input_shape holds positive integers, the batch axis first, for example "
            f"(32, 224, 224, 3); got {shape!r}."
        )
    return extents


@contextlib.contextmanager
def _on_device_of(values: Sequence[Any]) -> Iterator[None]:
    """Create tensors beside the first of these that has data, outside of traces."""
    eager = (x.device for x in values if isinstance(x, Tensor) and not x.is_traced)
    device = next(eager, None) if active_trace() is None else None
    with contextlib.nullcontext() if device is None else default_device(device):
        yield


def _place(
    specs: Mapping[str, ParameterSpec], seed: int, dtype: DType | str, device: str | Device | None
) -> dict[str, Tensor]:
    """Draw and place; the next parameter is drawn while the last one travels."""
    target = current_device() if device is None else find_device(device)
    wanted = dtypes.dtype(dtype)
    if not wanted.is_floating:
        raise DTypeError(f"The dtype of parameters and state is floating, got {wanted}.")
    converted = wanted.numpy
    draw: Callable[[str], np.ndarray] = lambda name: (  # noqa: E731
        specs[name].draw(seed, name).astype(converted, copy=False)
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        drawn = pool.map(draw, specs)
        return {name: put(value, target) for name, value in zip(specs, drawn, strict=True)}
