"""What random programs are made of: functions from a writer to an expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from parity.programs import Writer, is_finite

from accelkit import dtypes

_UNARY = (
    "ak.exp({x})", "ak.expm1({x})", "ak.log({x})", "ak.log(ak.abs({x}) + 0.5)", "ak.log1p({x})",
    "ak.sqrt({x})", "ak.sqrt({x} * {x} + 0.25)", "ak.rsqrt({x})", "ak.sin({x})", "ak.cos({x})",
    "ak.tan({x})", "ak.asin({x})", "ak.acos({x})", "ak.atan({x})", "ak.sinh({x})", "ak.cosh({x})",
    "ak.tanh({x})", "ak.asinh({x})", "ak.acosh({x})", "ak.atanh({x})", "ak.erf({x})",
    "ak.sigmoid({x})", "ak.reciprocal({x})", "ak.square({x})", "{x} ** 3", "{x} ** 0.5",
    "{x} ** -2", "(ak.abs({x}) + 0.5) ** 1.7", "ak.relu({x})", "ak.gelu({x})",
    "ak.gelu({x}, approximate=True)", "ak.silu({x})", "ak.softplus({x})", "ak.log_sigmoid({x})",
    "ak.leaky_relu({x}, slope=0.1)", "ak.elu({x})", "ak.floor({x})", "ak.ceil({x})",
    "ak.round({x})", "ak.trunc({x})", "ak.clip({x}, -0.75, 1.25)", "halved_slope({x})",
    "ak.stop_gradient({x})", "{x} + 1.0", "{x} * 0.5", "2.0 - {x}", "ak.isfinite({x})",
    "{x} > 0.25", "{x} <= 0.0", "ak.isnan({x})", "ak.where({x} > 0.0, {x}, {x} * 0.1)",
)  # fmt: skip
_ANY_UNARY = ("ak.abs({x})", "-{x}", "ak.sign({x})")
_BINARY = (
    "{x} + {y}", "{x} - {y}", "{x} * {y}", "{x} / {y}", "{x} / (ak.abs({y}) + 0.5)",
    "ak.maximum({x}, {y})", "ak.minimum({x}, {y})", "ak.atan2({x}, {y})", "ak.hypot({x}, {y})",
    "ak.logaddexp({x}, {y})", "(ak.abs({x}) + 0.5) ** {y}", "{x} % (ak.abs({y}) + 0.5)",
    "{x} // (ak.abs({y}) + 0.5)",
)  # fmt: skip
_INTEGER = (
    "{x} + {y}", "{x} - {y}", "{x} * {y}", "ak.maximum({x}, {y})", "ak.minimum({x}, {y})",
    "{x} & {y}", "{x} | {y}", "{x} ^ {y}", "{x} // ({y} * {y} + 1)", "{x} % ({y} * {y} + 1)",
    "~({x} ^ {y})",
)  # fmt: skip
_COMPARE = ("{x} < {y}", "{x} >= {y}", "{x} == {y}", "{x} != {y}")
_LOGICAL = ("{x} & {y}", "{x} | {y}", "{x} ^ {y}", "~{x} | {y}")
_REDUCE = ("sum", "mean", "max", "min", "prod", "var", "std", "logsumexp", "sum", "vector_norm")
_EINSUMS = ("ij,kj->ik", "ij,ij->i", "ij,kj->jk", "ij,ij->ji", "ij,kj->ikj", "ij,kj->")


def _unary(w: Writer) -> str:
    text: str = w.choose(*_UNARY)
    if "gelu" in text:  # torch's kernel gives NaN at infinity
        return text.format(x=w.pick("f", is_finite))
    return text.format(x=w.pick())


def _any_unary(w: Writer) -> str:
    return w.choose(*_ANY_UNARY).format(x=w.pick("fi"))


def _of_two(texts: Sequence[str], kinds: str) -> Callable[[Writer], str]:
    """Expressions of two values of these kinds."""

    def operation(w: Writer) -> str:
        x, y = w.pair(kinds)
        return w.choose(*texts).format(x=x, y=y)

    return operation


_binary = _of_two(_BINARY, "f")
_integer = _of_two(_INTEGER, "iu")
_compare = _of_two(_COMPARE, "fiu")
_logical = _of_two(_LOGICAL, "b")


def _where(w: Writer) -> str:
    x, y = w.pair("fi")
    condition = w.choose(w.pick("b"), f"{x} > {y}", f"{y} == {x}")
    return f"ak.where({condition}, {x}, {y})"


def _cast(w: Writer) -> str:
    target = w.choose("float32", *w.floating, "int32", *w.integers, "bool")
    name = w.pick("fiub")
    if (
        "int" in target and dtypes.dtype(w.values[name].dtype).is_floating
    ):  # what does not fit has no integer
        bounds = np.iinfo(target)
        name = w.pick("f", lambda a: is_finite(a) and _fits(a, bounds.min, bounds.max))
    return f"{name}.astype({target!r})"


def _fits(a: np.ndarray, low: int, high: int) -> bool:
    whole = np.trunc(a.astype(np.float64))
    return bool(np.all((whole >= low) & (whole <= high)))


def _reshape(w: Writer) -> str:
    name = w.pick("fiub")
    shape = w.values[name].shape
    size = w.values[name].size
    new = [shape[::-1], (size,), (1, *shape), (*shape, 1), (-1, *shape[2:]) if size else (size,)]
    if len(shape) > 1:
        new.append((shape[0], size // shape[0] if shape[0] else 0))
    if size and size % 4 == 0:
        new += [(size // 4, 2, 2, 1), (2, size // 4, 2), (1, 2, 2, size // 4)]
    return f"ak.reshape({name}, {w.choose(*new)})"


def _transpose(w: Writer) -> str:
    name, x, _ = w.with_axes("fiub", 2)
    return f"ak.permute_dims({name}, {tuple(w.random.sample(range(x.ndim), x.ndim))})"


def _slice(w: Writer) -> str:
    name, x, _ = w.with_axes("fiub")
    parts = []
    for extent in x.shape:
        a, b = sorted((w.below(extent + 1), w.below(extent + 1)))
        parts.append(w.choose(":", ":", f"{a}:{b}", "::2", "::-1", "1:", ":-1", f"{b}:{a}:-1"))
    if x.shape[-1] and w.below(3) == 0:
        parts[-1] = str(w.below(x.shape[-1]))
    return f"{name}[{', '.join(parts)}]"


def _move(w: Writer) -> str:
    name, x, axis = w.with_axes("fiub")
    widths = [(w.below(3), w.below(3)) for _ in x.shape]
    options = [
        f"ak.flip({name}, axis={axis})",
        f"ak.roll({name}, {w.below(5) - 2}, axis={axis})",
        f"ak.tile({name}, {(*(1,) * (x.ndim - 1), 2)})",
        f"ak.repeat({name}, 2, axis={axis})",
        f"ak.broadcast_to({name}, {(w.choose(1, 2, 3), *x.shape)})",
        f"ak.expand_dims({name}, axis={axis})",
        f"ak.moveaxis({name}, {axis}, 0)",
    ]
    if x.dtype.kind != "b":
        options.append(f"ak.pad({name}, {widths}, value={w.choose(0, 1)})")
        options.append(f"ak.pad({name}, {widths})")
    return w.choose(*options)


def _join(w: Writer) -> str:
    name, x, axis = w.with_axes("fiub")
    like = [w.pick("fiub", lambda y: y.shape == x.shape and y.dtype == x.dtype) for _ in "ab"]
    parts = ", ".join([name, *like[: w.choose(1, 2)]])
    return w.choose(f"ak.concat([{parts}], axis={axis})", f"ak.stack([{parts}], axis={axis})")


def _index(w: Writer) -> str:
    name, x, axis = w.with_axes("fiub")
    extent = x.shape[axis]
    indices = w.pick("iu", lambda i: i.ndim <= 2)
    bounded = f"ak.abs({indices}) % {max(extent, 1)}"
    like = w.random.choices(range(-extent, extent), k=3) if extent else []
    return w.choose(
        f"ak.take({name}, ak.reshape({bounded}, (-1,)), axis={axis})",
        f"ak.take({name}, np.array({like}, np.int32), axis={axis})",
        f"ak.moveaxis({name}, {axis}, 0)[{bounded}]",
        f"ak.take_along_axis({name}, ak.argsort({name}, axis={axis}), axis={axis})",
    )


def _reduce(w: Writer) -> str:
    name = w.pick()
    axes = w.axes(w.values[name].ndim)
    return f"ak.{w.choose(*_REDUCE)}({name}, axis={axes}, keepdims={w.choose(True, False)})"


def _count(w: Writer) -> str:
    name = w.pick("iub")
    kind = "any", "all", "count_nonzero"
    if w.values[name].dtype.kind != "b":
        kind = "sum", "max", "min", "prod", "any", "all"
    axes = w.axes(w.values[name].ndim)
    return f"ak.{w.choose(*kind)}({name}, axis={axes}, keepdims={w.choose(True, False)})"


def _along(w: Writer) -> str:
    name, x, axis = w.with_axes("fi")
    extent = x.shape[axis]
    return w.choose(
        f"ak.argmax({name}, axis={axis})",
        f"ak.argmin({name}, axis={axis}, keepdims=True)",
        f"ak.sort({name}, axis={axis}, descending={w.choose(True, False)})",
        f"ak.argsort({name}, axis={axis}, descending={w.choose(True, False)})",
        f"ak.top_k({name}, {1 + w.below(extent or 1)}, axis={axis})[{w.below(2)}]",
        f"ak.cumulative_sum({name}, axis={axis})",
        f"ak.cumulative_prod({name}, axis={axis})",
        f"ak.diff({name}, axis={axis})",
    )


def _normalise(w: Writer) -> str:
    name, x, axis = w.with_axes()
    channels = (x.shape[-1],)
    scale = w.pick("f", lambda y: y.shape == channels and y.dtype == x.dtype)
    simple = [
        f"ak.softmax({name}, axis={axis})",
        f"ak.log_softmax({name}, axis={axis})",
        f"layer_norm({name}, {scale}, {scale}, epsilon=1e-3)[0]",
    ]
    if x.ndim > 1:
        simple.append(f"batch_norm({name}, {scale}, {scale}, epsilon=1e-3)[{w.below(3)}]")
    if x.ndim == 4:
        simple.append(f"ak.local_response_norm({name}, size=3)")
    return w.choose(*simple)


def _softmax(w: Writer) -> str:
    name, _, axis = w.with_axes()
    return w.choose(f"ak.softmax({name}, axis={axis})", f"ak.log_softmax({name}, axis={axis})")


def _cross_entropy(w: Writer) -> str:
    name, x, _ = w.with_axes()
    classes = x.shape[-1]
    labels = w.choose(
        f"ak.argmin({name}, axis=-1)",
        f"(ak.abs({w.pick('i', lambda y: y.shape == x.shape[:-1])}) % {classes})",
    )
    smoothing = w.choose(0.0, 0.1)
    return f"ak.softmax_cross_entropy({name}, {labels}, label_smoothing={smoothing})"


def _product(w: Writer) -> str:
    a, x, _ = w.with_axes(least=2)
    rows, columns = x.shape[-2:]
    same = lambda y: y.dtype == x.dtype and y.ndim >= 2  # noqa: E731 - a predicate
    b = w.pick("f", lambda y: same(y) and y.shape[-2] == columns)
    c = w.pick("f", lambda y: same(y) and y.shape[-1] == columns)
    d = w.pick("f", lambda y: same(y) and y.shape[-2] == rows)
    return w.choose(f"{a} @ {b}", f"{a} @ {c}.mT", f"{a}.mT @ {d}", f"{a} @ {a}.mT")


def _gram(w: Writer) -> str:
    name, x, _ = w.with_axes(least=2)
    other = w.pick("f", lambda y: y.shape == x.shape and y.dtype == x.dtype)
    if x.ndim == 2 and w.below(2):
        return f"ak.einsum({w.choose(*_EINSUMS)!r}, {name}, {other})"
    return w.choose(f"{name} @ {other}.mT", f"{name}.mT @ {other}", f"ak.vecdot({name}, {other})")


def _convolution(w: Writer) -> str:
    name, (_, _, _, channels) = w.image(finite=True)
    groups = w.choose(1, 1, *(g for g in (2, 4) if channels % g == 0))
    size = w.choose((1, 1), (3, 3), (3, 3), (2, 2), (5, 5), (1, 3), (4, 2), (1, 5))
    outputs = groups * w.choose(1, 2, 3)
    dtype = str(w.values[name].dtype)
    shape = (*size, channels // groups, outputs)
    weight = f"drawn('normal', {shape}, {dtype!r}, {w.below(1000)})"
    options = (
        f"strides={w.choose(1, 1, 2, 3, (2, 1))}, padding={w.padding()}, "
        f"dilation={w.choose(1, 1, 1, 2, (1, 2))}"
    )
    if w.below(4) == 0:
        weight = f"drawn('normal', {(*size, channels, w.choose(1, 2))}, {dtype!r}, {w.below(1000)})"
        return f"ak.depthwise_conv2d({name}, ak.asarray({weight}), {options})"
    return f"ak.conv2d({name}, ak.asarray({weight}), {options}, groups={groups}) * 0.3"


def _self_convolution(w: Writer) -> str:
    """With a weight that is computed."""
    name, shape = w.image(finite=True)
    fits = lambda y: y.ndim == 4 and y.shape[2] == shape[3] and y.shape[0] < 8  # noqa: E731
    weight = w.pick("f", lambda y: fits(y) and y.dtype == w.values[name].dtype and is_finite(y))
    strides = w.choose(1, 2)
    return f"ak.conv2d({name}, {weight}, strides={strides}, padding={w.padding()})"


def _pool(w: Writer) -> str:
    name, _ = w.image()
    window = w.choose(2, 3, (2, 3), (1, 2), 3)
    options = f"strides={w.choose(1, 2, 3, (2, 1))}, padding={w.choose(0, 0, 1, ((0, 1), (1, 0)))}"
    return w.choose(
        f"ak.max_pool2d({name}, {window}, {options})",
        f"ak.avg_pool2d({name}, {window}, {options})",
        f"ak.avg_pool2d({name}, {window}, {options}, count_include_pad=False)",
        f"ak.adaptive_avg_pool2d({name}, {w.choose(1, 2, 3)})",
    )


def _random(w: Writer) -> str:
    key, shape = f"ak.random.key({w.below(100)})", w.shape(3)
    name = w.pick()
    return w.choose(
        f"ak.random.uniform({key}, {shape})",
        f"ak.random.integers({key}, {shape}, high={w.choose(2, 7)})",
        f"ak.random.normal({key}, {shape})",
        f"ak.where(ak.random.bernoulli({key}, 0.7, {name}.shape), {name}, 0.0)",
    )


def _cond(w: Writer) -> str:
    x, y = w.pick(), w.pick()
    predicate = w.choose(f"ak.any({x} > 0.5)", f"ak.sum({y}) > 0.0", f"ak.all({w.pick('b')})")
    one, other = w.choose(*_UNARY).format(x="a"), w.choose(*_UNARY).format(x="a")
    same = "ak.exp(a * 0.5)" if w.below(2) else f"a - ak.mean({y}).astype(a.dtype)"
    return f"ak.cond({predicate}, lambda a: {w.choose(one, same)}, lambda a: {other}, {x})"


def _scan(w: Writer) -> str:
    name, _, _ = w.with_axes()
    y = w.pick()
    outside = f"ak.mean({y}).astype(x.dtype)"
    body = w.choose(
        "(ak.tanh(c + x), c * x)",
        f"(c * 0.5 + x * {outside}, ak.sin(c))",
        "(ak.where(c > x, c, x), c - x)",
        f"(c + ak.max(x) * {outside}, (c > 0.0).astype(c.dtype) * x)",
    )
    part, reverse = w.choose(0, 1, 1), w.choose(True, False)
    initial = f"ak.zeros_like(ak.sum({name}, axis=0))"
    return f"ak.scan(lambda c, x: {body}, {initial}, {name}, reverse={reverse})[{part}]"


_COMMON: tuple[Callable[[Writer], str], ...] = (_unary, _binary, _reduce)
_RARE: tuple[Callable[[Writer], str], ...] = (
    _any_unary, _integer, _compare, _logical, _where, _cast, _reshape, _transpose, _slice, _move,
    _join, _index, _count, _along, _normalise, _softmax, _cross_entropy, _product, _gram,
    _convolution, _convolution, _convolution, _self_convolution, _pool, _pool, _random, _cond,
    _scan,
)  # fmt: skip
OPERATIONS: Final[tuple[Callable[[Writer], str], ...]] = (*_COMMON * 3, *_RARE)
