"""Scopes: how a layer's ``forward`` asks for parameters, state, randomness and its children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.host import within_memory
from accelkit.nn.initializers import Initializer
from accelkit.random.philox import subkey
from accelkit.random.stream import Stream
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace

if TYPE_CHECKING:
    from accelkit.nn.module import Module

__all__ = ["ParameterSpec", "Scope", "Session"]


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
        """The first value, float32: a pure function of the seed and the dotted name.

        Raises:
            OutOfMemoryError: if the host's memory does not hold it.
            ShapeError: if the initializer draws another shape.
        """
        with within_memory(
            f"the first value of {name!r}", "Use a narrower model or smaller inputs"
        ):
            value = self.initializer(subkey(seed, 0, f"init:{name}", 0), self.shape)
            drawn = np.asarray(value, np.float32, order="C")  # ascontiguousarray adds an axis to ()
        if drawn.shape != self.shape:
            raise ShapeError(
                f"The initializer {self.initializer!r} of {name!r} drew an array of shape "
                f"{drawn.shape}, expected {self.shape}."
            )
        return drawn


@dataclass
class Session:
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

    def __init__(self, session: Session, path: str) -> None:
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
        session = self._session
        found = self._find("parameter", name, spec, session.declared, session.parameters)
        return found if found.dtype is self._session.dtype else found.astype(self._session.dtype)

    def state(self, name: str, shape: Sequence[int], initializer: Initializer) -> Tensor:
        """The state of this name; change it by :meth:`set_state`."""
        full = self._name(name)
        if full in self._session.new_state:
            return self._session.new_state[full]
        spec = ParameterSpec(tuple(shape), initializer)
        session = self._session
        return self._find("state", name, spec, session.declared_state, session.state)

    def set_state(self, name: str, value: Tensor) -> None:
        """The value that the state of this name has after this pass."""
        self._session.new_state[self._name(name)] = value

    def _find(
        self,
        kind: str,
        name: str,
        spec: ParameterSpec,
        declared: dict[str, ParameterSpec],
        values: Mapping[str, Tensor] | None,
    ) -> Tensor:
        full = self._name(name)
        if values is None:
            if full in declared and declared[full].shape != spec.shape:
                raise ShapeError(
                    f"The {kind} {full!r} is declared twice, with shapes {declared[full].shape} "
                    f"and {spec.shape}."
                )
            declared[full] = spec
            trace = active_trace()
            assert trace is not None
            return trace.add_input(TensorSpec(spec.shape, self._session.dtype), full)
        found = values.get(full)
        if found is None:
            given = ", ".join(sorted(values)[:8]) or "none"
            source = "init" if kind == "parameter" else "init_state"
            raise ShapeError(
                f"There is no {kind} {full!r} of shape {spec.shape}; given: {given}. "
                f"`model.{source}` makes them."
            )
        if found.shape != spec.shape:
            hint = " and images have their channels last, (N, H, W, C)" * (len(spec.shape) == 4)
            raise ShapeError(
                f"The {kind} {full!r} needs shape {spec.shape}, got {found.shape}: it was made for "
                f"inputs of another shape. Inputs are laid out as they were for `init`{hint}."
            )
        return found

    def key(self) -> Tensor:
        """A random key for this place and step.

        Raises:
            OptionError: if no source of randomness was given.
        """
        stream = self._session.stream
        if stream is None:
            raise OptionError(
                "It draws random numbers in training: pass `random=accelkit.random.key(seed, "
                "step=step)` to apply()."
            )
        result: Tensor = stream.key(self.path)
        return result

    def mark_batch_statistics(self) -> None:
        """Declare that a sample's result depends on the other samples of its batch."""
        self._session.uses_batch_statistics = True

    def run(self, name: str, module: Module, *inputs: Any, **options: Any) -> Any:
        """Run a child module in the sub-scope of this name.

        Raises:
            AccelkitError: with the child's path and input shapes in front.
        """
        scope = Scope(self._session, self._name(name))
        trace = active_trace()
        try:
            if trace is None:
                return module.forward(scope, *inputs, **options)
            with trace.labelled(scope=scope.path):
                return module.forward(scope, *inputs, **options)
        except AccelkitError as error:
            raise located(error, scope.path, module, inputs) from error.__cause__


def located(
    error: AccelkitError, path: str, module: Module, inputs: Sequence[Any]
) -> AccelkitError:
    """The error with the path of the innermost layer that raised it."""
    if getattr(error, "accelkit_layer", None) is not None:
        return error
    shapes = ", ".join(str(x.shape) for x in inputs if isinstance(x, Tensor))
    kind = type(module).__name__
    layer = f"Layer {path!r} ({kind})" if path else kind
    located = type(error)(f"{layer} on input {shapes}: {error}")
    located.accelkit_layer = path  # type: ignore[attr-defined]
    return located
