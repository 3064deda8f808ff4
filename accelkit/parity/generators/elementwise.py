"""Cases of elementwise primitives."""

from __future__ import annotations

import numpy as np

from accelkit.parity.cases import BITS, EQUAL, Case, cases
from accelkit.parity.source import Shape, Source


@cases("negative", "absolute", kinds="if")
def keeps_bits(name: str, source: Source) -> Case:
    """Functions that only touch the sign."""
    x = source.anything(source.shape())
    if source.smooth:
        x = source.distinct(x.shape)
    return Case(name, (x,), comparison=BITS, gradients=(0,) if source.dtype.is_floating else ())


@cases("sign", kinds="if")
def sign(name: str, source: Source) -> Case:
    """The sign, whose zero has an unspecified sign."""
    return Case(name, (source.anything(source.shape()),), comparison=EQUAL)


@cases("floor", "ceil", "round", "trunc")
def rounding(name: str, source: Source) -> Case:
    """Rounding, halves among the operands."""
    x = source.normal(source.shape(), source.choose((3.0, 100.0)))
    halves = source.rounded(np.floor(x.astype(np.float64)) + 0.5)
    x = np.where(source.bools(x.shape), halves, x)
    return Case(name, (source.special(x),), comparison=EQUAL)


# Intervals of operands, simplest first. Ends at which a derivative is infinite are kept away.
_DOMAINS: dict[str, tuple[tuple[float, float], ...]] = {
    "exp": ((-5.0, 5.0), (-1e-3, 1e-3), (-80.0, 80.0)),
    "expm1": ((-3.0, 3.0), (-1e-3, 1e-3), (-20.0, 20.0)),
    "log": ((0.1, 10.0), (0.99, 1.01), (1e-3, 1e4)),
    "log1p": ((-0.5, 3.0), (-1e-3, 1e-3), (0.0, 1e4)),
    "sqrt": ((0.1, 10.0), (1e-4, 1e-3), (1.0, 6e4)),
    "rsqrt": ((0.1, 10.0), (1e-3, 1e-2), (1.0, 6e4)),
    "sin": ((-3.0, 3.0), (-1e-2, 1e-2), (-30.0, 30.0)),
    "cos": ((-3.0, 3.0), (-1e-2, 1e-2), (-30.0, 30.0)),
    "tan": ((-1.2, 1.2), (-1e-2, 1e-2), (3.5, 4.5)),
    "arcsin": ((-0.9, 0.9), (-1e-2, 1e-2)),
    "arccos": ((-0.9, 0.9), (-1e-2, 1e-2)),
    "arctan": ((-3.0, 3.0), (-1e-2, 1e-2), (-1e3, 1e3)),
    "sinh": ((-3.0, 3.0), (-1e-2, 1e-2), (-10.0, 10.0)),
    "cosh": ((-3.0, 3.0), (-1e-2, 1e-2), (-10.0, 10.0)),
    "tanh": ((-3.0, 3.0), (-1e-2, 1e-2), (-20.0, 20.0)),
    "arcsinh": ((-3.0, 3.0), (-1e-2, 1e-2), (-1e3, 1e3)),
    "arccosh": ((1.5, 5.0), (2.0, 1e3)),
    "arctanh": ((-0.9, 0.9), (-1e-2, 1e-2)),
    "erf": ((-2.0, 2.0), (-1e-2, 1e-2), (-6.0, 6.0)),
    "sigmoid": ((-3.0, 3.0), (-1e-2, 1e-2), (-30.0, 30.0)),
}


@cases(*_DOMAINS)
def transcendental(name: str, source: Source) -> Case:
    """Functions of one real number."""
    domains = _DOMAINS[name]
    low, high = domains[0] if source.smooth else source.choose(domains)
    x = source.between(source.shape(), low, high)
    return Case(name, (source.special(x),), gradients=(0,))


@cases("add", "subtract", "multiply", kinds="iuf")
def arithmetic(name: str, source: Source) -> Case:
    """Arithmetic; integers wrap around."""
    a, b = (source.anything(shape) for shape in source.broadcast_shapes(2))
    floating = source.dtype.is_floating
    floor = _size(a, b) if floating and name != "multiply" else 0.0
    length = max(np.broadcast(a, b).size, 1)
    return Case(
        name,
        (a, b),
        comparison="close" if floating else BITS,
        gradients=(0, 1) if floating else (),
        floor=floor,
        gradient_length=length,
    )


@cases("divide", "arctan2", "power")
def quotient(name: str, source: Source) -> Case:
    """Functions of two real numbers."""
    shapes = source.broadcast_shapes(2)
    if name == "power":
        a, b = source.between(shapes[0], 0.2, 3.0), source.between(shapes[1], -3.0, 3.0)
    else:
        a, b = source.normal(shapes[0]), _away_from_zero(source, shapes[1])
    length = max(np.broadcast(a, b).size, 1)
    a, b = source.special(a), source.special(b)
    return Case(name, (a, b), gradients=(0, 1), gradient_length=length)


@cases("floor_divide", "remainder", kinds="iuf")
def integer_quotient(name: str, source: Source) -> Case:
    """Division with remainder; integer divisors are neither 0 nor -1 (-2^31 / -1 overflows)."""
    shapes = source.broadcast_shapes(2)
    if not source.dtype.is_floating:
        a, b = source.integers(shapes[0]), source.integers(shapes[1])
        forbidden = (b == 0) | (b == np.array(-1).astype(b.dtype))
        return Case(name, (a, np.where(forbidden, b.dtype.type(3), b)), comparison=BITS)
    if source.smooth:  # quotients between 0.2 and 0.8 beside an integer: far from a jump
        b = source.between(shapes[1], 1.0, 1.1)
        a = source.rounded(source.generator.uniform(2.4, 2.6, shapes[0]))
    else:
        a, b = source.normal(shapes[0], 5.0), _away_from_zero(source, shapes[1])
    length = max(np.broadcast(a, b).size, 1)
    return Case(
        name,
        (source.special(a), source.special(b)),
        comparison=EQUAL if name == "floor_divide" else "close",
        gradients=(0, 1) if name == "remainder" else (),
        floor=_size(b),
        gradient_length=length,
        widen=False,
    )


@cases("maximum", "minimum", kinds="iuf")
def extremum(name: str, source: Source) -> Case:
    """The larger or smaller one, often of equal numbers."""
    shapes = source.broadcast_shapes(2)
    tied = not source.smooth and source.choose((True, False, False))
    a, b = (source.ties(s) if tied else source.anything(s) for s in shapes)
    if source.smooth:
        a = source.rounded(source.distinct(shapes[0]) + 1 / 32)
        b = source.rounded(source.distinct(shapes[1]) - 1 / 32)
    gradients = (0, 1) if source.dtype.is_floating and (tied or source.smooth) else ()
    length = max(np.broadcast(a, b).size, 1)
    return Case(name, (a, b), comparison=EQUAL, gradients=gradients, gradient_length=length)


@cases("less", "less_equal", "greater", "greater_equal", kinds="iuf")
@cases("equal", "not_equal", kinds="biuf")
def comparison(name: str, source: Source) -> Case:
    """Comparisons, often of equal numbers, of infinities and of NaN."""
    shapes = source.broadcast_shapes(2)
    tied = source.dtype.kind != "b" and source.choose((True, False, False))
    a, b = (source.ties(s) if tied else source.anything(s) for s in shapes)
    return Case(name, (a, b), comparison=BITS)


@cases("logical_and", "logical_or", "logical_xor", kinds="b")
@cases("bitwise_and", "bitwise_or", "bitwise_xor", kinds="iu")
def logic(name: str, source: Source) -> Case:
    """Logic of bools and of bits."""
    a, b = (source.anything(shape) for shape in source.broadcast_shapes(2))
    return Case(name, (a, b), comparison=BITS)


@cases("logical_not", kinds="b")
@cases("bitwise_not", kinds="iu")
@cases("is_nan", "is_finite")
def predicate(name: str, source: Source) -> Case:
    """Functions of one operand with exact results."""
    return Case(name, (source.anything(source.shape()),), comparison=BITS)


@cases("shift_left", "shift_right", kinds="iu")
def shift(name: str, source: Source) -> Case:
    """Shifts by less than the width."""
    shapes = source.broadcast_shapes(2)
    by = source.generator.integers(0, source.dtype.bits, shapes[1]).astype(source.dtype.numpy)
    return Case(name, (source.integers(shapes[0]), by), comparison=BITS)


@cases("select", kinds="biuf")
def select(name: str, source: Source) -> Case:
    """Selection under a condition that broadcasts too."""
    shapes = source.broadcast_shapes(3)
    arrays = source.bools(shapes[0]), source.anything(shapes[1]), source.anything(shapes[2])
    finite = source.dtype.is_floating and all(np.isfinite(a.astype(float)).all() for a in arrays)
    length = max(np.broadcast(*arrays).size, 1)
    return Case(
        name,
        arrays,
        comparison=BITS,
        gradients=(1, 2) if finite else (),
        gradient_length=length,
    )


@cases("cast", kinds="biuf")
def cast(name: str, source: Source) -> Case:
    """Conversions: rounding, truncation, wrap-around, x != 0."""
    target = source.dtype if source.smooth else source.dtype_of("biuf")
    shape = source.shape()
    if source.dtype.is_floating and target.is_integer:
        low, high = (0.0, 120.0) if target.kind == "u" else (-120.0, 120.0)
        x = source.between(shape, low, high)
    else:
        x = source.anything(shape)
    both = source.dtype.is_floating and target.is_floating
    return Case(
        name, (x,), {"dtype": target}, comparison=BITS, gradients=(0,) if both else (), widen=False
    )


@cases("relu")
def relu(name: str, source: Source) -> Case:
    """The rectified linear unit; its derivative at 0 is 0."""
    shape = source.shape()
    if source.smooth or source.flag():
        return Case(name, (source.ties(shape),), comparison=BITS, gradients=(0,))
    return Case(name, (source.special(source.normal(shape)),), comparison=BITS)


@cases("relu_grad")
def relu_grad(name: str, source: Source) -> Case:
    """The derivative of relu, at results that are zero and positive."""
    shape = source.shape()
    y = np.maximum(source.ties(shape), source.dtype.numpy.type(0))
    return Case(name, (y, source.normal(shape)), comparison=BITS, gradients=(1,))


@cases("gelu", "gelu_grad")
def gelu(name: str, source: Source) -> Case:
    """Both forms, where they bend and where they are nearly 0 or the identity."""
    shape = source.shape()
    low, high = (-3.0, 3.0) if source.smooth else source.choose(((-3.0, 3.0), (-8.0, 8.0)))
    x = source.between(shape, low, high)
    operands = (x,) if name == "gelu" else (x, source.normal(shape))
    # Terms like x (1 - tanh^2) (1 + x^2) cancel.
    floor = max(1.0, _size(x)) ** 2 * max(1.0, _size(*operands[1:]))
    return Case(
        name,
        operands,
        {"approximate": source.flag()},
        gradients=tuple(range(len(operands))),
        floor=floor,
    )


@cases("alias", "stop_gradient", kinds="biuf")
def identity(name: str, source: Source) -> Case:
    """The operand itself."""
    x = source.anything(source.shape())
    gradients = (0,) if name == "alias" and source.dtype.is_floating else ()
    return Case(name, (x,), comparison=BITS, gradients=gradients)


def _away_from_zero(source: Source, shape: Shape) -> np.ndarray:
    sizes = source.generator.uniform(0.5, 2.0, shape)
    return source.rounded(sizes * source.generator.choice((-1.0, 1.0), shape))


def _size(*arrays: np.ndarray) -> float:
    """The largest finite magnitude among the operands."""
    sizes = [np.abs(a.astype(np.float64)) for a in arrays]
    return max((float(np.max(s[np.isfinite(s)], initial=0.0)) for s in sizes), default=0.0)
