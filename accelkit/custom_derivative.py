"""Functions with a derivative of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from accelkit import tree
from accelkit.arguments import require_callable
from accelkit.errors import DifferentiationError, OptionError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.shaping import full
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace

__all__ = ["custom_vjp"]

P = ParamSpec("P")
R = TypeVar("R")


class _Part:
    """An argument, a value or residuals: a pytree whose tensors are operands of the primitive."""

    def __init__(self, value: Any) -> None:
        self.tensors, self.rest = tree.split(value, Tensor)

    def __len__(self) -> int:
        return len(self.tensors)

    def cotangents(self, value: Any, name: str) -> list[Tensor | None]:
        """What a backward rule returned for this pytree, one entry per tensor."""
        if value is None:
            return [None] * len(self)
        try:
            found = self.rest.structure.flatten_up_to(value)
        except (ValueError, TypeError) as error:
            raise DifferentiationError(
                f"The backward rule of {name!r} returned a cotangent of another structure than "
                f"its argument: {error}"
            ) from error
        chosen = [found[i] for i in self.rest.positions]
        for cotangent, tensor in zip(chosen, self.tensors, strict=True):
            given = cotangent.spec if isinstance(cotangent, Tensor) else type(cotangent).__name__
            if cotangent is not None and given != tensor.spec:
                raise DifferentiationError(
                    f"The backward rule of {name!r} gave a cotangent {given} for an argument "
                    f"{tensor.spec}; they must be equal."
                )
        return chosen


class _Rule:
    """Static part of one custom_vjp call; compared by identity."""

    def __init__(
        self,
        name: str,
        backward: Callable[..., Any],
        outputs: _Part,
        arguments: Sequence[_Part],
        residuals: _Part,
    ) -> None:
        self.name = name
        self.backward = backward
        self.outputs = outputs.rest.fill
        self.output_count = len(outputs)
        self.arguments = [(part.cotangents, len(part)) for part in arguments]
        self.residuals = residuals.rest.fill

    def __str__(self) -> str:
        return self.name


def _custom_infer(*specs: TensorSpec, rule: _Rule) -> tuple[TensorSpec, ...]:
    return specs[: rule.output_count]


def _custom_rule(g: Any, y: Any, *operands: Any, rule: _Rule) -> Sequence[Any]:
    """Operands are the outputs, then the arguments' tensors, then those of the residuals."""
    inputs = sum(count for _, count in rule.arguments)
    residuals = rule.residuals(operands[rule.output_count + inputs :])
    filled = [_zeros(t) if ct is None else ct for ct, t in zip(g, y, strict=True)]
    found = rule.backward(residuals, rule.outputs(filled))
    if not isinstance(found, tuple) or len(found) != len(rule.arguments):
        raise DifferentiationError(
            f"The backward rule of {rule.name!r} must return a tuple of {len(rule.arguments)} "
            f"cotangents, one per argument (None for no derivative), got {found!r}."
        )
    flat: list[Any] = []
    for part, (cotangents, _) in zip(found, rule.arguments, strict=True):
        flat += cotangents(part, rule.name)
    none: list[Any] = [None] * rule.output_count
    return [*none, *flat, *([None] * (len(operands) - len(none) - inputs))]


def _zeros(t: Tensor) -> Tensor:
    return full(shape=t.shape, value=0.0 if t.dtype.is_floating else 0, dtype=t.dtype)


_custom_gradient: Primitive[tuple[Tensor, ...]] = Primitive(
    "custom_gradient",
    _custom_infer,
    vjp=_custom_rule,
    definition=lambda *operands, rule: tuple(operands[: rule.output_count]),
    multiple_outputs=True,
    doc="The first operands themselves, with a derivative by a rule of the user's.",
)


class custom_vjp(Generic[P, R]):
    """A function with a derivative of your own.

    Args:
        function: From pytrees of tensors to a pytree of tensors.

    Then ``defvjp(forward, backward)``: ``forward(*args)`` returns ``(value, residuals)``,
    ``backward(residuals, cotangent)`` a tuple with one cotangent per argument, None for none.

    Raises:
        OptionError: when it is called with keyword arguments.
        DifferentiationError: when it is differentiated without these functions, or one of them
            returns something else.

    Example:
        >>> import accelkit as ak
        >>> @ak.custom_vjp
        ... def clipped(x):
        ...     return x
        >>> clipped.defvjp(lambda x: (x, ()), lambda _, g: (ak.clip(g, -1.0, 1.0),))
        >>> float(ak.grad(lambda x: 5.0 * clipped(x))(ak.asarray(2.0)))
        1.0
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "custom_vjp")
        self._forward: Callable[..., Any] | None = None
        self._backward: Callable[..., Any] | None = None

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Set the forward function, which also returns residuals, and the backward rule."""
        require_callable("forward", forward)
        require_callable("backward", backward)
        self._forward, self._backward = forward, backward

    def __repr__(self) -> str:
        return f"<custom_vjp {self.__name__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            raise OptionError(f"{self.__name__!r} takes positional arguments only.")
        if active_trace() is None:
            return self.function(*args, **kwargs)  # there are none, as mypy cannot know
        if self._forward is None or self._backward is None:
            raise DifferentiationError(
                f"{self.__name__!r} has no rule yet. Call {self.__name__}.defvjp(forward, "
                f"backward) first."
            )
        pair = self._forward(*args)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise DifferentiationError(
                f"The forward function of {self.__name__!r} must return a pair (value, residuals), "
                f"got {type(pair).__name__}."
            )
        outputs, residuals = map(_Part, pair)
        arguments = [_Part(argument) for argument in args]
        inputs = [t for part in arguments for t in part.tensors]
        rule = _Rule(self.__name__, self._backward, outputs, arguments, residuals)
        results = _custom_gradient(*outputs.tensors, *inputs, *residuals.tensors, rule=rule)
        result: R = outputs.rest.fill(results)
        return result
