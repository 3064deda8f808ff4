"""What a primitive is, and the table of all of them.

A primitive is one declaration. It names an operation, infers the shape and dtype of its
results, knows its derivative, counts its arithmetic, and explains itself. A *composite*
primitive also has a ``definition`` in terms of other primitives: a backend that has a fast
native form for it overrides it, for every other backend the definition is inlined.

Derivatives are vector-Jacobian products. A rule has the signature
``vjp(g, y, *inputs, **parameters)``: ``g`` is the cotangent of the output ``y`` (tuples of them
where the primitive has several outputs, with None for an output that nothing uses), and the
rule returns one cotangent per input, None where an input has none. Rules are written on
tensors with ordinary operators, so backward passes are differentiable themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from accelkit.errors import DTypeError, OptionError, ShapeError, UnknownNameError
from accelkit.graph import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from accelkit.tensor import Tensor

    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    R = TypeVar("R")

__all__ = ["PRIMITIVES", "Primitive", "get", "primitive"]

InferRule = Callable[..., TensorSpec | tuple[TensorSpec, ...]]
VjpRule = Callable[..., Sequence[Any]]
CostRule = Callable[[Sequence[TensorSpec], Sequence[TensorSpec], Mapping[str, Any]], int]


def _one_per_output_element(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    return sum(spec.size for spec in outputs if spec.dtype.is_floating)


def no_flops(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    """Cost of primitives that only move data."""
    return 0


def require_floating(name: str, spec: TensorSpec) -> TensorSpec:
    """``spec`` itself; DTypeError in the name of a primitive if it is not floating."""
    if not spec.dtype.is_floating:
        raise DTypeError(f"{name} needs a floating dtype, got {spec.dtype}.")
    return spec


class Primitive(Generic[R]):
    """One operation that backends implement. Call it with tensors and static parameters.

    The call returns ``R``: a tensor, or a tuple of tensors with ``multiple_outputs``.

    Attributes:
        name: Unique name; the key of a backend's table.
        elementwise: Whether output elements depend on the input elements of the same
            (broadcast) position only.
        multiple_outputs: Whether it returns a tuple.
        definition: Its meaning in terms of other primitives, for composites.
        lowerings: Native implementations added by users, by backend name.
        has_side_effect: Never merged or removed.
    """

    __slots__ = (
        "__dict__",
        "_cost",
        "_infer",
        "definition",
        "elementwise",
        "has_side_effect",
        "lowerings",
        "multiple_outputs",
        "name",
        "vjp",
    )

    def __init__(
        self,
        name: str,
        infer: InferRule,
        *,
        vjp: VjpRule | None = None,
        definition: Callable[..., Any] | None = None,
        flops: CostRule = _one_per_output_element,
        elementwise: bool = False,
        multiple_outputs: bool = False,
        has_side_effect: bool = False,
        doc: str | None = None,
    ) -> None:
        self.name = name
        self._infer = infer
        self.vjp = vjp
        self.definition = definition
        self._cost = flops
        self.elementwise = elementwise
        self.multiple_outputs = multiple_outputs
        self.has_side_effect = has_side_effect
        self.lowerings: dict[str, Callable[..., Any]] = {}
        self.__doc__ = doc

    def infer(
        self, inputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
    ) -> tuple[TensorSpec, ...]:
        """Shapes and dtypes of the outputs.

        Raises:
            ShapeError, DTypeError: if the operands do not fit.
            OptionError: if the rule returns anything but specs.
        """
        result: Any = self._infer(*inputs, **parameters)
        if isinstance(result, TensorSpec):
            return (result,)
        if not isinstance(result, tuple | list) or not all(
            isinstance(spec, TensorSpec) for spec in result
        ):
            raise OptionError(
                f"The shape rule of {self.name!r} must return an accelkit.graph.TensorSpec (or a "
                f"tuple of them), got {result!r}."
            )
        return tuple(result)

    def require_specs(
        self, source: str, found: Sequence[TensorSpec], expected: Sequence[TensorSpec]
    ) -> None:
        """Refuse results that the shape rule does not promise.

        Args:
            source: What computed them, for the message.
            found: What it gave.
            expected: What :meth:`infer` said.

        Raises:
            ShapeError: naming the primitive and both.
        """
        if list(found) != list(expected):
            raise ShapeError(
                f"The {source} of {self.name!r} gives {', '.join(map(str, found)) or 'nothing'} "
                f"where its shape rule says {', '.join(map(str, expected))}. Correct one of them."
            )

    def flops(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        parameters: Mapping[str, Any],
    ) -> int:
        """Floating-point operations of one execution; a multiply-add counts as two."""
        return self._cost(inputs, outputs, parameters)

    def lowering(self, backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: a native implementation for one backend, ``f(*arrays, **parameters)``.

        Example:
            >>> import accelkit as ak
            >>> cube = ak.primitive("doc_cube", lambda x: x, definition=lambda x: x * x * x)
            >>> @cube.lowering("numpy")
            ... def cube_numpy(x):
            ...     return x**3
        """

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self.lowerings[backend] = function
            return function

        return add

    def __call__(self, *inputs: Tensor, **parameters: Any) -> R:
        return cast("R", _bind(self, inputs, parameters))

    def __repr__(self) -> str:
        return f"<Primitive {self.name}>"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return get, (self.name,)


def _bind(
    primitive: Primitive, inputs: Sequence[Tensor], parameters: Mapping[str, Any]
) -> Tensor | tuple[Tensor, ...]:
    from accelkit.dispatch import bind

    globals()["_bind"] = bind  # the import is needed once only
    result: Tensor | tuple[Tensor, ...] = bind(primitive, inputs, parameters)
    return result


PRIMITIVES: dict[str, Primitive] = {}


def get(name: str) -> Primitive:
    """Look a primitive up by its name.

    Raises:
        UnknownNameError: if there is none of this name.
    """
    if name not in PRIMITIVES:
        raise UnknownNameError.of("primitive", name, PRIMITIVES)
    return PRIMITIVES[name]


@overload
def primitive(
    name: str,
    infer: InferRule,
    *,
    vjp: VjpRule | None = None,
    definition: Callable[..., Any] | None = None,
    flops: CostRule = _one_per_output_element,
    elementwise: bool = False,
    multiple_outputs: Literal[False] = False,
    has_side_effect: bool = False,
    doc: str | None = None,
) -> Primitive[Tensor]: ...


@overload
def primitive(
    name: str,
    infer: InferRule,
    *,
    vjp: VjpRule | None = None,
    definition: Callable[..., Any] | None = None,
    flops: CostRule = _one_per_output_element,
    elementwise: bool = False,
    multiple_outputs: Literal[True],
    has_side_effect: bool = False,
    doc: str | None = None,
) -> Primitive[tuple[Tensor, ...]]: ...


def primitive(
    name: str,
    infer: InferRule,
    *,
    vjp: VjpRule | None = None,
    definition: Callable[..., Any] | None = None,
    flops: CostRule = _one_per_output_element,
    elementwise: bool = False,
    multiple_outputs: bool = False,
    has_side_effect: bool = False,
    doc: str | None = None,
) -> Primitive:
    """Declare a primitive and enter it in the table. Research code may add its own.

    Args:
        name: Unique name.
        infer: ``infer(*specs, **parameters) -> TensorSpec`` (or a tuple of them).
        vjp: ``vjp(g, y, *inputs, **parameters) -> cotangents``. Without one, the derivative
            comes from ``definition``; without either, differentiation refuses by name.
        definition: The operation in terms of other primitives, on tensors.
        flops: ``flops(input_specs, output_specs, parameters) -> int``.
        elementwise: Whether it maps elements independently, broadcasting its operands.
        multiple_outputs: Whether it returns a tuple.
        has_side_effect: Never merged or removed.
        doc: The formula, in words or symbols.

    Raises:
        OptionError: if the name is taken.

    Example:
        >>> import accelkit as ak
        >>> square = ak.primitive(
        ...     "doc_square", lambda x: x, vjp=lambda g, y, x: (2.0 * g * x,),
        ...     definition=lambda x: x * x,
        ... )
        >>> float(square(ak.asarray(3.0)))
        9.0
    """
    if name in PRIMITIVES:
        raise OptionError(
            f"A primitive named {name!r} exists already. Choose another name, or add a native "
            f"implementation to it with `accelkit.primitives.get({name!r}).lowering(backend)`."
        )
    created: Primitive = Primitive(
        name,
        infer,
        vjp=vjp,
        definition=definition,
        flops=flops,
        elementwise=elementwise,
        multiple_outputs=multiple_outputs,
        has_side_effect=has_side_effect,
        doc=inspect.cleandoc(doc) if doc else None,
    )
    PRIMITIVES[name] = created
    return created
