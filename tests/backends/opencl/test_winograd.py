"""Convolutions in tiles: the direct sum's results in every share and block, only where chosen."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accelkit_opencl import products_winograd
from accelkit_opencl.candidates import candidates
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.task import as_task
from accelkit_opencl.kernels.transforms import linear
from accelkit_opencl.lowering import Choice, Lowering, Profile
from accelkit_opencl.products import LOWERINGS
from accelkit_opencl.runtime import Runtime
from backends.tiled_convolutions import CONV, TILES, direct
from hypothesis import given
from hypothesis import strategies as st

from accelkit import autodiff, dtypes, registry
from accelkit.graph import TensorSpec
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.passes import prepare
from accelkit.primitives import get
from accelkit.tracing import trace_graph
from accelkit.winograd import winograd

WIDE = Profile(cpu=True, vector_bytes=64, registers=32, compute_units=2)
NARROW = Profile(cpu=True, vector_bytes=16, registers=16, compute_units=3)
MANY = replace(NARROW, compute_units=40)
TRANSFORMED = Choice(algorithm="winograd")
KINDS = {
    "forward": ("conv2d", ("x", "w")),
    "input gradient": ("conv2d_input_grad", ("g", "w")),
    "weight gradient": ("conv2d_weight_grad", ("x", "g")),
}
SAME = ((1, 1), (1, 1))
CASES = {
    "one panel": (WIDE, Convolution(2, 8, 8, 16, (3, 3), 32, padding=SAME)),
    "last panel is short": (WIDE, Convolution(3, 9, 12, 32, (3, 3), 80, padding=((0, 1), (2, 1)))),
    "window of five": (NARROW, Convolution(2, 9, 8, 8, (5, 5), 12, padding=((2, 2), (1, 2)))),
    "tiles stick out": (NARROW, Convolution(1, 11, 7, 4, (3, 3), 20, padding=((1, 1), (0, 0)))),
    "more units than tiles": (MANY, Convolution(2, 8, 7, 24, (3, 3), 40, padding=SAME)),
}
LARGE = Convolution(32, 8, 8, 160, (3, 3), 160, padding=SAME)


def operands(conv: Convolution) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "x": (conv.batch, conv.height, conv.width, conv.channels),
        "w": (*conv.kernel, conv.channels, conv.features),
        "g": (conv.batch, conv.out_height, conv.out_width, conv.features),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def oracle(kind: str, conv: Convolution, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The direct sum."""
    name, names = KINDS[kind]
    extra: dict[str, Any] = {
        "forward": {},
        "input gradient": {"image_size": (conv.height, conv.width)},
        "weight gradient": {"kernel_size": conv.kernel},
    }[kind]
    geometry = {**CONV, "padding": conv.padding}
    return direct(name, *(arrays[n] for n in names), **geometry, **extra)


def is_near(kind: str, conv: Convolution, found: np.ndarray, expected: np.ndarray) -> bool:
    positions = (conv.kernel[0] + TILES[conv.kernel[0]] - 1) ** 2  # all are summed
    terms = {
        "forward": conv.channels,
        "input gradient": conv.features,
        "weight gradient": conv.batch * conv.out_height * conv.out_width,
    }
    length = positions * terms[kind]
    bound = tolerance(dtypes.float32, gradient=True, length=length)
    # With few terms the largest element can be small beside what was transformed.
    return deviation(found, expected, floor=math.sqrt(length)) < bound


# --- transforms as code --------------------------------------------------------------------------


def evaluated(matrix: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What the statements of ``linear`` compute, in Python."""
    names = [f"d{i}" for i in range(len(inputs))]
    scope: dict[str, Any] = dict(zip(names, inputs, strict=True))
    code = linear(matrix, names, "h{}".format, kind="double", dtype="double")
    exec(code.replace("const double ", "").replace(";", ""), {}, scope)
    return np.array([scope[f"h{i}"] for i in range(len(matrix))])


@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.75, 3.0]), min_size=4, max_size=4).filter(
            any
        ),
        min_size=1,
        max_size=5,
    ),
    mirror=st.booleans(),
    turn=st.booleans(),
)
def test_code_of_a_transform_is_its_matrix(
    rows: list[list[float]], mirror: bool, turn: bool
) -> None:
    matrix = np.array(rows)
    if mirror:  # pairs as of points +a and -a
        matrix = np.concatenate([matrix, matrix * [1, -1, 1, -1]])
    if turn:
        matrix = matrix.T[np.abs(matrix.T).sum(1) > 0]
    inputs = np.random.default_rng(0).normal(size=matrix.shape[1])
    np.testing.assert_allclose(evaluated(matrix, inputs), matrix @ inputs, atol=1e-12)


@pytest.mark.parametrize(("tile", "window"), [(4, 3), (3, 5)])
def test_points_that_are_opposite_share_half_of_their_terms(tile: int, window: int) -> None:
    axis = winograd(tile, window).axis
    for matrix in (axis.images, axis.weights, axis.results, axis.results.T, axis.weights.T):
        inputs = np.random.default_rng(1).normal(size=matrix.shape[1])
        np.testing.assert_allclose(evaluated(matrix, inputs), matrix @ inputs, atol=1e-12)
        code = linear(matrix, [f"d{i}" for i in range(matrix.shape[1])], "h{}".format)
        assert len(re.findall(r"\*", code)) <= 0.7 * np.count_nonzero(matrix)


@pytest.fixture
def processor(runtime: Runtime) -> None:
    if not runtime.has_winograd:
        pytest.skip("Winograd's transforms are for processors: see Runtime.has_winograd")


# --- the kernels ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("case", CASES)
def test_tiles_give_the_direct_sum(lab: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile, conv = CASES[case]
    monkeypatch.setattr(products_winograd, "_SUMMED_TILES", 5)
    small = replace(TRANSFORMED, block_bytes=1)  # one register tile at a time
    lowerings = {kind: LOWERINGS[kind](conv, profile, small) for kind in KINDS}
    lab.build(list(lowerings.values()))
    arrays = operands(conv)
    for kind, lowering in lowerings.items():
        assert all(launch.source.name.startswith("winograd") for launch in lowering.launches)
        expected = oracle(kind, conv, arrays)
        given_arrays = {name: arrays[name] for name in KINDS[kind][1]}
        found, again = (lab.run(lowering, given_arrays, expected.shape) for _ in range(2))
        assert found.tobytes() == again.tobytes()
        assert is_near(kind, conv, found, expected), kind


@pytest.mark.usefixtures("processor")
def test_blocks_change_no_bits_and_neither_do_single_work_items(lab: Any) -> None:
    """A tile's sums do not depend on the tiles beside it."""
    profile, conv = CASES["tiles stick out"]
    arrays = operands(conv)
    given_arrays = {name: arrays[name] for name in KINDS["forward"][1]}
    shape = arrays["g"].shape
    lowerings = [
        LOWERINGS["forward"](conv, profile, TRANSFORMED),
        LOWERINGS["forward"](conv, profile, replace(TRANSFORMED, block_bytes=1)),
        LOWERINGS["forward"](conv, replace(profile, compute_units=1), TRANSFORMED),
    ]
    tasks = tuple(
        replace(launch, source=as_task(launch.source)) for launch in lowerings[0].launches
    )
    lowerings.append(replace(lowerings[0], launches=tasks))
    lab.build(lowerings)
    first, *others = (lab.run(lowering, given_arrays, shape) for lowering in lowerings)
    assert all(first.tobytes() == other.tobytes() for other in others)


# --- choosing ------------------------------------------------------------------------------------


def is_transformed(lowering: Lowering) -> bool:
    found = {launch.source.name.startswith("winograd") for launch in lowering.launches}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("kind", KINDS)
def test_large_convolutions_are_transformed(kind: str) -> None:
    assert is_transformed(LOWERINGS[kind](LARGE, WIDE))
    others = [
        (replace(LARGE, stride=(2, 2)), WIDE),
        (replace(LARGE, dilation=(2, 2), padding=((2, 2), (2, 2))), WIDE),
        (replace(LARGE, groups=2), WIDE),
        (replace(LARGE, dtype="double"), WIDE),
        (replace(LARGE, channels=152), WIDE),  # no multiple of the vectors' width
        (replace(LARGE, batch=1, height=3, width=3), WIDE),
        (LARGE, replace(WIDE, winograd=False)),
        (LARGE, Profile(cpu=False)),
    ]
    for conv, profile in others:
        assert not is_transformed(LOWERINGS[kind](conv, profile)), (conv, profile)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tuner_tries_both_algorithms(kind: str) -> None:
    small = replace(LARGE, batch=1, channels=64, features=64)
    for conv, default in ((LARGE, True), (small, False)):
        first, second, *_ = candidates(kind, conv, WIDE)
        assert first == Choice()
        assert is_transformed(LOWERINGS[kind](conv, WIDE, first)) is default
        assert is_transformed(LOWERINGS[kind](conv, WIDE, second)) is not default
    without = candidates(kind, LARGE, replace(WIDE, winograd=False))
    assert {choice.algorithm for choice in without} == {""}


@pytest.mark.parametrize("kind", KINDS)
def test_the_workspace_does_not_grow_with_the_batch(kind: str) -> None:
    few, many = (LOWERINGS[kind](replace(LARGE, batch=b), WIDE) for b in (64, 1024))
    assert few.scratch_bytes == many.scratch_bytes or kind != "weight gradient"
    assert sum(many.scratch_bytes.values()) <= 1.2 * sum(few.scratch_bytes.values())
    assert len(many.launches) == 2


@pytest.mark.usefixtures("processor")
@pytest.mark.skipif("OCLGRIND_LOG" in os.environ, reason="too large for an interpreter")
def test_a_layer_and_its_gradients_are_transformed_with_bias_and_activation(
    runtime: Runtime,
) -> None:
    def layer(x: Any, w: Any, b: Any) -> Any:
        geometry = {"strides": (1, 1), "padding": SAME, "dilation": (1, 1), "groups": 1}
        y = get("conv2d")(x, w, **geometry)
        return get("relu")(y + get("broadcast_to")(b, shape=y.shape))

    def gradients(x: Any, w: Any, b: Any) -> Any:
        def loss(x: Any, w: Any, b: Any) -> Any:
            return get("reduce_sum")(layer(x, w, b), axes=(0, 1, 2, 3))

        return autodiff.grad(loss, (0, 1))(x, w, b)

    backend = registry.backend("opencl")
    arrays = operands(LARGE)
    inputs = [arrays["x"], arrays["w"], np.linspace(-20, 20, LARGE.features).astype(np.float32)]
    specs = [TensorSpec(array.shape, dtypes.float32) for array in inputs]
    graph = prepare(trace_graph(lambda *v: [layer(*v), *gradients(*v)], specs)[0], backend)
    executable: Any = backend.compile(graph, runtime.device)
    names = [launch.source.name for launch in executable.program.plan.launches]
    for stem in ("weights", "sums", "gather"):
        assert sum(name.startswith(f"winograd_{stem}") for name in names) == (
            2 if stem == "weights" else 1
        )
    assert not [name for name in names if name.startswith(("gather", "weight_gradient", "pack"))]
    y, dx, dw = (
        backend.get(array)
        for array in executable([backend.put(array, runtime.device) for array in inputs])
    )
    exact = oracle("forward", LARGE, arrays) + inputs[2]
    assert is_near("forward", LARGE, y, np.maximum(exact, 0))
    # The gradient of the sum: ones where the result found above is positive.
    arrays["g"] = (y > 0).astype(np.float32)
    assert is_near("input gradient", LARGE, dx, oracle("input gradient", LARGE, arrays))
    assert is_near("weight gradient", LARGE, dw, oracle("weight gradient", LARGE, arrays))
