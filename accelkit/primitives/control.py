"""Control flow as primitives, with their bodies as graphs.

Both have definitions without any control flow (a select, an unrolled loop), so they run on every
backend; one that has conditionals and loops of its own overrides them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelkit import dtypes
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import Graph, TensorSpec, Value
from accelkit.primitives.elementwise import select
from accelkit.primitives.primitive import primitive
from accelkit.primitives.shaping import concatenate, full, reshape, slice_


def apply_graph(graph: Graph, tensors: Sequence[Any]) -> list[Any]:
    """Apply a graph's nodes to tensors, eagerly or into the active trace.

    Values are dropped when they are last read, so that eager ones free their memory.
    """
    environment: dict[Value, Any] = dict(zip(graph.inputs, tensors, strict=True))
    last = graph.last_uses()
    for position, node in enumerate(graph.nodes):
        result = node.primitive(*(environment[v] for v in node.inputs), **node.parameters)
        results = result if node.primitive.multiple_outputs else (result,)
        environment.update(zip(node.outputs, results, strict=True))
        for value in {*node.inputs, *node.outputs}:
            if last.get(value, position) == position:
                del environment[value]
    return [environment[v] for v in graph.outputs]


def graph_vjp(graph: Graph, with_cotangent: Sequence[bool]) -> Graph:
    """The graph of a graph's vector-Jacobian product.

    Args:
        graph: The primal program.
        with_cotangent: Which of its inputs get one (the floating ones at most).

    Returns:
        A graph of (inputs, cotangents of floating outputs) to the chosen inputs' cotangents.
    """
    from accelkit.autodiff import vjp_tensors
    from accelkit.tracing import trace_graph

    floating = [v for v in graph.outputs if v.spec.dtype.is_floating]
    count = len(graph.inputs)

    def function(*arguments: Any) -> list[Any]:
        given = iter(arguments[count:])

        def primal(*inputs: Any) -> list[Any]:
            return apply_graph(graph, inputs)

        return vjp_tensors(
            primal,
            arguments[:count],
            lambda outputs: [next(given) if y.dtype.is_floating else None for y in outputs],
            with_cotangent,
        )

    specs = [v.spec for v in graph.inputs] + [v.spec for v in floating]
    traced, captured = trace_graph(function, specs, name=f"{graph.name}_vjp")
    assert not captured
    return traced


def _zeros(spec: Any) -> Any:
    zero = 0.0 if spec.dtype.is_floating else 0
    return full(shape=spec.shape, value=zero, dtype=spec.dtype)


def _filled(g: Sequence[Any], y: Sequence[Any]) -> list[Any]:
    """Cotangents of the floating outputs, zeros where an output is unused."""
    return [
        _zeros(output) if ct is None else ct
        for ct, output in zip(g, y, strict=True)
        if output.dtype.is_floating
    ]


# --- cond -----------------------------------------------------------------------------------------


def _cond_infer(
    predicate: TensorSpec, *operands: TensorSpec, true_graph: Graph, false_graph: Graph
) -> tuple[TensorSpec, ...]:
    if predicate.shape != () or predicate.dtype is not dtypes.bool_:
        raise DTypeError(f"cond needs a bool[] predicate, got {predicate}.")
    true_specs = tuple(v.spec for v in true_graph.outputs)
    false_specs = tuple(v.spec for v in false_graph.outputs)
    if true_specs != false_specs:
        raise ShapeError(
            f"Both branches of cond must return the same shapes and dtypes, got "
            f"{', '.join(map(str, true_specs))} and {', '.join(map(str, false_specs))}."
        )
    return true_specs


def _cond_vjp(
    g: Any, y: Any, predicate: Any, *operands: Any, true_graph: Graph, false_graph: Graph
) -> Sequence[Any]:
    wanted = [x.dtype.is_floating for x in operands]
    found = iter(
        cond(
            predicate,
            *operands,
            *_filled(g, y),
            true_graph=graph_vjp(true_graph, wanted),
            false_graph=graph_vjp(false_graph, wanted),
        )
    )
    return [None, *(next(found) if want else None for want in wanted)]


def _cond_definition(
    predicate: Any, *operands: Any, true_graph: Graph, false_graph: Graph
) -> tuple[Any, ...]:
    pairs = zip(apply_graph(true_graph, operands), apply_graph(false_graph, operands), strict=True)
    return tuple(select(predicate, a, b) for a, b in pairs)


cond = primitive(
    "cond",
    _cond_infer,
    vjp=_cond_vjp,
    definition=_cond_definition,
    flops=lambda inputs, outputs, p: max(p["true_graph"].flops(), p["false_graph"].flops()),
    multiple_outputs=True,
    doc="true_graph(*operands) where the bool[] predicate holds, false_graph(*operands) else.",
)

# --- scan -----------------------------------------------------------------------------------------


def _split(values: Sequence[Any], *counts: int) -> list[list[Any]]:
    parts, position = [], 0
    for count in counts:
        parts.append(list(values[position : position + count]))
        position += count
    return [*parts, list(values[position:])]


def _scan_infer(
    *operands: TensorSpec,
    body: Graph,
    carry_count: int,
    constant_count: int,
    length: int,
    reverse: bool,
) -> tuple[TensorSpec, ...]:
    carry, _, xs = _split(operands, carry_count, constant_count)
    for x in xs:
        if x.ndim < 1 or x.shape[0] != length:
            raise ShapeError(f"scan runs {length} steps, but an input has shape {x.shape}.")
    outputs = [v.spec for v in body.outputs]
    for before, after in zip(carry, outputs, strict=False):
        if before != after:
            raise ShapeError(f"The carry of scan changes from {before} to {after}.")
    return (
        *carry,
        *(TensorSpec((length, *s.shape), s.dtype) for s in outputs[carry_count:]),
    )


def _element(x: Any, index: int) -> Any:
    start = (index, *(0 for _ in x.shape[1:]))
    stop = (index + 1, *x.shape[1:])
    return reshape(slice_(x, start=start, stop=stop, step=(1,) * x.ndim), shape=x.shape[1:])


def _scan_definition(
    *operands: Any, body: Graph, carry_count: int, constant_count: int, length: int, reverse: bool
) -> tuple[Any, ...]:
    carry, constants, xs = _split(operands, carry_count, constant_count)
    steps: list[list[Any]] = [[] for _ in body.outputs[carry_count:]]
    for index in reversed(range(length)) if reverse else range(length):
        outputs = apply_graph(body, [*carry, *constants, *(_element(x, index) for x in xs)])
        carry = outputs[:carry_count]
        for collected, y in zip(steps, outputs[carry_count:], strict=True):
            collected.append(reshape(y, shape=(1, *y.shape)))
    stacked = []
    for collected, value in zip(steps, body.outputs[carry_count:], strict=True):
        ordered = collected[::-1] if reverse else collected
        spec = TensorSpec((0, *value.spec.shape), value.spec.dtype)
        stacked.append(concatenate(*ordered, axis=0) if ordered else _zeros(spec))
    return (*carry, *stacked)


def _record_carries(body: Graph, carry_count: int) -> Graph:
    """The body, returning also the carry that it was given."""
    return body.replace(
        outputs=[*body.outputs[:carry_count], *body.inputs[:carry_count]],
    )


def _reverse_body(body: Graph, carry_count: int, constant_count: int) -> tuple[Graph, list[bool]]:
    """One step of the reverse loop, and which of the body's inputs have a cotangent.

    Its carry is the cotangents of carry and constants, its constants are the constants, its
    inputs per step are the carry, the elements of xs, and the cotangents of the step's outputs.
    """
    from accelkit.primitives.elementwise import add
    from accelkit.tracing import trace_graph

    wanted = [v.spec.dtype.is_floating for v in body.inputs]
    vjp = graph_vjp(body, wanted)
    carry_specs, constant_specs, x_specs = _split(
        [v.spec for v in body.inputs], carry_count, constant_count
    )
    floating_carry = [s for s in carry_specs if s.dtype.is_floating]
    floating_constants = [s for s in constant_specs if s.dtype.is_floating]
    output_specs = [v.spec for v in body.outputs[carry_count:] if v.spec.dtype.is_floating]

    def function(*arguments: Any) -> list[Any]:
        d_carry, d_constants, constants, carry, xs, d_outputs = _split(
            arguments,
            len(floating_carry),
            len(floating_constants),
            constant_count,
            carry_count,
            len(x_specs),
        )
        found = apply_graph(vjp, [*carry, *constants, *xs, *d_carry, *d_outputs])
        new_carry, step_constants, d_xs = _split(
            found, len(floating_carry), len(floating_constants)
        )
        sums = [add(a, b) for a, b in zip(d_constants, step_constants, strict=True)]
        return [*new_carry, *sums, *d_xs]

    specs = [
        *floating_carry,
        *floating_constants,
        *constant_specs,
        *carry_specs,
        *x_specs,
        *output_specs,
    ]
    traced, captured = trace_graph(function, specs, name=f"{body.name}_reverse")
    assert not captured
    return traced, wanted


def _scan_vjp(
    g: Any,
    y: Any,
    *operands: Any,
    body: Graph,
    carry_count: int,
    constant_count: int,
    length: int,
    reverse: bool,
) -> Sequence[Any]:
    _, constants, xs = _split(operands, carry_count, constant_count)
    step_body, wanted = _reverse_body(body, carry_count, constant_count)
    loop = {"length": length, "constant_count": constant_count, "carry_count": carry_count}
    recorded = scan(*operands, body=_record_carries(body, carry_count), reverse=reverse, **loop)[
        carry_count:
    ]
    d_carry = _filled(g[:carry_count], y[:carry_count])
    d_constants = [_zeros(c) for c in constants if c.dtype.is_floating]
    accumulated = [*d_carry, *d_constants]
    found = scan(
        *accumulated,
        *constants,
        *recorded,
        *xs,
        *_filled(g[carry_count:], y[carry_count:]),
        body=step_body,
        carry_count=len(accumulated),
        constant_count=constant_count,
        length=length,
        reverse=not reverse,
    )
    remaining = iter(found)
    return [next(remaining) if want else None for want in wanted]


scan = primitive(
    "scan",
    _scan_infer,
    vjp=_scan_vjp,
    definition=_scan_definition,
    flops=lambda inputs, outputs, p: p["length"] * p["body"].flops(),
    multiple_outputs=True,
    doc="""A loop of length steps: (*carry, *constants, *xs) to (*carry, *ys).

    body(*carry, *constants, *elements of xs) returns (*carry, *elements of ys); xs and ys have a
    leading axis of length. With reverse the steps run from the last element to the first. The
    derivative runs the loop again to get the carries, then a second one backwards.""",
)
