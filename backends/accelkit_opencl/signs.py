"""What a graph says about the signs of its values, so that kernels need not check them.

An exponential whose argument is no greater than zero cannot overflow: every softmax subtracts the
maximum of its row first, and a Gaussian negates a square. The rules hold for rounded arithmetic,
because rounding keeps signs; NaN is possible everywhere, and so is zero of either sign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from accelkit.graph import Node, Value

__all__ = ["sign"]

_DEPTH: Final = 6  # of the expressions that are looked into


def sign(value: Value, depth: int = _DEPTH) -> int | None:
    """1 if no element is below 0, -1 if none is above, 0 if all are 0, None if unknown.

    NaN counts as none of these.

    Args:
        value: Of any dtype; nothing is known of integers.
        depth: Nodes to look into, one behind the other.
    """
    node = value.node
    if node is None or not depth or not value.spec.dtype.is_floating:
        return None  # integers wrap around
    if node.primitive.name in _NEVER_NEGATIVE:
        return 1
    rule = _RULES.get(node.primitive.name)
    return rule(node, depth - 1) if rule else None


def _number(node: Node, depth: int) -> int | None:
    number = node.parameters["value"]
    return int(number > 0) - int(number < 0) if number == number else None


def _common(*signs: int | None) -> int | None:
    """What holds for elements of each of these signs."""
    others = set(signs) - {0}
    return others.pop() if len(others) == 1 else None if others else 0


def _same(node: Node, depth: int) -> int | None:
    """Copies, views, sums, extrema: the sign that all operands have, if they have one."""
    return _common(*(sign(operand, depth) for operand in node.inputs))


def _choice(node: Node, depth: int) -> int | None:
    return _common(*(sign(operand, depth) for operand in node.inputs[1:]))


def _bounded(bound: int) -> Callable[[Node, int], int | None]:
    """A maximum is not negative if one of its operands is not; a minimum likewise."""

    def rule(node: Node, depth: int) -> int | None:
        signs = [sign(operand, depth) for operand in node.inputs]
        return bound if bound in signs or 0 in signs else _common(*signs)

    return rule


def _negated(known: int | None) -> int | None:
    return None if known is None else -known


def _opposite(node: Node, depth: int) -> int | None:
    return _negated(sign(node.inputs[0], depth))


def _difference(node: Node, depth: int) -> int | None:
    a, b = node.inputs
    if _is_maximum_of(b, a):
        return -1
    return _common(sign(a, depth), _negated(sign(b, depth)))


def _is_maximum_of(value: Value, x: Value) -> bool:
    """Whether each element of x meets the maximum of a row that it belongs to itself."""
    value = _behind(value, "broadcast_to")
    shape = value.spec.shape  # lies at the end of x's, as broadcasting has it
    node = _behind(value, "reshape").node
    if node is None or node.primitive.name != "reduce_max" or node.inputs[0] is not x:
        return False
    axes = node.parameters["axes"]
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(x.spec.shape))
    return (1,) * (x.spec.ndim - len(shape)) + shape == kept


def _behind(value: Value, name: str) -> Value:
    """What a node of that name has made the value of, or the value if another one has."""
    node = value.node
    return node.inputs[0] if node is not None and node.primitive.name == name else value


def _product(node: Node, depth: int) -> int | None:
    """Of factors whose signs are known, and of others that stand there twice."""
    found = 1
    for factor, times in _factors(node, depth).items():
        known = sign(factor, depth) if times % 2 else 1
        if known is None:
            return None
        found *= known
    return found


def _factors(node: Node, depth: int) -> Counter[Value]:
    factors: Counter[Value] = Counter()
    for operand in node.inputs:
        inner = operand.node
        if depth and inner is not None and inner.primitive is node.primitive:
            factors += _factors(inner, depth - 1)
        else:
            factors[operand] += 1
    return factors


def _quotient(node: Node, depth: int) -> int | None:
    """By a number other than zero: 1 / -0 is an infinity of the other sign."""
    divisor = node.inputs[1].node
    if divisor is None or divisor.primitive.name != "full" or not divisor.parameters["value"]:
        return None
    first, second = sign(node.inputs[0], depth), _number(divisor, depth)
    return None if first is None or second is None else first * second


_NEVER_NEGATIVE: Final = frozenset({"absolute", "exp", "cosh", "relu", "sigmoid", "sqrt"})
_RULES: Final[dict[str, Callable[[Node, int], int | None]]] = {
    "full": _number,
    "negative": _opposite,
    "subtract": _difference,
    "multiply": _product,
    "divide": _quotient,
    "select": _choice,
    "maximum": _bounded(1),
    "minimum": _bounded(-1),
    **dict.fromkeys(
        (
            "add",
            "broadcast_to",
            "cast",
            "concatenate",
            "reduce_max",
            "reduce_min",
            "reduce_sum",
            "reshape",
            "reverse",
            "slice",
            "transpose",
        ),
        _same,
    ),
}
