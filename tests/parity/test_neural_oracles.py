"""Convolution, pooling, normalisation, losses and activations against PyTorch's and JAX's own.

Images are NHWC here and NCHW in PyTorch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import accelkit as ak
from accelkit.parity import deviation

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
import torch.nn.functional as F  # noqa: E402 - after the check that it is there
from parity.framework_oracles import BOUND, by_torch, check, normal, own  # noqa: E402


def nchw(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


# --- convolution ----------------------------------------------------------------------------------


class Window(NamedTuple):
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


WINDOWS = [
    Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    Window((3, 3), (2, 2), ((0, 1), (2, 0)), (1, 1), 1),
    Window((5, 4), (4, 3), ((2, 2), (0, 3)), (1, 1), 2),
    Window((2, 3), (1, 2), ((3, 0), (1, 2)), (2, 3), 2),
    Window((1, 1), (2, 1), ((0, 0), (0, 0)), (1, 1), 4),
    Window((3, 2), (1, 1), ((4, 4), (4, 4)), (2, 1), 1),
]


def torch_conv(x: Any, w: Any, p: Window) -> Any:
    (top, bottom), (left, right) = p.padding
    padded = F.pad(nchw(x), (left, right, top, bottom))
    kernel = w.permute(3, 2, 0, 1)
    return nhwc(F.conv2d(padded, kernel, None, p.strides, 0, p.dilation, p.groups))


def jax_conv(x: Any, w: Any, p: Window) -> Any:
    return jax.lax.conv_general_dilated(
        x,
        w,
        p.strides,
        p.padding,
        rhs_dilation=p.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=p.groups,
        precision="highest",
    )


def ak_conv(x: Any, w: Any, p: Window) -> Any:
    return ak.conv2d(
        x, w, strides=p.strides, padding=p.padding, dilation=p.dilation, groups=p.groups
    )


@pytest.mark.parametrize("window", WINDOWS, ids=range(len(WINDOWS)))
def test_conv2d(window: Window) -> None:
    x = normal(2, 11, 10, 8)
    w = normal(*window.kernel, 8 // window.groups, 12)
    check(
        lambda x, w: ak_conv(x, w, window),
        (x, w),
        torch_function=lambda x, w: torch_conv(x, w, window),
        jax_function=lambda x, w: jax_conv(x, w, window),
    )


@pytest.mark.parametrize("window", WINDOWS[:4], ids=range(4))
def test_derivative_of_conv2d_is_differentiable(window: Window) -> None:
    """d/dx and d/dw of |dL/dw|^2: through conv2d_weight_grad and conv2d_input_grad."""
    x = normal(1, 9, 8, 4)
    w = normal(*window.kernel, 4 // window.groups, 4)

    def ak_twice(x: Any, w: Any) -> Any:
        dx, dw = ak.grad(lambda x, w: (ak_conv(x, w, window) ** 3).sum(), argnums=(0, 1))(x, w)
        return (dx * dx).sum() + (dw * dw).sum()

    def torch_twice(x: Any, w: Any) -> Any:
        loss = (torch_conv(x, w, window) ** 3).sum()
        dx, dw = torch.autograd.grad(loss, (x, w), create_graph=True)
        return (dx * dx).sum() + (dw * dw).sum()

    scale = 0.1
    g = np.asarray(1.0)
    found, wanted = own(ak_twice, (x, w * scale), g), by_torch(torch_twice, (x, w * scale), g)
    for a, b in zip(found, wanted, strict=True):
        assert deviation(a, b) <= BOUND


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv2d(multiplier: int) -> None:
    channels = 5
    x, w = normal(2, 9, 8, channels), normal(3, 2, channels, multiplier)

    def torch_form(x: Any, w: Any) -> Any:
        kernel = w.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, 3, 2)
        padded = F.pad(nchw(x), (0, 1, 2, 0))
        return nhwc(F.conv2d(padded, kernel, None, (2, 1), 0, (1, 2), channels))

    def ak_form(x: Any, w: Any) -> Any:
        return ak.depthwise_conv2d(x, w, strides=(2, 1), padding=((2, 0), (0, 1)), dilation=(1, 2))

    check(ak_form, (x, w), torch_function=torch_form)


# --- pooling --------------------------------------------------------------------------------------

POOLS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 2), (1, 3), ((1, 1), (0, 0))),
]


def pool_images(*, ties: bool) -> np.ndarray:
    x = normal(2, 7, 8, 3)
    return np.round(x) if ties else x


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("pool", POOLS, ids=range(len(POOLS)))
def test_max_pool2d(pool: Any, ties: bool) -> None:
    """Of equal maxima the first one in row-major order gets the gradient, everywhere."""
    window, strides, padding = pool
    symmetric = (padding[0][0], padding[1][0])

    def jax_form(x: Any) -> Any:
        return jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
        )

    check(
        lambda x: ak.max_pool2d(x, window, strides=strides, padding=padding),
        (pool_images(ties=ties),),
        torch_function=lambda x: nhwc(F.max_pool2d(nchw(x), window, strides, symmetric)),
        jax_function=jax_form,
    )


@pytest.mark.parametrize("include", [True, False], ids=["with_padding", "without_padding"])
@pytest.mark.parametrize("pool", POOLS, ids=range(len(POOLS)))
def test_avg_pool2d(pool: Any, include: bool) -> None:
    window, strides, padding = pool
    symmetric = (padding[0][0], padding[1][0])
    check(
        lambda x: ak.avg_pool2d(
            x, window, strides=strides, padding=padding, count_include_pad=include
        ),
        (pool_images(ties=False),),
        torch_function=lambda x: nhwc(
            F.avg_pool2d(nchw(x), window, strides, symmetric, count_include_pad=include)
        ),
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (6, 6), (9, 10)], ids=str)
def test_adaptive_avg_pool2d(size: tuple[int, int]) -> None:
    check(
        lambda x: ak.adaptive_avg_pool2d(x, size),
        (pool_images(ties=False),),
        torch_function=lambda x: nhwc(F.adaptive_avg_pool2d(nchw(x), size)),
    )


# --- normalisation, losses, activations -----------------------------------------------------------


@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm(size: int, beta: float) -> None:
    """PyTorch divides alpha by the size of the window."""
    alpha, k = 0.1, 2.0

    def torch_form(x: Any) -> Any:
        return nhwc(F.local_response_norm(nchw(x), size, alpha * size, beta, k))

    check(
        lambda x: ak.local_response_norm(x, size=size, alpha=alpha, beta=beta, k=k),
        (normal(2, 3, 4, 11),),
        torch_function=torch_form,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_softmax_cross_entropy(smoothing: float, scale: float) -> None:
    labels = np.array([0, 6, 3, 3])
    check(
        lambda x: ak.softmax_cross_entropy(x, ak.asarray(labels), label_smoothing=smoothing),
        (normal(4, 7) * scale,),
        torch_function=lambda x: F.cross_entropy(
            x, torch.tensor(labels), reduction="none", label_smoothing=smoothing
        ),
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_and_its_logarithm(axis: int) -> None:
    x = (normal(3, 4, 5) * 5.0,)
    check(
        lambda x: ak.softmax(x, axis=axis),
        x,
        torch_function=lambda x: F.softmax(x, axis),
        jax_function=lambda x: jax.nn.softmax(x, axis),
    )
    check(
        lambda x: ak.log_softmax(x, axis=axis),
        x,
        torch_function=lambda x: F.log_softmax(x, axis),
        jax_function=lambda x: jax.nn.log_softmax(x, axis),
    )


def test_layer_norm() -> None:
    layer = ak.nn.LayerNorm(epsilon=1e-5)

    def ak_form(x: Any, scale: Any, bias: Any) -> Any:
        return layer.apply({"scale": scale, "bias": bias}, x)[0]

    arrays = normal(4, 6, 9), normal(9, seed=1), normal(9, seed=2)
    check(ak_form, arrays, torch_function=lambda x, scale, bias: F.layer_norm(x, (9,), scale, bias))


ACTIVATIONS: dict[str, tuple[Any, Any, Any]] = {
    "relu": (ak.relu, F.relu, jax.nn.relu),
    "gelu": (ak.gelu, F.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": (
        lambda x: ak.gelu(x, approximate=True),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: jax.nn.gelu(x, approximate=True),
    ),
    "silu": (ak.silu, F.silu, jax.nn.silu),
    "softplus": (ak.softplus, F.softplus, jax.nn.softplus),
    "log_sigmoid": (ak.log_sigmoid, F.logsigmoid, jax.nn.log_sigmoid),
    "leaky_relu": (
        lambda x: ak.leaky_relu(x, slope=0.2),
        lambda x: F.leaky_relu(x, 0.2),
        None,  # at 0 the derivative is 1
    ),
    "elu": (
        lambda x: ak.elu(x, alpha=1.5),
        lambda x: F.elu(x, 1.5),
        lambda x: jax.nn.elu(x, 1.5),
    ),
    "clip": (lambda x: x.clip(-1.0, 0.0), lambda x: x.clamp(-1.0, 0.0), None),  # 0 is a limit
    "sigmoid": (ak.sigmoid, torch.sigmoid, jax.nn.sigmoid),
    "tanh": (ak.tanh, torch.tanh, jax.numpy.tanh),
    "erf": (ak.erf, torch.erf, jax.lax.erf),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    function, torch_function, jax_function = ACTIVATIONS[name]
    x = np.concatenate([normal(50) * 3.0, [0.0, -0.0]])  # the derivative of relu at 0 is 0
    check(function, (x,), torch_function=torch_function, jax_function=jax_function)
