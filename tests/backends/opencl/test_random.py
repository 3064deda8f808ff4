"""Random bits on the device: those of the reference, wherever a tensor starts, ends and is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from accelkit_opencl.plan import Plan
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit import dtypes
from accelkit.primitives import get

SIZES = (1, 5, 8193, 16388)  # around the words of a block and the elements of a work-item
OFFSETS = (0, 3, (1 << 34) + 2)  # the last one past 2^32 blocks
CROSSING = (1 << 34) - 6  # the 2^32nd block is one of its first
KEY = np.array([4_000_000_007, 3_000_000_011], np.uint32)


def matrix(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def uniform(key: Any, *shape: int, offset: int = 0, dtype: Any = dtypes.float32) -> Any:
    return get("random_uniform")(key, shape=shape, dtype=dtype, offset=offset)


def keep(key: Any, *shape: int, offset: int = 0) -> Any:
    return get("random_keep_mask")(key, shape=shape, rate=0.3, offset=offset)


def dropout(x: Any, key: Any, offset: int = 0) -> Any:
    return get("dropout")(x, key, rate=0.3, offset=offset)


def check(runtime: Runtime, function: Callable[..., Any], *arrays: np.ndarray) -> list[str]:
    """Compare the results with NumPy's, to the last bit; returns the kernels' kinds."""
    plan, found = run(runtime, function, *arrays)
    wanted = ak.jit(function)(*(ak.asarray(a, device="numpy") for a in arrays))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    return kinds(plan)


def kinds(plan: Plan) -> list[str]:
    return [launch.source.name.rsplit("_", 1)[0] for launch in plan.launches]


def run(
    runtime: Runtime, function: Callable[..., Any], *arrays: np.ndarray
) -> tuple[Plan, tuple[Any, ...]]:
    """The plan of a function and its results."""
    jitted = ak.jit(function)
    found = jitted(*(ak.asarray(a, device=str(runtime.device)) for a in arrays))
    (program,) = jitted._programs.values()
    results = found if isinstance(found, tuple) else (found,)
    return program.executable.program.plan, results


def everything(key: ak.Tensor) -> tuple[ak.Tensor, ...]:
    """Every kind of random tensor, of all sizes and offsets: one program."""
    places = [(size, offset) for size in SIZES for offset in OFFSETS] + [(700, CROSSING)]
    return tuple(
        draw(key, size, offset=offset)
        for size, offset in places
        for draw in (keep, uniform, lambda *a, **p: uniform(*a, **p, dtype=dtypes.float64))
    )


def test_bits_are_those_of_the_reference(runtime: Runtime) -> None:
    launches = check(runtime, everything, KEY)
    assert len(launches) == 3 * (len(SIZES) * len(OFFSETS) + 1)


def test_every_element_can_draw_its_own(form: str, runtime: Runtime) -> None:
    def all_kinds(key):
        wide = uniform(key, 37, offset=5, dtype=dtypes.float64)
        return keep(key, 1050, offset=3), uniform(key, 700, offset=CROSSING), wide

    assert len(check(runtime, all_kinds, KEY)) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_is_one_kernel_that_draws_its_mask(form: str, runtime: Runtime, dtype) -> None:
    x, keys = matrix(33, 130, dtype=dtype), np.stack([KEY, KEY + 1])

    def dropped(x, keys):
        y = dropout(x + 1, ak.reshape(keys[1:2], (2,)), offset=6)
        return dropout(y, keys[0], offset=1)

    assert check(runtime, dropped, x, keys) == ["fused"]


def test_a_gradient_draws_the_mask_again_and_nothing_stores_it(runtime: Runtime) -> None:
    x = matrix(64, 1024)

    def both(x, key):
        y, back = ak.vjp(lambda x: dropout(x, key), x)
        (g,) = back(ak.cumulative_sum(y, axis=1))
        return y, g

    launches = check(runtime, lambda x, key: both(x, key)[0], x, KEY)
    assert launches == ["fused"]
    plan, (y, g) = run(runtime, both, x, KEY)
    assert kinds(plan) == ["fused", "cumulative_sum", "fused"]
    assert sum(plan.slab_bytes) == x.nbytes  # the scan's result, and no mask
    np.testing.assert_array_equal(g.numpy() == 0, y.numpy() == 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("columns", "offset"), [(91, 2), (92, 4)])
def test_a_product_passes_its_result_through_dropout(
    form: str, runtime: Runtime, transposed: bool, columns: int, offset: int
) -> None:
    """Rows of tiles begin within blocks of four words, or with them.

    A product of ones has no rounding.
    """
    shape = (columns, 32) if transposed else (32, columns)
    a, b, bias = np.ones((11, 32), np.float32), np.ones(shape, np.float32), matrix(columns)

    def product(a, b):
        return get("matmul")(a, b, transpose_a=False, transpose_b=transposed)

    plain = check(runtime, product, a, b)
    fused = check(
        runtime, lambda a, b, c, key: dropout(product(a, b) + c, key, offset), a, b, bias, KEY
    )
    assert len(fused) == len(plain)


def test_a_row_that_is_normalised_draws_as_it_goes(runtime: Runtime) -> None:
    x = np.zeros((9, 128), np.float32)  # a softmax of equal elements has no rounding

    def attention(x, key):
        return dropout(ak.softmax(x, axis=-1), key, offset=1) + 1.0

    launches = check(runtime, attention, x, KEY)
    assert len(launches) == 1


def test_short_rows_read_what_was_drawn_in_order(runtime: Runtime) -> None:
    x, bias = matrix(500, 6), matrix(6)
    assert len(check(runtime, lambda x, b, key: dropout(x + b, key), x, bias, KEY)) == 2
    long, wide = matrix(50, 66), matrix(66)
    assert len(check(runtime, lambda x, b, key: dropout(x + b, key), long, wide, KEY)) == 1


def test_other_orders_read_what_was_stored(form: str, runtime: Runtime) -> None:
    x = matrix(40, 30, 4)

    def views(x, key):
        drawn = uniform(key, 30, 40, 4, offset=7)
        noise = uniform(key, 40, 1, 4, offset=9)
        return (
            x + ak.permute_dims(drawn, (1, 0, 2)),
            x * noise,
            x[:30] + ak.flip(drawn, axis=0)[:, :30],
            ak.sum(keep(key, 40, 30, 4), axis=1),
            ak.reshape(drawn[3:17, 1:], (14, 156)),
        )

    check(runtime, views, x, KEY)


def test_functions_of_random_numbers_know_their_range(form: str, runtime: Runtime) -> None:
    def waves(key):
        return ak.sin(uniform(key, 3000, offset=3) * 20000.0), uniform(key, 3000, offset=3)

    _, (found, drawn) = run(runtime, waves, KEY)
    wide = np.sin((drawn.numpy() * np.float32(20000.0)).astype(np.float64))
    np.testing.assert_allclose(found.numpy(), wide, atol=1e-6)


def test_a_key_may_be_computed_or_constant(runtime: Runtime) -> None:
    x = matrix(300)

    def several(x, key):
        made = key ^ np.uint32(5)
        constant = ak.asarray(KEY, device=x.device)
        return dropout(x, made), dropout(x, constant), dropout(x, ak.flip(made)), made

    check(runtime, several, x, KEY)
    check(runtime, lambda x: keep(ak.full((2,), 7, dtype=ak.uint32, device=x.device), 50), x)
