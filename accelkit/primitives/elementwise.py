"""Elementwise primitives: they broadcast their operands by NumPy's rules and map each element.

All operands of one call have one dtype (conditions of ``select`` aside); promotion is the
business of the functions above. Integer arithmetic wraps around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import Primitive, no_flops, primitive

if TYPE_CHECKING:
    from accelkit.tensor import Tensor


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of NumPy's broadcasting rules.

    Raises:
        ShapeError: if two extents differ and neither is 1.
    """
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    ndim = max(map(len, shapes))
    result = []
    for axis in range(-ndim, 0):
        extents = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(extents) > 1:
            listing = " and ".join(str(shape) for shape in dict.fromkeys(shapes))
            raise ShapeError(
                f"Shapes {listing} do not broadcast: axis {axis} has extents "
                f"{sorted(extents)}. Extents must be equal or 1."
            )
        result.append(extents.pop() if extents else 1)
    return tuple(result)


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum a cotangent over the axes along which an operand of ``shape`` was broadcast."""
    if g is None or g.shape == shape:
        return g
    from accelkit.primitives.reductions import reduce_sum
    from accelkit.primitives.shaping import reshape

    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + axis
        for axis, extent in enumerate(shape)
        if extent == 1 and g.shape[extra + axis] != 1
    )
    summed = reduce_sum(g, axes=axes) if axes else g
    return summed if summed.shape == shape else reshape(summed, shape=shape)


_KIND_NAMES = {"b": "bool", "i": "signed integer", "u": "unsigned integer", "f": "floating"}


def _require_kind(name: str, kinds: str, *specs: TensorSpec) -> None:
    for spec in specs:
        if spec.dtype.kind not in kinds:
            expected = " or ".join(_KIND_NAMES[k] for k in kinds)
            raise DTypeError(
                f"{name} needs a {expected} dtype, got {spec.dtype}. Use `.astype(...)`."
            )


def _require_same_dtype(name: str, *specs: TensorSpec) -> DType:
    first = specs[0].dtype
    for spec in specs[1:]:
        if spec.dtype is not first:
            raise DTypeError(f"{name} needs operands of one dtype, got {first} and {spec.dtype}.")
    return first


def _unary(
    name: str,
    vjp: Callable[..., Any] | None,
    doc: str,
    *,
    kinds: str = "f",
    result: DType | None = None,
    definition: Callable[..., Any] | None = None,
) -> Primitive[Tensor]:
    def infer(x: TensorSpec) -> TensorSpec:
        _require_kind(name, kinds, x)
        return x if result is None else TensorSpec(x.shape, result)

    def rule(g: Any, y: Any, x: Any) -> Sequence[Any]:
        return (vjp(g, y, x) if vjp else None,)

    return primitive(name, infer, vjp=rule, doc=doc, elementwise=True, definition=definition)


def _binary(
    name: str,
    vjp: Callable[..., Sequence[Any]] | None,
    doc: str,
    *,
    kinds: str = "iuf",
    result: DType | None = None,
) -> Primitive[Tensor]:
    def infer(a: TensorSpec, b: TensorSpec) -> TensorSpec:
        if a.dtype.kind not in kinds or a.dtype is not b.dtype:
            _require_kind(name, kinds, a, b)
            _require_same_dtype(name, a, b)
        if a.shape != b.shape:
            return TensorSpec(broadcast_shapes(a.shape, b.shape), result or a.dtype)
        return a if result is None else TensorSpec(a.shape, result)

    def rule(g: Any, y: Any, a: Any, b: Any) -> Sequence[Any]:
        if vjp is None:
            return None, None
        da, db = vjp(g, y, a, b)
        return unbroadcast(da, a.shape), unbroadcast(db, b.shape)

    return primitive(name, infer, vjp=rule, doc=doc, elementwise=True)


# --- arithmetic ---------------------------------------------------------------------------

add = _binary("add", lambda g, y, a, b: (g, g), "a + b")
subtract = _binary("subtract", lambda g, y, a, b: (g, -g), "a - b")
multiply = _binary("multiply", lambda g, y, a, b: (g * b, g * a), "a * b")
divide = _binary("divide", lambda g, y, a, b: (g / b, -g * (y / b)), "a / b", kinds="f")
negative = _unary("negative", lambda g, y, x: -g, "-x", kinds="if")
absolute = _unary("absolute", lambda g, y, x: g * sign(x), "|x|", kinds="if")
sign: Primitive[Tensor] = _unary("sign", None, "-1, 0 or 1; NaN where x is NaN", kinds="if")
floor_divide = _binary("floor_divide", None, "The floor of a / b. Integer b must not be 0.")
remainder = _binary(
    "remainder",
    lambda g, y, a, b: (g, -g * floor(a / b)),
    "a - b * floor(a / b): the sign of b. Integer b must not be 0.",
)


def _power_vjp(g: Any, y: Any, a: Any, b: Any) -> Sequence[Any]:
    zero, one = zeros_like(b), _scalar_like(1.0, b)
    da = g * b * power(a, select(equal(b, zero), one, b - 1.0))
    positive = greater(a, zero)
    log_a = select(positive, log(select(positive, a, one)), zero)
    return da, g * y * log_a


power = _binary(
    "power",
    _power_vjp,
    "a ** b. The derivative by b is 0 where a <= 0.",
    kinds="f",
)


# By the operands alone: where values are computed again, XLA may round an operand otherwise than
# the result was rounded, and neither would be equal to it.
def _maximum_vjp(g: Any, y: Any, a: Any, b: Any) -> Sequence[Any]:
    tie = select(equal(a, b), g * 0.5, zeros_like(g))
    return select(greater(a, b), g, tie), select(less(a, b), g, tie)


def _minimum_vjp(g: Any, y: Any, a: Any, b: Any) -> Sequence[Any]:
    return _maximum_vjp(g, y, b, a)  # a's share where b is the larger one


maximum = _binary(
    "maximum", _maximum_vjp, "The larger one; NaN if either is NaN. Ties split g in halves."
)
minimum = _binary(
    "minimum", _minimum_vjp, "The smaller one; NaN if either is NaN. Ties split g in halves."
)
arctan2 = _binary(
    "arctan2",
    lambda g, y, a, b: (g * b / (a * a + b * b), -g * a / (a * a + b * b)),
    "The angle of the point (b, a), in radians.",
    kinds="f",
)

# --- rounding -----------------------------------------------------------------------------

floor: Primitive[Tensor] = _unary("floor", None, "The largest integer not above x.")
ceil = _unary("ceil", None, "The smallest integer not below x.")
round_ = _unary("round", None, "The nearest integer; halves go to the even one.")
trunc = _unary("trunc", None, "The integer part of x.")

# --- transcendental functions ---------------------------------------------------------------

exp = _unary("exp", lambda g, y, x: g * y, "e ** x")
expm1 = _unary("expm1", lambda g, y, x: g * (y + 1.0), "e ** x - 1, exact near 0")
log = _unary("log", lambda g, y, x: g / x, "Natural logarithm.")
log1p = _unary("log1p", lambda g, y, x: g / (x + 1.0), "log(1 + x), exact near 0")
sqrt = _unary("sqrt", lambda g, y, x: g * 0.5 / y, "Square root.")
rsqrt = _unary(
    "rsqrt",
    lambda g, y, x: g * -0.5 * y / x,
    "1 / sqrt(x)",
    definition=lambda x: 1.0 / sqrt(x),
)
sin = _unary("sin", lambda g, y, x: g * cos(x), "Sine of x in radians.")
cos: Primitive[Tensor] = _unary("cos", lambda g, y, x: -g * sin(x), "Cosine of x in radians.")
tan = _unary("tan", lambda g, y, x: g * (1.0 + y * y), "Tangent of x in radians.")
arcsin = _unary("arcsin", lambda g, y, x: g / sqrt(1.0 - x * x), "Inverse sine.")
arccos = _unary("arccos", lambda g, y, x: -g / sqrt(1.0 - x * x), "Inverse cosine.")
arctan = _unary("arctan", lambda g, y, x: g / (1.0 + x * x), "Inverse tangent.")
sinh = _unary("sinh", lambda g, y, x: g * cosh(x), "Hyperbolic sine.")
cosh: Primitive[Tensor] = _unary("cosh", lambda g, y, x: g * sinh(x), "Hyperbolic cosine.")
tanh = _unary("tanh", lambda g, y, x: g * (1.0 - y * y), "Hyperbolic tangent.")
arcsinh = _unary("arcsinh", lambda g, y, x: g / sqrt(x * x + 1.0), "Inverse hyperbolic sine.")
arccosh = _unary(
    "arccosh", lambda g, y, x: g / sqrt((x - 1.0) * (x + 1.0)), "Inverse hyperbolic cosine."
)
arctanh = _unary("arctanh", lambda g, y, x: g / (1.0 - x * x), "Inverse hyperbolic tangent.")
erf = _unary(
    "erf",
    lambda g, y, x: g * (1.1283791670955126 * exp(-(x * x))),
    "Error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.",
)
sigmoid = _unary(
    "sigmoid",
    lambda g, y, x: g * (y * (1.0 - y)),
    "1 / (1 + exp(-x))",
    definition=lambda x: 1.0 / (1.0 + exp(-x)),
)

# --- comparison, logic, bits ----------------------------------------------------------------

equal = _binary("equal", None, "a == b", kinds="biuf", result=dtypes.bool_)
not_equal = _binary("not_equal", None, "a != b", kinds="biuf", result=dtypes.bool_)
less = _binary("less", None, "a < b", result=dtypes.bool_)
less_equal = _binary("less_equal", None, "a <= b", result=dtypes.bool_)
greater = _binary("greater", None, "a > b", result=dtypes.bool_)
greater_equal = _binary("greater_equal", None, "a >= b", result=dtypes.bool_)
logical_and = _binary("logical_and", None, "a and b", kinds="b")
logical_or = _binary("logical_or", None, "a or b", kinds="b")
logical_xor = _binary("logical_xor", None, "a xor b", kinds="b")
logical_not = _unary("logical_not", None, "not x", kinds="b")
bitwise_and = _binary("bitwise_and", None, "a & b", kinds="iu")
bitwise_or = _binary("bitwise_or", None, "a | b", kinds="iu")
bitwise_xor = _binary("bitwise_xor", None, "a ^ b", kinds="iu")
bitwise_not = _unary("bitwise_not", None, "~x", kinds="iu")
shift_left = _binary("shift_left", None, "a << b for 0 <= b < bits", kinds="iu")
shift_right = _binary(
    "shift_right", None, "a >> b for 0 <= b < bits; keeps the sign of signed a", kinds="iu"
)
is_nan = _unary("is_nan", None, "Whether x is NaN.", result=dtypes.bool_)
is_finite = _unary("is_finite", None, "Neither NaN nor infinite.", result=dtypes.bool_)


def _select_infer(condition: TensorSpec, a: TensorSpec, b: TensorSpec) -> TensorSpec:
    _require_kind("select", "b", condition)
    dtype = _require_same_dtype("select", a, b)
    return TensorSpec(broadcast_shapes(condition.shape, a.shape, b.shape), dtype)


def _select_vjp(g: Any, y: Any, condition: Any, a: Any, b: Any) -> Sequence[Any]:
    zero = zeros_like(g)
    return (
        None,
        unbroadcast(select(condition, g, zero), a.shape),
        unbroadcast(select(condition, zero, g), b.shape),
    )


select = primitive(
    "select",
    _select_infer,
    vjp=_select_vjp,
    flops=no_flops,
    elementwise=True,
    doc="a where condition holds, b elsewhere.",
)


def _cast_infer(x: TensorSpec, *, dtype: DType) -> TensorSpec:
    return TensorSpec(x.shape, dtype)


def _cast_vjp(g: Any, y: Any, x: Any, *, dtype: DType) -> Sequence[Any]:
    return (cast(g, dtype=x.dtype) if x.dtype.is_floating else None,)


cast = primitive(
    "cast",
    _cast_infer,
    vjp=_cast_vjp,
    flops=no_flops,
    elementwise=True,
    doc="""x converted to dtype.

    Floats round to nearest, floats to integers truncate (undefined outside of the range),
    integers wrap around, anything to bool is x != 0.""",
)


def zeros_like(x: Any) -> Any:
    """A scalar zero of the dtype of ``x`` (elementwise operands broadcast)."""
    return _scalar_like(0.0 if x.dtype.is_floating else 0, x)


def _scalar_like(value: float, x: Any) -> Any:
    """A number as a scalar of the dtype of ``x``."""
    from accelkit.primitives.shaping import full

    return full(shape=(), value=value, dtype=x.dtype)


# --- rectified linear unit --------------------------------------------------------------------

relu = _unary(
    "relu",
    lambda g, y, x: relu_grad(y, g),
    "x < 0 ? 0 : x. NaN stays NaN.",
    definition=lambda x: select(less(x, zeros_like(x)), zeros_like(x), x),
)


def _relu_grad_definition(y: Any, g: Any) -> Any:
    return select(less_equal(y, zeros_like(y)), zeros_like(g), g)


def _relu_grad_infer(y: TensorSpec, g: TensorSpec) -> TensorSpec:
    _require_same_dtype("relu_grad", y, g)
    return y


relu_grad: Primitive[Tensor] = primitive(
    "relu_grad",
    _relu_grad_infer,
    vjp=lambda ct, dx, y, g: (None, relu_grad(y, ct)),
    definition=_relu_grad_definition,
    elementwise=True,
    doc="y <= 0 ? 0 : g, where y is the output of relu: the derivative at 0 is 0.",
)


def _alias_infer(x: TensorSpec) -> TensorSpec:
    return x


alias = primitive(
    "alias",
    _alias_infer,
    vjp=lambda g, y, x: (g,),
    definition=lambda x: x,
    flops=no_flops,
    elementwise=True,
    doc="x itself: marks the place with respect to which a derivative is taken.",
)
stop_gradient = primitive(
    "stop_gradient",
    _alias_infer,
    vjp=lambda g, y, x: (None,),
    definition=lambda x: x,
    flops=no_flops,
    elementwise=True,
    doc="x, treated as a constant by differentiation.",
)
