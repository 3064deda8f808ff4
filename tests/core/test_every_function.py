"""Every public function on every installed backend, eagerly and compiled, against NumPy's."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import ops

DEVICES = [
    f"{name}:cpu" for name in ("torch", "jax", "tensorflow") if importlib.util.find_spec(name)
]

X = np.array([[1.5, -0.5, 2.0], [0.25, 3.0, -1.0]], "float32")
Y = np.array([[0.5, 2.0, -2.0], [4.0, -0.25, 1.0]], "float32")
N = np.array([[3, -7, 5], [2, 0, 9]], "int32")
M = np.array([[1, 2, 4], [3, 5, 2]], "int32")
B = np.array([[True, False, True], [False, False, True]])
C = np.array([[True, True, False], [False, True, True]])
IMAGES = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype("float32")
FILTERS = np.random.default_rng(1).standard_normal((3, 2, 2, 6)).astype("float32")
DEPTHWISE = np.random.default_rng(2).standard_normal((3, 2, 4, 2)).astype("float32")

Case = tuple[Any, tuple[np.ndarray, ...]]


def unary(names: str, x: np.ndarray) -> dict[str, Case]:
    return {name: (getattr(ak, name), (x,)) for name in names.split()}


def binary(names: str, *operands: np.ndarray) -> dict[str, Case]:
    return {name: (getattr(ak, name), operands) for name in names.split()}


CASES: dict[str, Case] = {
    **unary("abs ceil floor trunc round negative positive sign square signbit isnan isinf", X),
    **unary("isfinite exp expm1 sin cos tan sinh cosh tanh asinh atan erf sigmoid relu gelu", X),
    **unary("silu reciprocal softmax log_softmax local_response_norm", X),
    **unary("log log1p log2 log10 sqrt rsqrt", np.abs(X)),
    **unary("asin acos atanh", X / 4),
    **unary("acosh", np.abs(X) + 1),
    **unary("bitwise_invert", N),
    **unary("logical_not", B),
    **binary("add subtract multiply divide floor_divide remainder maximum minimum atan2", X, Y),
    **binary("hypot logaddexp copysign equal not_equal less less_equal greater", X, Y),
    **binary("greater_equal vecdot nextafter", X, Y),
    **binary("bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift", M, M % 3),
    **binary("logical_and logical_or logical_xor", B, C),
    **binary("where", B, X, Y),
    **unary("sum mean max min prod var std all any argmax argmin count_nonzero", X),
    **unary("sort argsort zeros_like ones_like empty_like tril triu matrix_transpose flip", X),
    **unary("nonzero unique_all unique_counts unique_inverse unique_values", N),
    **unary("softplus log_sigmoid leaky_relu elu logsumexp flatten vector_norm", X),
    **binary("isclose allclose", X, Y),
    "pow": (lambda x, n: (x**2, abs(x) ** 0.5, 2.0**x, n**3, n ** abs(n % 4)), (X, N)),
    "clip": (lambda x: ak.clip(x, -1.0, 1.0), (X,)),
    "astype": (lambda x, n: (x.astype("int32"), n.astype("float32"), n.astype("uint8")), (X, N)),
    "cumulative_sum": (
        lambda x, n: (
            ak.cumulative_sum(x, axis=0),
            ak.cumulative_sum(n, axis=1, include_initial=True),
        ),
        (X, N),
    ),
    "cumulative_prod": (
        lambda x, n: (
            ak.cumulative_prod(x, axis=1),
            ak.cumulative_prod(n, axis=0, include_initial=True),
        ),
        (X, N),
    ),
    "diff": (lambda x: (ak.diff(x), ak.diff(x, axis=0, append=x)), (X,)),
    "searchsorted": (lambda x, y: ak.searchsorted(ak.sort(x.reshape(-1)), y), (X, Y)),
    "top_k": (lambda x: ak.top_k(x, 2), (X,)),
    "matmul": (lambda x, y, n: (x @ y.T, x @ y[0], n.T @ n), (X, Y, N)),
    "tensordot": (lambda x, y: ak.tensordot(x, y, axes=([0], [0])), (X, Y)),
    "einsum": (lambda x, y: ak.einsum("ij,kj,ij->ki", x, y, x), (X, Y)),
    "reshape": (lambda x: ak.reshape(x, (3, -1)), (X,)),
    "permute_dims": (lambda x: ak.permute_dims(x, (1, 0)), (X,)),
    "moveaxis": (lambda x: ak.moveaxis(x, 0, 1), (X,)),
    "swap_axes": (lambda x: ops.swap_axes(x, 0, 1), (X,)),
    "expand_dims": (lambda x: ak.expand_dims(x, (0, 2)), (X,)),
    "squeeze": (lambda x: ak.squeeze(x[:1], 0), (X,)),
    "broadcast_to": (lambda x: ak.broadcast_to(x, (2, 2, 3)), (X,)),
    "broadcast_arrays": (lambda x, y: ak.broadcast_arrays(x[:1], y[:, :1]), (X, Y)),
    "concat": (lambda x, n: (ak.concat([x, x], axis=1), ak.concat([n, n], axis=None)), (X, N)),
    "stack": (lambda x, y: ak.stack([x, y], axis=1), (X, Y)),
    "unstack": (lambda x: ak.unstack(x, axis=1), (X,)),
    "split": (lambda x: ak.split(x, 3, axis=1), (X,)),
    "roll": (lambda x: (ak.roll(x, 2), ak.roll(x, (1, -1), axis=(0, 1))), (X,)),
    "repeat": (lambda x: ak.repeat(x, 2, axis=1), (X,)),
    "tile": (lambda x: ak.tile(x, (2, 1, 2)), (X,)),
    "pad": (
        lambda x, b: (ak.pad(x, [(1, 0), (0, 2)], value=-0.5), ak.pad(b, [(1, 1), (0, 0)])),
        (X, B),
    ),
    "getitem": (
        lambda x, n: (x[1, ::-2], x[..., None, 1], x[:, n[0] % 3], x[n % 2, n % 3]),
        (X, N),
    ),
    "take": (lambda x: ak.take(x, np.array([2, -3, 0]), axis=1), (X,)),
    "take_along_axis": (lambda x: ak.take_along_axis(x, np.array([[0, -1], [2, 1]]), axis=1), (X,)),
    "zeros": (lambda x: x + ak.zeros(3), (X,)),
    "ones": (lambda x: x + ak.ones(3), (X,)),
    "empty": (lambda x: x + ak.empty(3), (X,)),
    "full": (lambda x, b: (x + ak.full((), -0.5), b & ak.full(3, True)), (X, B)),
    "full_like": (lambda x, n: (ak.full_like(x, 2), ak.full_like(n, 2)), (X, N)),
    "arange": (lambda x: (x + ak.arange(0.0, 3.0), ak.arange(1, 9, 3)), (X,)),
    "linspace": (lambda x: x + ak.linspace(0, 1, 3), (X,)),
    "eye": (lambda x: x @ ak.eye(3, k=-1), (X,)),
    "meshgrid": (lambda x: ak.meshgrid(x[0], x[1]), (X,)),
    "one_hot": (lambda n: ak.one_hot(n, 10), (N,)),
    "asarray": (lambda x: x + ak.asarray([1.0, 2.0, 3.0]), (X,)),
    "conv2d": (
        lambda x, w: ak.conv2d(x, w, strides=(2, 1), padding=((1, 0), (0, 1)), groups=2),
        (IMAGES, FILTERS),
    ),
    "depthwise_conv2d": (lambda x, w: ak.depthwise_conv2d(x, w, padding=1), (IMAGES, DEPTHWISE)),
    "max_pool2d": (lambda x: ak.max_pool2d(x, 3, strides=2, padding=1), (IMAGES,)),
    "avg_pool2d": (
        lambda x: (
            ak.avg_pool2d(x, 2, padding=1),
            ak.avg_pool2d(x, 2, padding=1, count_include_pad=False),
        ),
        (IMAGES,),
    ),
    "adaptive_avg_pool2d": (
        lambda x: (ak.adaptive_avg_pool2d(x, 3), ak.adaptive_avg_pool2d(x, 1)),
        (IMAGES,),
    ),
    "softmax_cross_entropy": (
        lambda x, n: ak.softmax_cross_entropy(x, n[:, 0] % 3, label_smoothing=0.1),
        (X, N),
    ),
}

# These say something about dtypes or arrays, or make a tensor of something that is none.
NOT_COMPUTED = {
    "__array_namespace_info__", "can_cast", "finfo", "iinfo", "isdtype", "result_type",
    "from_dlpack", "from_native",
}  # fmt: skip
# The shape of their results depends on data, or their bits on the host.
EAGER_ONLY = {
    "nonzero", "nextafter", "unique_all", "unique_counts", "unique_inverse", "unique_values",
}  # fmt: skip


def test_every_function_has_a_case() -> None:
    assert set(CASES) == set(ops.__all__) - NOT_COMPUTED


def leaves(result: Any) -> list[ak.Tensor]:
    if isinstance(result, ak.Tensor):
        return [result]
    return [leaf for part in result for leaf in leaves(part)]


def assert_equal(results: Any, expected: Any, device: ak.Device) -> None:
    for found, wanted in zip(leaves(results), leaves(expected), strict=True):
        assert found.spec == wanted.spec
        assert found.device is device
        actual, reference = found.numpy(), wanted.numpy()
        assert actual.dtype == reference.dtype
        if reference.dtype.kind == "f":
            np.testing.assert_allclose(actual, reference, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(actual, reference)


@pytest.mark.parametrize("device", DEVICES)
def test_eager_functions_agree_with_numpy(device: str) -> None:
    """Wherever the default device is: what a function creates goes to that of its operands."""
    place = ak.device(device)
    creation = {"zeros", "ones", "empty", "full", "arange", "linspace", "eye", "asarray"}
    for name, (function, arrays) in CASES.items():
        expected = function(*map(ak.asarray, arrays))
        for default in (place,) if name in creation else (place, "numpy"):
            with ak.default_device(default):
                results = function(*(ak.asarray(a, device=place) for a in arrays))
            assert_equal(results, expected, place)


@pytest.mark.parametrize("device", ["numpy", *DEVICES])
def test_compiled_functions_agree_with_numpy(device: str) -> None:
    """All of them as one program, for compiling is what takes the time."""
    names = [name for name in CASES if name not in EAGER_ONLY]
    arrays = [a for name in names for a in CASES[name][1]]

    def everything(*tensors: ak.Tensor) -> list[Any]:
        given = iter(tensors)
        return [CASES[name][0](*(next(given) for _ in CASES[name][1])) for name in names]

    place = ak.device(device)
    results = ak.jit(everything)(*(ak.asarray(a, device=place) for a in arrays))
    for name, found in zip(names, results, strict=True):
        function, operands = CASES[name]
        assert_equal(found, function(*map(ak.asarray, operands)), place)


@pytest.mark.parametrize("device", DEVICES)
def test_the_sign_of_zero_and_special_values_survive(device: str) -> None:
    values = np.array([0.0, -0.0, math.inf, -math.inf, math.nan], "float32")
    x = ak.asarray(values, device=device)
    for result in (
        x,
        x * 1.0,
        ak.where(x == x, x, x),
        ak.jit(lambda t: t * 1.0)(x),
        x * -1.0 * -1.0,
    ):
        np.testing.assert_array_equal(result.numpy(), values)
        np.testing.assert_array_equal(np.signbit(result.numpy())[:4], np.signbit(values)[:4])
    one = ak.asarray(1.0, device=device)
    for function in (lambda t: t * -0.0, ak.jit(lambda t: t * -0.0)):
        assert math.copysign(1.0, float(function(one))) == -1.0
        assert math.copysign(1.0, float(ak.jit(lambda t: t * 0.0)(one))) == 1.0
