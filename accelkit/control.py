"""Control flow on tensors: :func:`cond` and :func:`scan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelkit import tree
from accelkit.arguments import require_callable, require_integer
from accelkit.errors import OptionError, ShapeError
from accelkit.graph import Graph, TensorSpec, Value
from accelkit.ops.coercion import asarray, tensor
from accelkit.primitives import control
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph

__all__ = ["cond", "scan"]


def _trace_flat(
    function: Callable[..., Any], specs: list[TensorSpec], structure: Any, name: str
) -> tuple[Graph, list[Tensor], Any]:
    found: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        leaves, result = tree.flatten(function(*tree.unflatten(structure, tensors)))
        found.append(result)
        return [tensor(leaf) for leaf in leaves]

    graph, captured = trace_graph(flat, specs, name=name)
    return graph, captured, found[0]


def _with_inputs(graph: Graph, own: int, captured: list[Tensor], union: list[Tensor]) -> Graph:
    """The graph with its captured inputs laid out as in ``union``; others are unused."""
    position = {id(t): i for i, t in enumerate(union)}
    extra = [Value(t.spec, None, own + i) for i, t in enumerate(union)]
    for value, t in zip(graph.inputs[own:], captured, strict=True):
        extra[position[id(t)]] = value
    return Graph([*graph.inputs[:own], *extra], graph.nodes, graph.outputs, name=graph.name)


def _together(leaves: Sequence[Any]) -> list[Tensor]:
    """All leaves as tensors; numbers and arrays go to the device of the tensors among them."""
    eager = (x.device for x in leaves if isinstance(x, Tensor) and not x.is_traced)
    device = None if active_trace() is not None else next(eager, None)
    return [x if isinstance(x, Tensor) else asarray(x, device=device) for x in leaves]


def cond(
    predicate: Any,
    true_function: Callable[..., Any],
    false_function: Callable[..., Any],
    *operands: Any,
) -> Any:
    """``true_function(*operands)`` where the scalar bool ``predicate`` holds, else the other.

    Both must return the same structure, shapes and dtypes; both may use tensors from around them.
    A backend without native control flow computes both and selects.

    Raises:
        DTypeError: if the predicate is not a bool scalar.
        ShapeError: if the branches return different structures, shapes or dtypes.

    Example:
        >>> import accelkit as ak
        >>> x = ak.asarray(2.0)
        >>> float(ak.cond(x > 0.0, lambda v: v * 10.0, lambda v: -v, x))
        20.0
    """
    require_callable("true_function", true_function)
    require_callable("false_function", false_function)
    leaves, structure = tree.flatten(operands)
    condition, *tensors = _together([predicate, *leaves])
    specs = [t.spec for t in tensors]
    true_graph, true_captured, true_result = _trace_flat(true_function, specs, structure, "true")
    false_graph, false_captured, result = _trace_flat(false_function, specs, structure, "false")
    if true_result != result:
        raise ShapeError(
            f"Both branches of cond must return the same structure, got {true_result} and {result}."
        )
    union = list({id(t): t for t in [*true_captured, *false_captured]}.values())
    outputs = control.cond(
        condition,
        *tensors,
        *union,
        true_graph=_with_inputs(true_graph, len(specs), true_captured, union),
        false_graph=_with_inputs(false_graph, len(specs), false_captured, union),
    )
    return tree.unflatten(result, list(outputs))


def scan(
    function: Callable[[Any, Any], tuple[Any, Any]],
    initial: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """A loop with a carry: ``carry, y = function(carry, x)`` for each element of ``xs``.

    Args:
        function: Returns a carry of the same structure, shapes and dtypes, and anything beside it.
        initial: The first carry, a pytree of tensors.
        xs: A pytree of tensors with one leading axis of equal extent, or None.
        length: Number of steps; needed if ``xs`` is None.
        reverse: Whether to run from the last element to the first.

    Returns:
        The last carry, and the ys stacked along a new leading axis.

    Raises:
        OptionError: if the function does not return a pair.
        ShapeError: if there is no one length, or the carry changes.

    Example:
        >>> import accelkit as ak
        >>> total, running = ak.scan(
        ...     lambda c, x: (c + x, c + x), ak.asarray(0.0), ak.asarray([1.0, 2.0, 3.0])
        ... )
        >>> float(total), running.tolist()
        (6.0, [1.0, 3.0, 6.0])
    """
    require_callable("function", function)
    carry_leaves, carry_structure = tree.flatten(initial)
    x_leaves, x_structure = tree.flatten(xs)
    leaves = _together([*carry_leaves, *x_leaves])
    carry, elements = leaves[: len(carry_leaves)], leaves[len(carry_leaves) :]
    steps = _length(elements, length)
    body, captured, y_structure = _scan_body(
        function,
        ([t.spec for t in carry], carry_structure),
        ([TensorSpec(t.shape[1:], t.dtype) for t in elements], x_structure),
    )
    outputs = control.scan(
        *carry,
        *captured,
        *elements,
        body=body,
        carry_count=len(carry),
        constant_count=len(captured),
        length=steps,
        reverse=reverse,
    )
    final = tree.unflatten(carry_structure, list(outputs[: len(carry)]))
    return final, tree.unflatten(y_structure, list(outputs[len(carry) :]))


def _scan_body(
    function: Callable[[Any, Any], tuple[Any, Any]],
    carry: tuple[list[TensorSpec], Any],
    element: tuple[list[TensorSpec], Any],
) -> tuple[Graph, list[Tensor], Any]:
    """One step of a scan as a graph of carry, captured tensors and elements.

    Args:
        function: Of a carry and an element.
        carry: Specs of its leaves, and their structure.
        element: The same for one element.

    Returns:
        The graph, the tensors that the function took from around it, and the structure of what it
        returns beside the carry.
    """
    (carry_specs, carry_structure), (element_specs, element_structure) = carry, element
    count = len(carry_specs)
    y_structure: list[Any] = []

    def body(*tensors: Tensor) -> list[Tensor]:
        state = tree.unflatten(carry_structure, tensors[:count])
        result = function(state, tree.unflatten(element_structure, tensors[count:]))
        if not isinstance(result, tuple) or len(result) != 2:
            raise OptionError(
                f"The function of scan must return a pair (carry, y), got {type(result).__name__}."
            )
        new_leaves, new_structure = tree.flatten(result[0])
        if new_structure != carry_structure:
            raise ShapeError(
                f"The carry of scan changes its structure from {carry_structure} to "
                f"{new_structure}."
            )
        ys, structure = tree.flatten(result[1])
        y_structure.append(structure)
        return [tensor(t) for t in [*new_leaves, *ys]]

    graph, captured = trace_graph(body, [*carry_specs, *element_specs], name="scan_body")
    own = len(carry_specs) + len(element_specs)
    inputs = [*graph.inputs[:count], *graph.inputs[own:], *graph.inputs[count:own]]
    ordered = Graph(inputs, graph.nodes, graph.outputs, name=graph.name)
    return ordered, captured, y_structure[0]


def _length(elements: list[Tensor], length: int | None) -> int:
    if length is not None:
        require_integer("length", length, least=0)
    if any(t.ndim == 0 for t in elements):
        raise ShapeError("scan runs over the leading axis of its inputs; a scalar has none.")
    extents = {t.shape[0] for t in elements} | ({length} if length is not None else set())
    if len(extents) != 1:
        raise ShapeError(
            f"scan needs one length: give `length=`, or xs of equal leading extents; got "
            f"{sorted(extents) or 'neither'}."
        )
    return extents.pop()
