"""Bias, activation and sums join the kernel of the product that they follow, and stay right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from accelkit_opencl.kernels.loops import vector_hint
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit.primitives import get


@pytest.fixture(autouse=True)
def device_under_test(runtime: Runtime) -> Iterator[None]:
    with ak.default_device(runtime.device):
        yield


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def compiled(
    function: Any, *arrays: np.ndarray, donate: tuple[int, ...] = ()
) -> tuple[list[KernelSource], Any]:
    """The kernels of a function on OpenCL, and its results."""
    jitted = ak.jit(function, donate_argnums=donate)
    results = jitted(*(ak.asarray(a) for a in arrays))
    (program,) = jitted._programs.values()
    return [launch.source for launch in program.executable.program.plan.launches], results


def close(found: Any, expected: np.ndarray) -> None:
    deviation = np.abs(found.numpy() - expected).max() / np.abs(expected).max()
    assert deviation < (1e-13 if expected.dtype == np.float64 else 5e-6)


def dense(a: Any, b: Any, bias: Any) -> Any:
    return ak.tanh(a @ b + bias)


@pytest.mark.parametrize(
    ("count", "width", "beside"),
    [(64, 16, 4), (48, 16, 1), (32, 16, 2), (24, 8, 1), (12, 4, 1), (10, 8, 1), (3, 2, 1)],
)
def test_vectors_leave_nothing_of_a_short_loop(count: int, width: int, beside: int) -> None:
    erf = ["const float y = ak_erf_f(x);"]
    assert f"vectorize_width({width}) interleave_count({beside})\n" in vector_hint(erf, count)
    if count % 4 == 0:
        assert count % (width * beside) == 0


def test_what_follows_a_product_is_computed_in_vectors_that_fit_its_tiles(
    runtime: Runtime,
) -> None:
    a, b = draw(100, 64), draw(64, 192)
    kernels, _ = compiled(lambda a, b: ak.gelu(a @ b), a, b)
    loops = re.findall(
        r"vectorize_width\((\d+)\) interleave_count\((\d+)\)\n#endif\n"
        r"for \(int k = 0; k < (\d+); k\+\+\) \{\n[^}]*erf",
        kernels[-1].source,
    )
    assert loops
    assert all(int(count) % (int(width) * int(beside)) == 0 for width, beside, count in loops)


# Shapes for each form: few rows, with a reduction of one and of several blocks; many rows.
@pytest.mark.parametrize("shape", [(5, 60, 70), (33, 300, 70), (100, 40, 50)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dense_layer_takes_no_more_kernels_than_its_product(form: str, shape, dtype) -> None:
    m, k, n = shape
    a, b, bias = draw(m, k, dtype=dtype), draw(k, n, dtype=dtype), draw(n, dtype=dtype)
    plain, product = compiled(lambda a, b: a @ b, a, b)
    fused, y = compiled(dense, a, b, bias)
    assert len(fused) == len(plain)
    close(product, a @ b)
    close(y, np.tanh(product.numpy() + bias))


def test_products_with_a_transposed_operand(form: str) -> None:
    a, b, mask = draw(7, 50), draw(40, 50), draw(7, 40)

    def masked(a, b, mask):
        product = get("matmul")(a, b, transpose_a=False, transpose_b=True)
        return get("relu_grad")(mask, product)

    sources, y = compiled(masked, a, b, mask)
    assert len(sources) == 1
    assert sources[0].name.startswith("matmul_dot" if form == "cpu" else "blocked")
    close(y, np.where(mask <= 0, 0, a @ b.T))


def test_a_batch_of_products_with_row_and_column_terms(form: str) -> None:
    a, b, rows, columns = draw(3, 20, 30), draw(3, 30, 17), draw(3, 20, 1), draw(17)
    sources, y = compiled(lambda a, b, r, c: (a @ b) * r + c, a, b, rows, columns)
    assert len(sources) == 1
    close(y, (a @ b) * rows + columns)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 2)])
def test_a_convolution_with_bias_residual_and_activation(
    form: str, stride: int, groups: int
) -> None:
    x, w, bias = draw(2, 9, 9, 8), draw(3, 3, 8 // groups, 36), draw(36)
    parameters = {
        "strides": (stride, stride),
        "padding": ((1, 1), (1, 1)),
        "dilation": (1, 1),
        "groups": groups,
    }
    convolution = get("conv2d")
    plain, product = compiled(lambda x, w: convolution(x, w, **parameters), x, w)
    residual = draw(*product.shape)

    def block(x, w, bias, residual):
        return get("relu")(convolution(x, w, **parameters) + bias + residual)

    fused, y = compiled(block, x, w, bias, residual)
    assert len(fused) == len(plain)
    expected = np.maximum(product.numpy() + bias + residual, 0)
    close(y, expected)
    fused, y = compiled(block, x, w, bias, residual, donate=(3,))  # in the residual's place
    assert len(fused) == len(plain)
    close(y, expected)


@pytest.mark.parametrize("stride", [1, 3])
def test_an_input_gradient_goes_through_the_activation_before_it(form: str, stride: int) -> None:
    out = (10 - 3) // stride + 1
    g, w, y = draw(2, out, out, 20), draw(3, 3, 6, 20), draw(2, 10, 10, 6)
    parameters = {
        "strides": (stride, stride),
        "padding": ((0, 0), (0, 0)),
        "dilation": (1, 1),
        "groups": 1,
        "image_size": (10, 10),
    }
    gradient = get("conv2d_input_grad")
    plain, product = compiled(lambda g, w: gradient(g, w, **parameters), g, w)
    fused, found = compiled(
        lambda g, w, y: get("relu_grad")(y, gradient(g, w, **parameters)), g, w, y
    )
    assert len(fused) == len(plain)
    close(found, np.where(y <= 0, 0, product.numpy()))


def test_a_product_that_is_wanted_elsewhere_is_stored() -> None:
    a, b = draw(6, 10), draw(10, 12)

    def both(a, b):
        y = a @ b
        return y, y + 1.0

    sources, (y, z) = compiled(both, a, b)
    assert len(sources) == 2
    close(y, a @ b)
    close(z, a @ b + 1)


def test_two_products_and_a_transposed_reader() -> None:
    a, b, c = draw(6, 10), draw(10, 6), draw(6, 6)
    sources, y = compiled(lambda a, b, c: (a @ b) + (b.mT @ a.mT) * 2.0 + c, a, b, c)
    close(y, a @ b + 2 * (a @ b).T + c)
    assert sum(source.name.startswith("fused") for source in sources) <= 2  # the transposes
    sources, y = compiled(lambda a, b, c: (a @ b).mT + c, a, b, c)
    assert len(sources) == 2  # read across its rows: no epilogue
    close(y, (a @ b).T + c)


def test_an_operand_of_the_product_is_not_overwritten() -> None:
    x, w = draw(40, 40), draw(40, 40)
    _, y = compiled(lambda x, w: x + x @ w, x, w, donate=(0,))
    close(y, x + x @ w)


def test_functions_with_large_arguments_keep_their_slow_form() -> None:
    a, b = draw(4, 30) * 40, draw(30, 20) * 40
    _, y = compiled(lambda a, b: ak.exp(ak.sin(a @ b)), a, b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    product = ak.asarray(a) @ ak.asarray(b)
    assert np.abs(product.numpy() - exact).max() < 0.1
    close(y, np.exp(np.sin(product.numpy())))
