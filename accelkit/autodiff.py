"""Reverse-mode differentiation, inside the trace.

A derivative is more nodes in the same graph: the recorded nodes between inputs and outputs are
visited in reverse, and each one's rule appends its cotangents. The result is an ordinary part of
the program, so it is optimised with the rest and can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelkit import tracing, tree
from accelkit.arguments import as_positions, require_callable
from accelkit.device import current_device, default_device
from accelkit.errors import DifferentiationError, DTypeError, OptionError, ShapeError
from accelkit.graph import Node, Value
from accelkit.primitives.elementwise import add, alias
from accelkit.primitives.elementwise import stop_gradient as stop_gradient_primitive
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.shaping import full
from accelkit.tensor import Tensor
from accelkit.tracing import Trace, active_trace

__all__ = ["grad", "stop_gradient", "value_and_grad", "vjp"]


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

    Raises:
        DifferentiationError: if a primitive has no derivative, or its rule returns too few.
    """
    active = {trace.value_of(x) for x in inputs}
    nodes = []
    for node in trace.nodes[start:]:
        if node.primitive is not stop_gradient_primitive and any(v in active for v in node.inputs):
            nodes.append(node)
            active.update(v for v in node.outputs if v.spec.dtype.is_floating)
    sums: dict[Value, Tensor] = {}
    for y, g in zip(outputs, cotangents, strict=True):
        if g is not None and y.dtype.is_floating:
            _accumulate(sums, trace.value_of(y), g)
    for node in reversed(nodes):
        found = [sums.get(v) for v in node.outputs]
        if all(g is None for g in found):
            continue
        with trace.labelled(scope=node.scope, phase="backward"):
            results = list(_cotangents(trace, node, found))
            if len(results) != len(node.inputs):
                raise DifferentiationError(
                    f"The derivative rule of {node.primitive.name!r} returned {len(results)} "
                    f"cotangents for {len(node.inputs)} operands; use None for no derivative."
                )
            for value, ct in zip(node.inputs, results, strict=True):
                if ct is not None and value in active:
                    _accumulate(sums, value, ct, node.primitive)
    return [sums.get(trace.value_of(x)) for x in inputs]


def _accumulate(
    sums: dict[Value, Tensor], value: Value, ct: Tensor, primitive: Primitive | None = None
) -> None:
    if ct.spec != value.spec:
        rule = f"The derivative rule of {primitive.name!r}" if primitive else "The caller"
        raise DifferentiationError(
            f"{rule} gave a cotangent {ct.spec} for a tensor {value.spec}; they must be equal."
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


def _loss_of(result: Any, has_aux: bool) -> Any:
    if not has_aux:
        return result
    if not isinstance(result, tuple) or len(result) != 2:
        raise OptionError(
            f"With has_aux=True the function must return a pair (loss, aux), got "
            f"{type(result).__name__}."
        )
    return result[0]


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
    require_callable("function", function, "grad takes it uncalled: grad(f)(x), not grad(f(x)).")
    positions = as_positions("argnums", argnums)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        chosen = [_argument(args, position) for position in positions]
        leaves, structure = tree.flatten(chosen)
        tensors = [_differentiable(leaf) for leaf in leaves]

        def primal(*inputs: Tensor) -> tuple[Any, list[Tensor]]:
            results: list[Any] = []

            def loss(*marked: Tensor) -> list[Tensor]:
                arguments = list(args)
                parts = tree.unflatten(structure, marked)
                for position, part in zip(positions, parts, strict=True):
                    arguments[position] = part
                results.append(function(*arguments, **kwargs))
                return [_loss_of(results[0], has_aux)]

            wanted = [True] * len(inputs)
            gradients = vjp_tensors(loss, inputs, lambda ys: [_scalar_seed(ys[0])], wanted)
            return results[0], gradients

        result, gradients = tracing_call(primal, tensors)
        parts = tree.unflatten(structure, gradients)
        return result, tuple(parts) if isinstance(argnums, Sequence) else parts[0]

    return _named(differentiated, "value_and_grad", function)


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

    return _named(differentiated, "grad", function)


def _named(
    derivative: Callable[..., Any], transform: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """The derivative under a name that says of what: programs and errors show it."""
    name = getattr(function, "__name__", type(function).__name__)
    derivative.__name__ = derivative.__qualname__ = f"{transform}({name})"
    return derivative


def vjp(function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, Callable[[Any], Any]]:
    """The value of ``function`` and its vector-Jacobian product at ``inputs``.

    Args:
        function: From tensors to a pytree of tensors.
        inputs: Floating tensors.

    Returns:
        ``(value, product)``, where ``product(cotangent)`` takes a pytree like ``value`` and
        returns a tuple with one cotangent per input. The function is traced again for it.

    Raises:
        DTypeError: for inputs that are not floating tensors, or a function that returns no tensors.
        ShapeError: by ``product``, for a cotangent that is not like the value.

    Example:
        >>> import accelkit as ak
        >>> y, product = ak.vjp(lambda x: x * 3.0, ak.asarray([1.0, 2.0]))
        >>> product(ak.asarray([1.0, 10.0]))[0].tolist()
        [3.0, 30.0]
    """
    require_callable("function", function, "vjp takes it uncalled: vjp(f, x), not vjp(f(x)).")
    points = [_differentiable(x) for x in inputs]
    value = function(*points)
    leaves, structure = tree.flatten(value)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise DTypeError(
                f"vjp needs a function that returns tensors, got {type(leaf).__name__}."
            )

    def product(cotangent: Any) -> tuple[Tensor, ...]:
        given, given_structure = tree.flatten(cotangent)
        if given_structure != structure or not all(map(_same_spec, given, leaves)):
            raise ShapeError(
                f"The cotangent must be like the value, {_specs(leaves)} in {structure}; got "
                f"{_specs(given)} in {given_structure}."
            )

        def both(*tensors: Tensor) -> list[Tensor]:
            xs, seeds = tensors[: len(points)], tensors[len(points) :]

            def primal(*marked: Tensor) -> list[Tensor]:
                return tree.flatten(function(*marked))[0]

            return vjp_tensors(primal, xs, lambda _: seeds, [True] * len(xs))

        return tuple(tracing_call(both, [*points, *given]))

    return value, product


def _same_spec(given: Any, expected: Tensor) -> bool:
    return isinstance(given, Tensor) and given.spec == expected.spec


def _specs(leaves: Sequence[Any]) -> str:
    return ", ".join(str(x.spec) if isinstance(x, Tensor) else repr(x) for x in leaves)


def _argument(args: Sequence[Any], position: int) -> Any:
    if not -len(args) <= position < len(args):
        raise OptionError(
            f"argnums={position} names no positional argument: the function was called with "
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

    rest: list[tree.Skeleton] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        results, skeleton = tree.split(function(*tensors), Tensor)
        rest.append(skeleton)
        return results

    device = inputs[0].device if inputs else None
    graph, captured = tracing.trace_graph(
        flat, [t.spec for t in inputs], name="eager", device=device
    )
    operands = [*inputs, *captured]
    with default_device(operands[0].device if operands else current_device()):
        results = apply_graph(eliminate_dead_code(graph), operands)
    return rest[0].fill(results)


def stop_gradient(x: Any) -> Any:
    """``x`` as a constant for differentiation: every tensor of the pytree gets no gradient.

    Example:
        >>> import accelkit as ak
        >>> float(ak.grad(lambda x: x * ak.stop_gradient(x))(ak.asarray(3.0)))
        3.0
    """
    return tree.map(lambda t: stop_gradient_primitive(t) if isinstance(t, Tensor) else t, x)
