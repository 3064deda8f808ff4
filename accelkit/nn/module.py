"""Modules: layers as frozen dataclasses, parameters as plain nested dicts.

A module's fields are its configuration; it holds no tensors. Its ``forward(scope, x)`` asks the
scope for the parameters it needs, by name, shape and initialiser, and runs its children in named
sub-scopes. That one method is both the declaration and the computation: ``init`` runs it on shapes
to find out which parameters there are, ``apply`` runs it on values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.device import Device, current_device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.nn.initializers import Initializer
from accelkit.ops.coercion import put
from accelkit.random.philox import subkey
from accelkit.random.stream import Stream
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph

__all__ = ["Module", "ModuleSpec", "ParameterSpec", "Scope"]

Nested = Mapping[str, Any]


@dataclass(frozen=True)
class ParameterSpec:
    """A declared parameter or state: its shape, and how its first value is drawn."""

    shape: tuple[int, ...]
    initializer: Initializer

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def draw(self, seed: int, name: str) -> np.ndarray:
        """The first value, float32: a pure function of the seed and the dotted name."""
        value = self.initializer(subkey(seed, 0, f"init:{name}", 0), self.shape)
        return np.ascontiguousarray(value, np.float32)


@dataclass(frozen=True)
class ModuleSpec:
    """What a module declares for one input.

    Attributes:
        parameters: By dotted name, in the order of the forward pass.
        state: Statistics that training updates, likewise.
        output: Spec of the result.
        uses_batch_statistics: Whether a sample's result depends on the others in its batch.
    """

    parameters: dict[str, ParameterSpec]
    state: dict[str, ParameterSpec]
    output: TensorSpec
    uses_batch_statistics: bool

    @property
    def parameter_count(self) -> int:
        """Number of parameters, all elements counted."""
        return sum(spec.size for spec in self.parameters.values())


@dataclass
class _Session:
    """What all scopes of one run share."""

    training: bool
    dtype: DType
    stream: Stream | None
    parameters: Mapping[str, Tensor] | None  # None while declaring
    state: Mapping[str, Tensor] | None
    first_sample: int = 0
    new_state: dict[str, Tensor] = field(default_factory=dict)
    declared: dict[str, ParameterSpec] = field(default_factory=dict)
    declared_state: dict[str, ParameterSpec] = field(default_factory=dict)
    uses_batch_statistics: bool = False


class Scope:
    """A place in a model: hands out parameters, state and random keys by name.

    Attributes:
        path: Dotted path of the module that runs here.
        training: Whether this is a training pass.
    """

    def __init__(self, session: _Session, path: str) -> None:
        self._session = session
        self.path = path

    @property
    def training(self) -> bool:
        """Whether this is a training pass: dropout drops, batch norm uses the batch."""
        return self._session.training

    @property
    def first_sample(self) -> int:
        """Index, in the whole batch, of the first sample given here: not 0 in a micro-batch.

        Random tensors with one row per sample start at this row, so that they do not depend on
        how a batch is cut.
        """
        return self._session.first_sample

    def _name(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def parameter(self, name: str, shape: Sequence[int], initializer: Initializer) -> Tensor:
        """The parameter of this name.

        Args:
            name: Unique within this scope; no dots.
            shape: Its shape.
            initializer: Draws its first value.

        Raises:
            ShapeError: if the given parameters hold none of this name and shape.
        """
        spec = ParameterSpec(tuple(shape), initializer)
        found = self._find(name, spec, self._session.declared, self._session.parameters)
        return found if found.dtype is self._session.dtype else found.astype(self._session.dtype)

    def state(self, name: str, shape: Sequence[int], initializer: Initializer) -> Tensor:
        """The state of this name; change it by :meth:`set_state`."""
        full = self._name(name)
        if full in self._session.new_state:
            return self._session.new_state[full]
        spec = ParameterSpec(tuple(shape), initializer)
        return self._find(name, spec, self._session.declared_state, self._session.state)

    def set_state(self, name: str, value: Tensor) -> None:
        """The value that the state of this name has after this pass."""
        self._session.new_state[self._name(name)] = value

    def _find(
        self,
        name: str,
        spec: ParameterSpec,
        declared: dict[str, ParameterSpec],
        values: Mapping[str, Tensor] | None,
    ) -> Tensor:
        full = self._name(name)
        if values is None:
            if full in declared and declared[full].shape != spec.shape:
                raise ShapeError(
                    f"Parameter {full!r} is declared twice, with shapes {declared[full].shape} and "
                    f"{spec.shape}."
                )
            declared[full] = spec
            trace = active_trace()
            assert trace is not None
            return trace.add_input(TensorSpec(spec.shape, self._session.dtype), full)
        found = values.get(full)
        if found is None:
            near = ", ".join(sorted(values)[:8]) or "none"
            raise ShapeError(f"There is no parameter {full!r} of shape {spec.shape}. Given: {near}")
        if found.shape != spec.shape:
            raise ShapeError(f"Parameter {full!r} needs shape {spec.shape}, got {found.shape}.")
        return found

    def key(self) -> Tensor:
        """A random key for this place and step.

        Raises:
            OptionError: if no source of randomness was given.
        """
        stream = self._session.stream
        if stream is None:
            raise OptionError(
                f"Layer {self.path!r} draws random numbers. Pass `random=accelkit.random.Stream("
                f"seed, step=step)` to apply()."
            )
        result: Tensor = stream.key(self.path)
        return result

    def mark_batch_statistics(self) -> None:
        """Declare that a sample's result depends on the other samples of its batch."""
        self._session.uses_batch_statistics = True

    def run(self, name: str, module: Module, *inputs: Any, **options: Any) -> Any:
        """Run a child module in the sub-scope of this name.

        Raises:
            ShapeError, DTypeError, OptionError: with the child's path and input shapes.
        """
        scope = Scope(self._session, self._name(name))
        trace = active_trace()
        try:
            if trace is None:
                return module.forward(scope, *inputs, **options)
            with trace.labelled(scope=scope.path):
                return module.forward(scope, *inputs, **options)
        except (ShapeError, DTypeError, OptionError) as error:
            raise _located(error, scope.path, module, inputs) from error.__cause__


def _located(error: Exception, path: str, module: Module, inputs: Sequence[Any]) -> Exception:
    """The error with the path of the innermost layer that raised it."""
    if getattr(error, "accelkit_layer", None) is not None:
        return error
    shapes = ", ".join(str(x.shape) for x in inputs if isinstance(x, Tensor))
    located = type(error)(f"Layer {path!r} ({type(module).__name__}) on input {shapes}: {error}")
    located.accelkit_layer = path  # type: ignore[attr-defined]
    return located


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
        spec = TensorSpec(tuple(input_shape), dtypes.dtype(input_dtype))
        dtype = spec.dtype if spec.dtype.is_floating else dtypes.float32
        session = _Session(training, dtype, Stream(0), None, None)
        outputs: list[TensorSpec] = []

        def function(x: Tensor) -> list[Tensor]:
            y = self._run(session, x)
            outputs.append(y.spec)
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
        random: Stream | None = None,
        state: Nested | None = None,
        first_sample: int = 0,
    ) -> tuple[Any, dict[str, Any]]:
        """Compute the result and the new state. Pure: nothing given is changed.

        Args:
            parameters: As returned by :meth:`init`.
            inputs: Tensors.
            training: Whether dropout drops and batch norm uses the batch.
            random: Source of keys; needed if the model draws random numbers.
            state: As returned by :meth:`init_state`; needed if the model has state.
            first_sample: Index of the first sample in the whole batch, if this is a part of one.

        Returns:
            ``(result, new_state)``.
        """
        flat = dict(flatten_names(parameters))
        dtype = next((p.dtype for p in flat.values() if p.dtype.is_floating), dtypes.float32)
        old_state = dict(flatten_names(state or {}))
        session = _Session(training, dtype, random, flat, old_state, first_sample)
        result = self._run(session, *inputs)
        return result, nest({**old_state, **session.new_state})

    def _run(self, session: _Session, *inputs: Any) -> Any:
        try:
            return self.forward(Scope(session, ""), *inputs)
        except (ShapeError, DTypeError, OptionError) as error:
            raise _located(error, "", self, inputs) from error.__cause__

    def __call__(self, parameters: Nested, *inputs: Any, state: Nested | None = None) -> Any:
        """The result of inference: :meth:`apply` without training."""
        return self.apply(parameters, *inputs, state=state)[0]


def _place(
    specs: Mapping[str, ParameterSpec], seed: int, dtype: DType | str, device: str | Device | None
) -> dict[str, Tensor]:
    """Draw and place; the next parameter is drawn while the last one travels."""
    target = current_device() if device is None else find_device(device)
    converted = dtypes.dtype(dtype).numpy
    draw: Callable[[str], np.ndarray] = lambda name: (  # noqa: E731
        specs[name].draw(seed, name).astype(converted, copy=False)
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        drawn = pool.map(draw, specs)
        return {name: put(value, target) for name, value in zip(specs, drawn, strict=True)}
