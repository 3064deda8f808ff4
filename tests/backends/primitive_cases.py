"""Operands and parameters for every primitive: what the backends' own tests run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.primitives.shaping import ConstantArray


class Case(NamedTuple):
    """One call of a primitive; ``exact`` if only one result is right to the last bit."""

    primitive: str
    arrays: tuple[np.ndarray, ...]
    parameters: dict[str, Any]
    exact: bool = False

    def __str__(self) -> str:
        shapes = "_".join(f"{a.dtype.name}{list(a.shape)}".replace(" ", "") for a in self.arrays)
        return f"{self.primitive}-{shapes}"


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, np.inf, -np.inf, np.nan])
UNARY_RANGES = {
    "log": (0.0, 5.0), "log1p": (-0.9, 5.0), "sqrt": (0.0, 5.0), "rsqrt": (0.1, 5.0),
    "arcsin": (-1.0, 1.0), "arccos": (-1.0, 1.0), "arccosh": (1.0, 5.0), "arctanh": (-0.9, 0.9),
}  # fmt: skip
UNARY = (
    "negative", "absolute", "sign", "floor", "ceil", "round", "trunc", "exp", "expm1", "log",
    "log1p", "sqrt", "rsqrt", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh",
    "tanh", "arcsinh", "arccosh", "arctanh", "erf", "sigmoid", "is_nan", "is_finite", "relu",
    "alias", "stop_gradient",
)  # fmt: skip
EXACT_UNARY = {
    "negative", "absolute", "sign", "floor", "ceil", "round", "trunc", "is_nan", "is_finite",
    "relu", "alias", "stop_gradient",
}  # fmt: skip
NAN_FREE_BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
FLOATS = (np.float32, np.float64)


def floating_cases(dtype: Any) -> Iterator[Case]:
    """Cases whose operands are floats of ``dtype``."""
    random = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(dtype)

    special = SPECIAL.astype(dtype)
    for name in UNARY:
        low, high = UNARY_RANGES.get(name, (-3.0, 3.0))
        exact = name in EXACT_UNARY
        yield Case(name, (random.uniform(low, high, (3, 5)).astype(dtype),), {}, exact)
        yield Case(name, (np.array(0.75 + (name == "arccosh"), dtype),), {}, exact)
        if name in EXACT_UNARY:
            yield Case(name, (special,), {}, True)
    for name in (*NAN_FREE_BINARY, *COMPARISONS):
        yield Case(name, (special[:, None], special[None, :]), {}, True)
        yield Case(name, (normal(4, 1, 3), normal(5, 1)), {}, True)
    positive = random.uniform(0.1, 3.0, (3, 4)).astype(dtype)
    yield Case("power", (positive, normal(3, 4)), {})
    yield Case("power", (normal(3, 1), np.array([0.0, 1.0, 2.0, 3.0], dtype)), {})
    yield Case("arctan2", (normal(3, 4), normal(3, 4)), {})
    yield Case("floor_divide", (normal(6, 4) * 3, positive[:1] + 1), {}, True)
    yield Case("remainder", (normal(6, 4) * 3, positive[:1] + 1), {}, True)
    yield Case("select", (normal(3, 1) > 0, normal(3, 4), normal(4)), {}, True)
    yield Case("relu_grad", (np.array([0, -0.0, 1, np.nan], dtype), normal(4)), {}, True)
    yield from _linear_cases(normal)
    yield from _reduction_cases(normal, special)
    yield from _shaping_cases(normal)
    yield from _convolution_cases(normal)
    yield from _pooling_cases(random, normal)
    yield from _normalisation_cases(normal)
    yield from _update_cases(normal)
    yield from _bookkeeping_cases(dtype)
    yield from _random_cases(normal)


def _linear_cases(normal: Any) -> Iterator[Case]:
    for ta in (False, True):
        for tb in (False, True):
            a, b = ((5, 3) if ta else (3, 5)), ((4, 5) if tb else (5, 4))
            parameters = {"transpose_a": ta, "transpose_b": tb}
            yield Case("matmul", (normal(*a), normal(*b)), parameters)
            yield Case("matmul", (normal(2, *a), normal(2, *b)), parameters)


def _reduction_cases(normal: Any, special: np.ndarray) -> Iterator[Case]:
    x = normal(3, 4, 5)
    for axes in ((), (1,), (0, 2), (0, 1, 2)):
        yield Case("reduce_sum", (x,), {"axes": axes})
        yield Case("reduce_product", (x,), {"axes": axes})
        for name in ("reduce_max", "reduce_min"):
            yield Case(name, (x,), {"axes": axes}, True)
        for name in ("reduce_any", "reduce_all"):
            yield Case(name, (x > 0.5,), {"axes": axes}, True)
    yield Case("reduce_sum", (x[:0],), {"axes": (0,)}, True)
    ties = np.array([[1, 3, 3, 2], [2, 2, 1, 1]], x.dtype)
    for name in ("reduce_max", "reduce_min"):
        yield Case(name, (special,), {"axes": (0,)}, True)
    for name in ("argmax", "argmin"):
        yield Case(name, (ties,), {"axis": 1}, True)
        yield Case(name, (special,), {"axis": 0}, True)
    yield Case("cumulative_sum", (x,), {"axis": 1})
    for descending in (False, True):
        for name in ("argsort", "sort"):
            yield Case(name, (ties,), {"axis": 1, "descending": descending}, True)
            yield Case(name, (x,), {"axis": 0, "descending": descending}, True)


def _shaping_cases(normal: Any) -> Iterator[Case]:
    x = normal(3, 4)
    dtype = dtypes.dtype(x.dtype)
    yield Case("full", (), {"shape": (2, 3), "value": 1.5, "dtype": dtype}, True)
    yield Case("full", (), {"shape": (), "value": float("nan"), "dtype": dtype}, True)
    yield Case("iota", (), {"shape": (2, 3), "axis": 1, "dtype": dtype}, True)
    yield Case("constant", (), {"value": ConstantArray(x)}, True)
    yield Case("reshape", (x,), {"shape": (2, 6)}, True)
    yield Case("transpose", (normal(2, 3, 4),), {"permutation": (2, 0, 1)}, True)
    yield Case("broadcast_to", (normal(3, 1),), {"shape": (2, 3, 4)}, True)
    yield Case("reverse", (x,), {"axes": (0, 1)}, True)
    yield Case("slice", (x,), {"start": (1, 0), "stop": (3, 4), "step": (1, 2)}, True)
    pad = {"low": (1, 0), "high": (0, 2), "interior": (1, 2), "value": -1.5}
    yield Case("pad", (x,), pad, True)
    yield Case("concatenate", (x, normal(3, 2)), {"axis": 1}, True)
    indices = np.array([[0, 2], [2, 2]])
    yield Case("take", (normal(2, 3, 4), indices), {"axis": 1}, True)
    yield Case("take", (x, indices[1].astype(np.int32)), {"axis": 0}, True)
    yield Case("take_grad", (normal(2, 2, 2, 4), indices), {"axis": 1, "extent": 3})
    along = np.array([[0, 3], [1, 1], [2, 0]])
    yield Case("take_along_axis", (x, along), {"axis": 1}, True)
    yield Case("take_along_axis_grad", (normal(3, 2), along), {"axis": 1, "extent": 4})
    yield Case("cast", (x * 3,), {"dtype": dtypes.int32}, True)
    yield Case("cast", (np.array([0, 0.5, np.nan, -0.0], x.dtype),), {"dtype": dtypes.bool_}, True)


CONVOLUTIONS = (
    # (N, H, W, C), (kh, kw), O, strides, padding, dilation, groups
    ((2, 9, 8, 4), (3, 2), 6, (2, 1), ((1, 2), (0, 1)), (1, 2), 2),
    ((3, 7, 7, 3), (1, 1), 5, (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 11, 11, 4), (5, 5), 8, (3, 3), ((2, 2), (2, 2)), (1, 1), 4),
    ((1, 12, 13, 3), (5, 5), 4, (4, 4), ((1, 1), (1, 1)), (1, 1), 1),
)


def _convolution_cases(normal: Any) -> Iterator[Case]:
    from accelkit.primitives.convolution import conv2d_output_shape

    for shape, kernel, outputs, strides, padding, dilation, groups in CONVOLUTIONS:
        x, w = normal(*shape), normal(*kernel, shape[3] // groups, outputs)
        geometry = {"strides": strides, "padding": padding, "dilation": dilation}
        grouped = {**geometry, "groups": groups}
        g = normal(*conv2d_output_shape(x.shape, w.shape, **grouped))
        yield Case("conv2d", (x, w), grouped)
        yield Case("conv2d_input_grad", (g, w), {**grouped, "image_size": shape[1:3]})
        yield Case("conv2d_weight_grad", (x, g), {**grouped, "kernel_size": kernel})
        yield Case("depthwise_conv2d", (x, normal(*kernel, shape[3], 2)), geometry)


POOLINGS = (
    # (N, H, W, C), window, strides, padding
    ((2, 9, 8, 3), (3, 3), (2, 2), ((0, 0), (0, 0))),
    ((1, 7, 7, 2), (2, 3), (1, 2), ((1, 1), (1, 1))),
    ((2, 6, 9, 2), (3, 2), (2, 1), ((1, 0), (0, 1))),
    ((1, 6, 6, 2), (3, 3), (3, 3), ((2, 2), (2, 2))),
)


def _pooling_cases(random: np.random.Generator, normal: Any) -> Iterator[Case]:
    from accelkit.primitives.pooling import pool_output_shape

    for shape, window, strides, padding in POOLINGS:
        geometry = {"window": window, "strides": strides, "padding": padding}
        small = pool_output_shape(shape, window, strides, padding)
        x = random.integers(0, 4, shape).astype(normal(1).dtype)  # with many ties
        y = _pooled(x, window, strides, padding)
        g = normal(*small)
        winners = _winners(x, window, strides, padding)
        scatter = {**geometry, "image_size": shape[1:3]}
        yield Case("max_pool2d", (x,), geometry, True)
        yield Case("max_pool2d", (np.where(x == 3, np.nan, x),), geometry, True)
        yield Case("max_pool2d", (np.full_like(x, -np.inf),), geometry, True)
        yield Case("max_pool2d_winners", (x,), geometry, True)
        yield Case("max_pool2d_winners", (np.full_like(x, -np.inf),), geometry, True)
        yield Case("max_pool2d_gather", (winners, x), geometry, True)
        yield Case("max_pool2d_scatter", (winners, g), scatter)
        yield Case("max_pool2d_grad", (x, y, g), geometry)
        yield Case("avg_pool2d", (x,), geometry)
        yield Case("avg_pool2d_grad", (g,), scatter)


def _window(x: np.ndarray, window: Any, strides: Any, padding: Any, i: int, j: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    top, left = i * strides[0], j * strides[1]
    part = padded[:, top : top + window[0], left : left + window[1]]
    return part.reshape(len(x), -1, x.shape[3])


def _pooled(x: np.ndarray, window: Any, strides: Any, padding: Any) -> np.ndarray:
    return _by_window(x, window, strides, padding, lambda part: part.max(1)).astype(x.dtype)


def _winners(x: np.ndarray, window: Any, strides: Any, padding: Any) -> np.ndarray:
    return _by_window(x, window, strides, padding, lambda part: part.argmax(1)).astype(np.int32)


def _by_window(x: np.ndarray, window: Any, strides: Any, padding: Any, of: Any) -> np.ndarray:
    from accelkit.primitives.pooling import pool_output_shape

    _, rows, columns, _ = pool_output_shape(x.shape, window, strides, padding)
    parts = [
        [of(_window(x, window, strides, padding, i, j)) for j in range(columns)]
        for i in range(rows)
    ]
    return np.transpose(np.array(parts), (2, 0, 1, 3))


_LABELS = np.array([0, 6, 3, 5, 1])


def _normalisation_cases(normal: Any) -> Iterator[Case]:
    for name in ("softmax", "log_softmax"):
        yield Case(name, (normal(3, 4, 5) * 5,), {"axis": 1})
    for smoothing in (0.0, 0.1):
        logits = normal(5, 7) * 3
        parameters = {"label_smoothing": smoothing}
        yield Case("softmax_cross_entropy", (logits, _LABELS), parameters)
        yield Case("softmax_cross_entropy_grad", (logits, _LABELS, normal(5)), parameters)
    for size, beta in ((5, 0.75), (4, 0.5), (9, 0.75)):
        parameters = {"size": size, "alpha": 0.2, "beta": beta, "k": 2.0}
        yield Case("local_response_norm", (normal(2, 3, 3, 6),), parameters)
        many = (normal(1, 2, 1, 130), normal(1, 2, 1, 130))
        yield Case("local_response_norm_grad", many, parameters)
        yield Case("local_response_norm_grad", (normal(2, 3, 3, 6), normal(2, 3, 3, 6)), parameters)
    for shape in ((2, 3, 4, 5), (6, 5), (1, 5)):
        parameters = {"epsilon": 1e-3}
        x, (scale, bias, mean) = normal(*shape), (normal(5) for _ in range(3))
        yield Case("batch_norm", (x + mean, scale, bias), parameters)
        statistics = (mean, np.abs(normal(5)) + scale.dtype.type(0.5))
        yield Case("batch_norm_grad", (x, scale, *statistics, normal(*shape)), parameters)
    yield Case("softmax_grad", (np.abs(normal(3, 4, 5)), normal(3, 4, 5)), {"axis": 1})
    for approximate in (False, True):
        parameters = {"approximate": approximate}
        yield Case("gelu", (normal(3, 5) * 2,), parameters)
        yield Case("gelu_grad", (normal(3, 5) * 2, normal(3, 5)), parameters)
    for shape in ((2, 3, 5), (6, 5)):
        x, (scale, bias) = normal(*shape), (normal(5) for _ in range(2))
        yield Case("layer_norm", (x + scale, scale, bias), {"epsilon": 1e-3})
        statistics = (x.mean(-1, keepdims=True), np.abs(normal(*shape[:-1], 1)))
        yield Case("layer_norm_grad", (x, scale, *statistics, normal(*shape)), {})


def _update_cases(normal: Any) -> Iterator[Case]:
    p, g, v = normal(3, 4), normal(3, 4), normal(3, 4)
    rate = np.array(0.1, p.dtype)
    for nesterov in (False, True):
        parameters = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
        yield Case("sgd_update", (p, g, v, rate), parameters)
        for swapped, a, b in (
            (False, normal(3, 5), normal(5, 4)),
            (True, normal(5, 3), normal(4, 5)),
        ):
            transposes = {"transpose_a": swapped, "transpose_b": swapped}
            yield Case("sgd_update_matmul", (p, a, b, v, rate), {**parameters, **transposes})
    yield Case("average_update", (p, g, rate), {})
    yield Case("barrier", (p, normal(5), rate), {}, exact=True)
    corrections = (np.array(0.1, p.dtype), np.array(0.001, p.dtype))
    for decoupled in (False, True):
        parameters = {
            "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01,
            "decoupled": decoupled,
        }  # fmt: skip
        yield Case(
            "adam_update", (p, g, (v * 0.1).astype(v.dtype), v * v, rate, *corrections), parameters
        )


def _bookkeeping_cases(dtype: Any) -> Iterator[Case]:
    counts = np.array([1.0, 0.0, 2.0, 0.5, 1.0], dtype)
    for classes in (3, 10):
        yield Case("labels_in_range", (_LABELS, counts), {"classes": classes}, True)
    watch, keys = np.array([-1, 3], np.int32), np.array([[8, 0], [5, 6]], np.uint32)
    for loss in (0.5, np.nan):
        values = (np.array(loss, dtype), np.array(0.25, dtype))
        yield Case("step_report", (watch, keys, np.array(False), *values), {}, True)
    for valid in (True, False):
        losses = np.array([0.5, 9.0, 3.0, 2.0, 1.0], dtype)
        yield Case("evaluation_report", (np.array(valid), counts, losses), {})


def _random_cases(normal: Any) -> Iterator[Case]:
    key = np.array([123, 0xFFFFFFFF], np.uint32)
    for offset in (0, 3, (1 << 34) - 5):
        mask = {"shape": (5, 7), "rate": 0.3, "offset": offset}
        yield Case("random_keep_mask", (key,), mask, True)
        for dtype in (dtypes.float32, dtypes.float64):
            uniform = {"shape": (3, 5), "dtype": dtype, "offset": offset}
            yield Case("random_uniform", (key,), uniform, True)
    yield Case("random_normal", (key,), {"shape": (9,), "dtype": dtypes.float64, "offset": 1})
    yield Case("dropout", (normal(4, 6), key), {"rate": 0.5, "offset": 2}, True)


INTEGERS = (
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
)  # fmt: skip


def integer_cases(dtype: Any) -> Iterator[Case]:
    """Cases whose operands are integers of ``dtype``; all of them are exact."""
    limits = np.iinfo(dtype)
    a = np.array([0, 1, 2, 5, limits.max, limits.max - 3, limits.min, limits.min + 2], dtype)
    b = np.array([1, 3, 2, limits.max, 7, limits.max // 2 + 1, 5, 2], dtype)
    for name in ["add", "subtract", "multiply", "floor_divide", "remainder", "maximum", "minimum"]:
        yield Case(name, (a, b), {}, True)
        yield Case(name, (a[:, None], b), {}, True)
    for name in (*COMPARISONS, "bitwise_and", "bitwise_or", "bitwise_xor"):
        yield Case(name, (a[:, None], b), {}, True)
    counts = np.array([0, 1, 3, limits.bits - 1], dtype)
    yield Case("shift_right", (a[:, None], counts), {}, True)
    yield Case("shift_left", (a[:, None], counts), {}, True)
    signed = ("negative", "absolute", "sign") if limits.min < 0 else ()
    for name in ("bitwise_not", *signed):
        yield Case(name, (a,), {}, True)
    matrix = a.reshape(2, 4)
    for name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_product"):
        yield Case(name, (matrix,), {"axes": (1,)}, True)
    for name in ("argmax", "argmin", "cumulative_sum"):
        yield Case(name, (matrix,), {"axis": 1}, True)
    for descending in (False, True):
        for name in ("argsort", "sort"):
            parameters = {"axis": 1, "descending": descending}
            yield Case(name, (matrix,), parameters, True)
    yield Case("matmul", (matrix, b.reshape(4, 2)), {"transpose_a": False, "transpose_b": False},
               True)  # fmt: skip
    yield Case("reverse", (matrix,), {"axes": (1,)}, True)
    yield Case("pad", (a,), {"low": (1,), "high": (0,), "interior": (1,), "value": 3}, True)
    indices = np.array([1, 1, 0])
    yield Case("take", (a, indices), {"axis": 0}, True)
    yield Case("take_grad", (b[:3], indices), {"axis": 0, "extent": 2}, True)
    yield Case("take_along_axis", (a, indices), {"axis": 0}, True)
    yield Case("take_along_axis_grad", (b[:3], indices), {"axis": 0, "extent": 2}, True)
    yield Case("select", (a > 1, a, b), {}, True)
    yield Case("iota", (), {"shape": (3, 2), "axis": 0, "dtype": dtypes.dtype(dtype)}, True)
    yield Case("full", (), {"shape": (2,), "value": 7, "dtype": dtypes.dtype(dtype)}, True)
    for target in (dtypes.int8, dtypes.uint16, dtypes.uint32, dtypes.uint64, dtypes.float64,
                   dtypes.bool_):  # fmt: skip
        yield Case("cast", (a,), {"dtype": target}, True)


def logical_cases() -> Iterator[Case]:
    """Cases on truth values."""
    a, b = np.array([True, True, False, False]), np.array([True, False])
    for name in ("logical_and", "logical_or", "logical_xor", "equal", "not_equal"):
        yield Case(name, (a[:, None], b), {}, True)
    yield Case("logical_not", (a,), {}, True)
    yield Case("select", (a, a, ~a), {}, True)
    yield Case("cast", (a,), {"dtype": dtypes.float32}, True)
    yield Case("cast", (a,), {"dtype": dtypes.uint32}, True)
