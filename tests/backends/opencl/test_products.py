"""Matrix products and convolutions against float64 oracles, in CPU and GPU forms."""

from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul, MomentumUpdate
from accelkit_opencl.kernels.tile import Tile
from accelkit_opencl.lowering import Choice, Launch, Lowering, Profile
from accelkit_opencl.products import (
    LOWERINGS,
    lower_forward,
    lower_input_gradient,
    lower_matmul,
    lower_matmul_update,
    lower_weight_gradient,
)
from accelkit_opencl.shares import best_shares, heights

PROFILES = {
    "cpu-wide": Profile(cpu=True, vector_bytes=64, registers=32, compute_units=2),
    "cpu-narrow": Profile(cpu=True, vector_bytes=16, registers=16, compute_units=3),
    "gpu": Profile(cpu=False, max_group=256, local_bytes=32768, compute_units=4),
    "gpu-small": Profile(cpu=False, max_group=64, local_bytes=4096, compute_units=16),
}
BOUND = {"float": 2e-6, "double": 5e-15}  # of max|a - b| / max|b|, at these small reductions
NUMPY = {"float": np.float32, "double": np.float64}


def deviation(actual: np.ndarray, expected: np.ndarray) -> float:
    """max|a - b| / max|b|; NaN, where nothing was written, counts as infinite."""
    difference = np.abs(actual.astype(np.float64) - expected).max()
    return (
        float(difference / max(np.abs(expected).max(), 1e-30))
        if difference == difference
        else np.inf
    )


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(NUMPY[dtype])


# Under oclgrind a multiplication takes microseconds, and the products that are many are smaller.
IS_INTERPRETED = "OCLGRIND_LOG" in os.environ

# Every kernel takes a compiler half a second, so the rarer profiles get a choice of shapes.
COMMON = ("cpu-wide", "gpu")

MATMULS = [
    Matmul(1, 1, 1, 1),
    Matmul(1, 3, 5, 7),
    Matmul(2, 37, 45, 19),
    Matmul(1, 65, 50, 17),
    Matmul(1, 70, 131, 36 if IS_INTERPRETED else 260),
    Matmul(3, 20, 16, 40, dtype="double"),
]


MATMUL_CASES = [
    (profile, shape)
    for profile in PROFILES
    for shape in (MATMULS if profile in COMMON else MATMULS[2:3])
]


@pytest.mark.parametrize(("profile", "shape"), MATMUL_CASES)
def test_matmul(lab, profile: str, shape: Matmul) -> None:
    rng = np.random.default_rng(shape.m)
    a = draw(rng, (shape.batch, shape.m, shape.k), shape.dtype)
    b = draw(rng, (shape.batch, shape.k, shape.n), shape.dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    transposes = list(itertools.product((False, True), repeat=2))
    products = [
        Matmul(shape.batch, shape.m, shape.n, shape.k, *flags, shape.dtype) for flags in transposes
    ]
    lowerings = [lower_matmul(product, PROFILES[profile]) for product in products]
    lab.build(lowerings)
    for (transpose_a, transpose_b), lowering in zip(transposes, lowerings, strict=True):
        stored_a = np.ascontiguousarray(a.swapaxes(1, 2)) if transpose_a else a
        stored_b = np.ascontiguousarray(b.swapaxes(1, 2)) if transpose_b else b
        out = lab.run(lowering, {"a": stored_a, "b": stored_b}, expected.shape)
        assert deviation(out, expected) < BOUND[shape.dtype], (transpose_a, transpose_b)


@pytest.mark.parametrize("profile", COMMON)
@pytest.mark.parametrize("nesterov", [False, True])
def test_matmul_update(lab, profile: str, nesterov: bool) -> None:
    """The gradient goes into parameter and velocity; full tiles, ragged ones, and one vector."""
    rng = np.random.default_rng(0)
    product, rate, decay = Matmul(1, 70, 133, 9, transpose_a=True), 0.05, 0.1
    a, b = draw(rng, (9, 70), "float"), draw(rng, (9, 133), "float")
    p, v = draw(rng, (70, 133), "float"), draw(rng, (70, 133), "float")
    g = a.T.astype(np.float64) @ b + decay * p
    velocity = 0.9 * v + g
    expected = {
        "new_v": velocity,
        "new_p": p - rate * (g + 0.9 * velocity if nesterov else velocity),
    }
    update = MomentumUpdate(0.9, decay, nesterov)
    lowering = lower_matmul_update(product, update, PROFILES[profile])
    lab.build([lowering])
    inputs = {"p": p, "a": a, "b": b, "v": v, "rate": np.array([rate], np.float32)}
    for wanted, other in (("new_v", "new_p"), ("new_p", "new_v")):
        launches = tuple(
            Launch(launch.source, tuple("out" if x == wanted else x for x in launch.buffers))
            for launch in lowering.launches
        )
        renamed = Lowering(launches, lowering.scratch_bytes)
        out = lab.run(renamed, {**inputs, other: np.zeros_like(p)}, p.shape)
        assert deviation(out, expected[wanted]) < BOUND["float"], wanted


CONVOLUTIONS = {
    "plain": Convolution(2, 7, 8, 3, (3, 3), 5),
    "alexnet-first": Convolution(1, 30, 30, 3, (11, 11), 20, (4, 4), ((2, 2), (2, 2))),
    "alexnet-second": Convolution(2, 9, 9, 16, (5, 5), 48, (1, 1), ((2, 2), (2, 2))),
    "wide": Convolution(1, 5, 33, 8, (3, 3), 70, (1, 1), ((1, 1), (1, 1))),
    "pointwise": Convolution(2, 6, 6, 10, (1, 1), 17),
    "pointwise-strided": Convolution(1, 7, 7, 4, (1, 1), 6, (2, 2)),
    "uneven-padding": Convolution(1, 8, 6, 2, (3, 2), 3, (2, 1), ((0, 1), (2, 0))),
    "dilated": Convolution(1, 11, 12, 3, (3, 3), 4, (1, 1), ((2, 2), (2, 2)), (2, 3)),
    "strided-dilated": Convolution(1, 12, 13, 2, (3, 2), 3, (2, 3), ((1, 1), (1, 2)), (3, 2)),
    "grouped": Convolution(2, 6, 7, 8, (3, 3), 12, (1, 1), ((1, 1), (1, 1)), groups=4),
    "grouped-strided": Convolution(1, 9, 9, 6, (3, 3), 4, (2, 2), ((1, 0), (0, 1)), groups=2),
    "rows-left-over": Convolution(1, 10, 10, 2, (3, 3), 2, (4, 4)),
    "one-pixel": Convolution(3, 1, 1, 5, (1, 1), 2),
    "filter-is-image": Convolution(2, 4, 5, 3, (4, 5), 7),
    "deep-strided": Convolution(1, 12, 13, 17, (3, 2), 19, (2, 3), ((1, 1), (1, 2)), (3, 2)),
    "deep-grouped": Convolution(1, 4, 31, 34, (3, 5), 36, (1, 1), ((2, 0), (1, 4)), groups=2),
    "deep-border": Convolution(1, 3, 3, 16, (3, 3), 8, (1, 1), ((4, 4), (4, 4))),
    "deep-double": Convolution(1, 5, 7, 16, (3, 3), 9, (2, 1), ((1, 1), (1, 1)), dtype="double"),
    "double": Convolution(1, 7, 7, 5, (3, 3), 9, (2, 1), ((1, 1), (1, 1)), dtype="double"),
}
if IS_INTERPRETED:
    CONVOLUTIONS |= {
        "alexnet-first": Convolution(1, 13, 13, 2, (11, 11), 3, (4, 4), ((2, 2), (2, 2))),
        "alexnet-second": Convolution(1, 6, 6, 5, (5, 5), 18, (1, 1), ((2, 2), (2, 2))),
        "wide": Convolution(1, 3, 33, 2, (3, 3), 66, (1, 1), ((1, 1), (1, 1))),
    }


def oracle(conv: Convolution, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The defining sum, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *conv.padding, (0, 0)))
    out = np.zeros((conv.batch, conv.out_height, conv.out_width, conv.features))
    c, f = conv.group_channels, conv.group_features
    for kr, kc, g in itertools.product(*map(range, (*conv.kernel, conv.groups))):
        rows = slice(kr * conv.dilation[0], None, conv.stride[0])
        columns = slice(kc * conv.dilation[1], None, conv.stride[1])
        view = padded[:, rows, columns, g * c : (g + 1) * c]
        view = view[:, : conv.out_height, : conv.out_width]
        out[..., g * f : (g + 1) * f] += view @ w[kr, kc, :, g * f : (g + 1) * f].astype(np.float64)
    return out


def oracle_gradients(
    conv: Convolution, x: np.ndarray, w: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients by torch's autograd in float64: independent of the formulas here."""
    torch = pytest.importorskip("torch")
    (top, bottom), (left, right) = conv.padding
    images = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2).requires_grad_()
    filters = torch.from_numpy(w.astype(np.float64)).permute(3, 2, 0, 1).requires_grad_()
    padded = torch.nn.functional.pad(images, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(
        padded, filters, None, conv.stride, 0, conv.dilation, conv.groups
    )
    cotangent = torch.from_numpy(g.astype(np.float64)).permute(0, 3, 1, 2)
    dx, dw = torch.autograd.grad(y, (images, filters), cotangent)
    return dx.permute(0, 2, 3, 1).numpy(), dw.permute(2, 3, 1, 0).numpy()


def operands(conv: Convolution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = draw(rng, (conv.batch, conv.height, conv.width, conv.channels), conv.dtype)
    w = draw(rng, (*conv.kernel, conv.group_channels, conv.features), conv.dtype)
    g = draw(rng, (conv.batch, conv.out_height, conv.out_width, conv.features), conv.dtype)
    return x, w, g


CASES = [
    (profile, name)
    for profile in PROFILES
    for name in (
        ["plain", "alexnet-first", "strided-dilated", "grouped"]
        if profile not in COMMON
        else CONVOLUTIONS
    )
]


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_convolution(lab, profile: str, name: str) -> None:
    conv = CONVOLUTIONS[name]
    x, w, g = operands(conv)
    expected = oracle(conv, x, w)
    dx, dw = oracle_gradients(conv, x, w, g)
    chosen = PROFILES[profile]
    forward = lower_forward(conv, chosen)
    for_input, for_weights = (
        lower_input_gradient(conv, chosen),
        lower_weight_gradient(conv, chosen),
    )
    lab.build([forward, for_input, for_weights])
    y = lab.run(forward, {"x": x, "w": w}, expected.shape)
    assert deviation(y, expected) < BOUND[conv.dtype]
    out = lab.run(for_input, {"g": g, "w": w}, dx.shape)
    assert deviation(out, dx) < BOUND[conv.dtype]
    out = lab.run(for_weights, {"x": x, "g": g}, dw.shape)
    assert deviation(out, dw) < BOUND[conv.dtype]


@pytest.mark.parametrize("kind", ["forward", "input gradient", "weight gradient"])
def test_deep_images_are_not_padded(kind: str) -> None:
    conv = Convolution(32, 13, 13, 192, (3, 3), 384, (1, 1), ((1, 1), (1, 1)))
    names = [launch.source.name for launch in LOWERINGS[kind](conv, PROFILES["cpu-wide"]).launches]
    assert not [name for name in names if name.startswith("pad_image")]


@pytest.mark.parametrize(("channels", "kernel", "turns"), [(3, 11, 3), (3, 7, 3), (5, 1, 5)])
def test_filter_rows_leave_nothing_of_their_loop(channels: int, kernel: int, turns: int) -> None:
    conv = Convolution(2, 40, 40, channels, (kernel, kernel), 64, (4, 4), ((0, 0), (0, 0)))
    source = LOWERINGS["forward"](conv, PROFILES["cpu-narrow"]).launches[-1].source.source
    length = kernel * channels
    loops = re.findall(rf"#pragma unroll (\d+)\nfor \(int k = 0; k < {length};", source)
    assert {int(found) for found in loops} == {turns}


def test_weight_gradients_prefer_tiles_that_do_not_straddle_cache_lines() -> None:
    assert heights(192, 9, "float") == {9, 8}
    assert heights(192, 9, "double") == {9, 8}
    assert heights(5, 14, "float") == {5, 4}
    assert heights(1, 30, "float") == {1}
    gather = Convolution(32, 13, 13, 192, (3, 3), 384, (1, 1), ((1, 1), (1, 1))).forward()
    tiles = [Tile(rows, 3, 16) for rows in (9, 8)]
    assert best_shares(gather.unpadded(), tiles, 2, 0).tile.rows == 8


@pytest.mark.parametrize("block_bytes", [256, 3000, 40960])  # parts of rows, rows, whole images
@pytest.mark.parametrize("taps", [1, 2, 5])
def test_weight_gradient_blocking_changes_nothing(lab, taps: int, block_bytes: int) -> None:
    conv = CONVOLUTIONS["alexnet-second"]
    x, w, g = operands(conv)
    _, dw = oracle_gradients(conv, x, w, g)
    choice = Choice(6, 2, taps=taps, block_bytes=block_bytes)
    lowering = lower_weight_gradient(conv, PROFILES["cpu-wide"], choice)
    assert deviation(lab.run(lowering, {"x": x, "g": g}, dw.shape), dw) < BOUND["float"]


def test_results_are_the_same_bits_every_time(lab) -> None:
    conv = CONVOLUTIONS["alexnet-second"]
    x, _, g = operands(conv)
    shape = (*conv.kernel, conv.group_channels, conv.features)
    for profile in PROFILES.values():
        lowering = lower_weight_gradient(conv, profile)
        first, second = (lab.run(lowering, {"x": x, "g": g}, shape) for _ in range(2))
        assert first.tobytes() == second.tobytes()
