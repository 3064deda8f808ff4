"""Reverse-mode differentiation, inside the trace.

A derivative is more nodes in the same graph: the recorded nodes between inputs and outputs are
visited in reverse, and each one's rule appends its cotangents. The result is an ordinary part of
the program, so it is optimised with the rest and can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from accelkit import tracing, tree
from accelkit.errors import DifferentiationError, DTypeError, OptionError, ShapeError
from accelkit.graph import Node, TensorSpec, Value
from accelkit.primitives.elementwise import add, alias
from accelkit.primitives.elementwise import stop_gradient as stop_gradient_primitive
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.shaping import full
from accelkit.tensor import Tensor
from accelkit.tracing import Trace, active_trace

__all__ = ["custom_vjp", "grad", "stop_gradient", "value_and_grad", "vjp"]

P = ParamSpec("P")
R = TypeVar("R")


def backward(
    trace: Trace,
    start: int,
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
) -> list[Tensor | None]:
    """Append the reverse pass of everything recorded since ``start``.

    Args:
        trace: The active trace.
        start: Number of nodes when the inputs were marked.
        outputs: What is differentiated.
        cotangents: One per output, None for outputs that do not count.
        inputs: With respect to what.

    Returns:
        One cotangent per input, None where no path leads to it.
    """
    active = {trace.value_of(x) for x in inputs}
    nodes = []
    for node in trace.nodes[start:]:
        if any(v in active for v in node.inputs):
            nodes.append(node)
            active.update(v for v in node.outputs if v.spec.dtype.is_floating)
    sums: dict[Value, Tensor] = {}
    for y, g in zip(outputs, cotangents, strict=True):
        if g is not None:
            _accumulate(sums, trace.value_of(y), g)
    for node in reversed(nodes):
        found = [sums.get(v) for v in node.outputs]
        if all(g is None for g in found):
            continue
        with trace.labelled(scope=node.scope, phase="backward"):
            for value, ct in zip(node.inputs, _cotangents(trace, node, found), strict=True):
                if ct is not None and value in active:
                    _accumulate(sums, value, ct)
    return [sums.get(trace.value_of(x)) for x in inputs]


def _accumulate(sums: dict[Value, Tensor], value: Value, ct: Tensor) -> None:
    if ct.spec != value.spec:
        raise DifferentiationError(
            f"A derivative rule returned a cotangent {ct.spec} for an operand {value.spec}; they "
            f"must be equal."
        )
    sums[value] = add(sums[value], ct) if value in sums else ct


def _cotangents(trace: Trace, node: Node, found: Sequence[Tensor | None]) -> Sequence[Any]:
    primitive = node.primitive
    inputs = [Tensor._traced(v, trace) for v in node.inputs]
    ys = tuple(Tensor._traced(v, trace) for v in node.outputs)
    g = tuple(found)
    if primitive.vjp is not None:
        if primitive.multiple_outputs:
            return primitive.vjp(g, ys, *inputs, **node.parameters)
        return primitive.vjp(g[0], ys[0], *inputs, **node.parameters)
    if primitive.definition is not None:
        return _derived_vjp(primitive, g, inputs, node.parameters)
    raise DifferentiationError(
        f"The primitive {primitive.name!r} has no derivative"
        + (f" (used in {node.scope})" if node.scope else "")
        + ". Declare one with `vjp=`, give the primitive a definition, or wrap its operand in "
        "accelkit.stop_gradient."
    )


def _derived_vjp(
    primitive: Primitive, g: Sequence[Tensor | None], inputs: Sequence[Any], parameters: Any
) -> Sequence[Any]:
    """The rule that follows from a composite's definition."""

    def primal(*xs: Any) -> Sequence[Tensor]:
        assert primitive.definition is not None
        result = primitive.definition(*xs, **parameters)
        return result if primitive.multiple_outputs else (result,)

    wanted = [x.dtype.is_floating for x in inputs]
    found = iter(vjp_tensors(primal, inputs, lambda ys: g, wanted))
    return [next(found) if want else None for want in wanted]


def vjp_tensors(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    seed: Callable[[Sequence[Tensor]], Sequence[Tensor | None]],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Run ``function`` in the active trace and append its reverse pass.

    Args:
        function: From tensors to a sequence of tensors.
        inputs: Its arguments.
        seed: From the outputs to their cotangents.
        wanted: Which inputs' cotangents to return; zeros where no path leads to one.
    """
    trace = active_trace()
    assert trace is not None
    start = len(trace.nodes)
    marked = [alias(x) if want else x for x, want in zip(inputs, wanted, strict=True)]
    outputs = function(*marked)
    targets = [x for x, want in zip(marked, wanted, strict=True) if want]
    found = backward(trace, start, outputs, seed(outputs), targets)
    return [
        full(shape=x.shape, value=0.0, dtype=x.dtype) if ct is None else ct
        for x, ct in zip(targets, found, strict=True)
    ]


def _scalar_seed(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise DTypeError(
            f"grad needs a function that returns a Tensor (and, with has_aux=True, anything "
            f"beside it), got {type(loss).__name__}."
        )
    if loss.shape != () or not loss.dtype.is_floating:
        raise ShapeError(
            f"grad needs a floating scalar, got {loss.spec}. Reduce it with .sum() or .mean(), or "
            f"use accelkit.vjp with a cotangent."
        )
    return full(shape=(), value=1.0, dtype=loss.dtype)


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns ``function``'s value and its gradient.

    Args:
        function: Returns a floating scalar tensor, or with ``has_aux`` a pair of it and
            anything else.
        argnums: Position of the argument, a pytree of floating tensors, to differentiate by, or
            positions of several.
        has_aux: Whether ``function`` returns a pair.

    Returns:
        ``f(*args, **kwargs) -> (value, gradient)``, where ``value`` is what ``function`` returns
        and the gradient has the structure of the argument (a tuple of them for several).

    Raises:
        ShapeError: if the value is no scalar.
        DTypeError: if an argument to differentiate by holds a tensor that is not floating.

    Example:
        >>> import accelkit as ak
        >>> value, slope = ak.value_and_grad(lambda x: (x * x).sum())(ak.asarray([1.0, 2.0]))
        >>> float(value), slope.tolist()
        (5.0, [2.0, 4.0])
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        chosen = [_argument(args, position) for position in positions]
        leaves, structure = tree.flatten(chosen)
        tensors = [_differentiable(leaf) for leaf in leaves]

        def primal(*inputs: Tensor) -> tuple[Any, list[Tensor]]:
            trace = active_trace()
            assert trace is not None
            start = len(trace.nodes)
            marked = [alias(x) for x in inputs]
            arguments = list(args)
            for position, part in zip(positions, tree.unflatten(structure, marked), strict=True):
                arguments[position] = part
            result = function(*arguments, **kwargs)
            loss = result[0] if has_aux else result
            found = backward(trace, start, [loss], [_scalar_seed(loss)], marked)
            return result, [
                full(shape=x.shape, value=0.0, dtype=x.dtype) if ct is None else ct
                for x, ct in zip(marked, found, strict=True)
            ]

        result, gradients = tracing_call(primal, tensors)
        parts = tree.unflatten(structure, gradients)
        return result, parts[0] if isinstance(argnums, int) else tuple(parts)

    return differentiated


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of ``function``; see :func:`value_and_grad`.

    With ``has_aux`` it returns ``(gradient, aux)``. Gradients of gradients work the same way.

    Example:
        >>> import accelkit as ak
        >>> float(ak.grad(ak.grad(lambda x: x * x * x))(ak.asarray(2.0)))
        12.0
    """
    both = value_and_grad(function, argnums, has_aux=has_aux)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def vjp(function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, Callable[[Any], Any]]:
    """The value of ``function`` and its vector-Jacobian product at ``inputs``.

    Args:
        function: From tensors to a pytree of tensors.
        inputs: Floating tensors.

    Returns:
        ``(value, product)``, where ``product(cotangent)`` takes a pytree like ``value`` and
        returns a tuple with one cotangent per input. The function is traced again for it.

    Example:
        >>> import accelkit as ak
        >>> y, product = ak.vjp(lambda x: x * 3.0, ak.asarray([1.0, 2.0]))
        >>> product(ak.asarray([1.0, 10.0]))[0].tolist()
        [3.0, 30.0]
    """
    value = function(*inputs)

    def product(cotangent: Any) -> tuple[Tensor, ...]:
        given, _ = tree.flatten(cotangent)
        for x in inputs:
            _differentiable(x)

        def both(*tensors: Tensor) -> list[Tensor]:
            xs, seeds = tensors[: len(inputs)], tensors[len(inputs) :]

            def primal(*marked: Tensor) -> list[Tensor]:
                return tree.flatten(function(*marked))[0]

            return vjp_tensors(primal, xs, lambda _: seeds, [True] * len(xs))

        return tuple(tracing_call(both, [*inputs, *given]))

    return value, product


def _argument(args: Sequence[Any], position: int) -> Any:
    if not -len(args) <= position < len(args):
        raise OptionError(
            f"argnums={position} needs at least {position + 1} positional arguments, got "
            f"{len(args)}."
        )
    return args[position]


def _differentiable(leaf: Any) -> Tensor:
    from accelkit.ops import asarray

    tensor = leaf if isinstance(leaf, Tensor) else asarray(leaf)
    if not tensor.dtype.is_floating:
        raise DTypeError(
            f"Only floating tensors have gradients, got {tensor.spec}. Pass it as an argument "
            f"that argnums does not name, or convert it with .astype('float32')."
        )
    return tensor


def tracing_call(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """Call ``function`` in the active trace, or trace it now and run the result eagerly.

    ``function`` returns a pytree; its leaves that are tensors come back with data.
    """
    if active_trace() is not None:
        return function(*inputs)
    from accelkit.passes import eliminate_dead_code
    from accelkit.primitives.control import apply_graph

    structure: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        leaves, spec = tree.flatten(function(*tensors))
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        structure.append((leaves, spec, positions))
        return [leaves[i] for i in positions]

    device = inputs[0].device if inputs else None
    graph, captured = tracing.trace_graph(
        flat, [TensorSpec(t.shape, t.dtype) for t in inputs], name="eager", device=device
    )
    results = apply_graph(eliminate_dead_code(graph), [*inputs, *captured])
    leaves, spec, positions = structure[0]
    for position, result in zip(positions, results, strict=True):
        leaves[position] = result
    return tree.unflatten(spec, leaves)


def stop_gradient(x: Any) -> Any:
    """``x`` as a constant for differentiation: every tensor of the pytree gets no gradient.

    Example:
        >>> import accelkit as ak
        >>> float(ak.grad(lambda x: x * ak.stop_gradient(x))(ak.asarray(3.0)))
        3.0
    """
    return tree.map(lambda t: stop_gradient_primitive(t) if isinstance(t, Tensor) else t, x)


def _custom_infer(*specs: TensorSpec, rule: _Rule) -> tuple[TensorSpec, ...]:
    return specs[: rule.output_count]


def _custom_rule(g: Any, y: Any, *operands: Any, rule: _Rule) -> Sequence[Any]:
    inputs = operands[rule.output_count : rule.output_count + rule.input_count]
    residuals = tree.unflatten(
        rule.residual_structure, operands[rule.output_count + rule.input_count :]
    )
    filled = [
        full(shape=t.shape, value=0.0, dtype=t.dtype) if ct is None else ct
        for ct, t in zip(g, y, strict=True)
    ]
    cotangent = tree.unflatten(rule.output_structure, filled)
    found = rule.backward(residuals, cotangent)
    if not isinstance(found, tuple) or len(found) != rule.argument_count:
        raise DifferentiationError(
            f"The backward rule of {rule.name!r} must return a tuple of {rule.argument_count} "
            f"cotangents, one per argument (None for no derivative), got {found!r}."
        )
    flat: list[Any] = []
    for part, structure in zip(found, rule.argument_structures, strict=True):
        count = structure.num_leaves
        flat += [None] * count if part is None else tree.flatten(part)[0]
    none = [None] * rule.output_count
    rest = [None] * (len(operands) - rule.output_count - len(inputs))
    return [*none, *flat, *rest]


class _Rule:
    """Static part of one custom_vjp call; compared by identity."""

    def __init__(self, name: str, backward: Callable[..., Any]) -> None:
        self.name = name
        self.backward = backward
        self.output_count = self.input_count = self.argument_count = 0
        self.output_structure: Any = None
        self.residual_structure: Any = None
        self.argument_structures: list[Any] = []

    def __lt__(self, other: _Rule) -> bool:
        return id(self) < id(other)

    def __str__(self) -> str:
        return self.name


_custom_gradient = Primitive(
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
        self._forward, self._backward = forward, backward

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            raise OptionError(f"{self.__name__!r} takes positional arguments only.")
        if active_trace() is None:
            return self.function(*args)
        if self._forward is None or self._backward is None:
            raise DifferentiationError(
                f"{self.__name__!r} has no rule yet. Call {self.__name__}.defvjp(forward, "
                f"backward) first."
            )
        rule = _Rule(self.__name__, self._backward)
        flats = [tree.flatten(argument) for argument in args]
        value, residuals = self._forward(*args)
        outputs, rule.output_structure = tree.flatten(value)
        kept, rule.residual_structure = tree.flatten(residuals)
        inputs = [leaf for leaves, _ in flats for leaf in leaves]
        rule.argument_structures = [structure for _, structure in flats]
        rule.argument_count, rule.input_count = len(args), len(inputs)
        rule.output_count = len(outputs)
        results = _custom_gradient(*outputs, *inputs, *kept, rule=rule)
        result: R = tree.unflatten(rule.output_structure, list(results))
        return result
