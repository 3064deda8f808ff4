"""Views, fusion, donation and the arena: what the compiler decides, and that it is right."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from accelkit_opencl.runtime import Runtime
from accelkit_opencl.views import VIEW_PRIMITIVES, View
from hypothesis import given
from hypothesis import strategies as st

import accelkit as ak
from accelkit import dtypes, losses, nn, optim, registry, train
from accelkit.errors import BackendError
from accelkit.passes.arena import Interval, plan_memory
from accelkit.primitives import get
from accelkit.tracing import active_trace

# --- views --------------------------------------------------------------------------------------


@st.composite
def view_chains(draw) -> list[tuple[str, dict]]:
    """A shape and view primitives that fit one after the other."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    chain: list[tuple[str, dict]] = [("start", {"shape": shape})]
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["transpose", "slice", "reverse", "reshape", "broadcast_to"]))
        if name == "transpose":
            parameters = {"permutation": tuple(draw(st.permutations(range(len(shape)))))}
            shape = tuple(shape[a] for a in parameters["permutation"])
        elif name == "slice":
            start = tuple(draw(st.integers(0, n - 1)) for n in shape)
            step = tuple(draw(st.integers(1, 2)) for _ in shape)
            parameters = {"start": start, "stop": shape, "step": step}
            shape = tuple(-(-(n - a) // s) for n, a, s in zip(shape, start, step, strict=True))
        elif name == "reverse":
            axes = st.sets(st.integers(0, len(shape) - 1))
            parameters = {"axes": tuple(sorted(draw(axes)))}
        elif name == "broadcast_to":
            shape = (draw(st.integers(1, 3)), *shape)
            parameters = {"shape": shape}
        else:
            size = int(np.prod(shape))
            first = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            shape = (first, size // first)
            parameters = {"shape": shape}
        chain.append((name, parameters))
    return chain


def numpy_view(array: np.ndarray, name: str, p: dict) -> np.ndarray:
    if name == "transpose":
        return array.transpose(p["permutation"])
    if name == "slice":
        return array[tuple(map(slice, p["start"], p["stop"], p["step"]))]
    if name == "reverse":
        return np.flip(array, p["axes"])
    if name == "broadcast_to":
        return np.broadcast_to(array, p["shape"])
    return array.reshape(p["shape"])


@given(view_chains())
def test_views_find_the_elements_that_numpy_finds(chain: list[tuple[str, dict]]) -> None:
    shape = chain[0][1]["shape"]
    array = np.arange(np.prod(shape)).reshape(shape)
    strides = tuple(s // array.itemsize for s in array.strides)
    view = View(None, shape, dtypes.int64, strides)
    for name, parameters in chain[1:]:
        following = VIEW_PRIMITIVES[name](view, **parameters)
        array = numpy_view(array, name, parameters)
        if following is None:  # data must move: only a reshape may say so
            assert name == "reshape"
            return
        view = following
    assert view.shape == array.shape
    places = np.full(array.shape, view.offset)
    for axis, stride in enumerate(view.strides):
        index = np.arange(array.shape[axis]).reshape(-1, *[1] * (array.ndim - 1 - axis))
        places = places + index * stride
    np.testing.assert_array_equal(places, array)


def test_a_dense_array_can_take_any_shape() -> None:
    for shape in ((24,), (4, 6), (6, 4), (2, 3, 4), (8, 3), (1, 24, 1)):
        for other in ((24,), (4, 6), (6, 4), (3, 8), (12, 2), (2, 2, 6), (1, 24)):
            from accelkit_opencl.views import row_major

            view = View(None, shape, dtypes.int64, row_major(shape))
            assert VIEW_PRIMITIVES["reshape"](view, shape=other).is_row_major


# --- the arena ------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 20), st.integers(0, 5)).map(
            lambda t: Interval(t[0], t[1], t[1] + t[2])
        ),
        max_size=30,
    ),
    st.sampled_from([1 << 40, 4096]),
)
def test_blocks_that_live_together_do_not_overlap(blocks: list[Interval], limit: int) -> None:
    plan = plan_memory(blocks, slab_limit_bytes=limit)
    for i, a in enumerate(blocks):
        place = plan.places[i]
        assert place.offset + a.memory_bytes <= plan.slab_bytes[place.slab] <= limit
        assert place.offset % 128 == 0
        for j, b in enumerate(blocks[:i]):
            other = plan.places[j]
            together = a.first <= b.last and b.first <= a.last
            if together and place.slab == other.slab and a.memory_bytes and b.memory_bytes:
                assert (
                    place.offset + a.memory_bytes <= other.offset
                    or other.offset + b.memory_bytes <= place.offset
                )
    assert sum(plan.slab_bytes) >= plan.lower_bound_bytes


# --- fusion and donation --------------------------------------------------------------------------


def compiled(function, *arrays: np.ndarray, donate: tuple[int, ...] = ()):
    """The executable of a function on OpenCL, and its results."""
    jitted = ak.jit(function, donate_argnums=donate)
    results = jitted(*(ak.asarray(a, device="opencl") for a in arrays))
    (program,) = jitted._programs.values()
    return program.executable.program, results


def test_a_chain_of_elementwise_functions_is_one_kernel() -> None:
    x = np.linspace(0.1, 2.0, 60, dtype=np.float32).reshape(3, 4, 5)
    bias = np.arange(5, dtype=np.float32)

    def chain(x, bias):
        return ak.tanh(ak.exp(ak.permute_dims(x, (2, 1, 0)) * 2.0) + bias[:, None, None]) - 1.0

    program, result = compiled(chain, x, bias)
    assert len(program.plan.launches) == 1
    expected = np.tanh(np.exp(x.T * 2.0) + bias[:, None, None]) - 1.0
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_a_reduction_swallows_what_it_sums() -> None:
    x = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)
    program, result = compiled(lambda x: ((x * x) + 1.0).sum(axis=1), x)
    assert len(program.plan.launches) == 1
    np.testing.assert_allclose(result.numpy(), (x * x + 1.0).sum(axis=1), rtol=1e-6)


def test_values_wanted_elsewhere_are_written_once() -> None:
    x = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)

    def both(x):
        y = ak.exp(x)
        return y, y + 1.0, y @ y.T, y.sum()

    _, results = compiled(both, x)
    y = np.exp(x)
    for found, expected in zip(results, (y, y + 1.0, y @ y.T, y.sum()), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_donated_inputs_are_updated_in_place() -> None:
    def update(p, v, g):
        v = v * 0.9 + g
        return p - v * 0.1, v

    p, v, g = (np.random.default_rng(i).standard_normal(1000).astype(np.float32) for i in range(3))
    program, (new_p, new_v) = compiled(update, p, v, g, donate=(0, 1))
    assert sorted(program.plan.reused) == [0, 1]
    assert program.arena_bytes == 0
    expected = v * np.float32(0.9) + g
    np.testing.assert_allclose(new_v.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(new_p.numpy(), p - expected * np.float32(0.1), atol=1e-6)


def test_intermediates_are_written_over_what_is_read_for_the_last_time() -> None:
    def sums(x):
        for _ in range(4):
            x = ak.tanh(ak.cumulative_sum(x) * 0.1)
        return ak.cumulative_sum(x)

    x = np.linspace(-1.0, 1.0, 1000, dtype=np.float32)
    program, result = compiled(sums, x)
    assert program.arena_bytes == 2 * 4096  # a scan reads one block and writes the other
    for _ in range(4):
        x = np.tanh(np.cumsum(x) * np.float32(0.1))
    np.testing.assert_allclose(result.numpy(), np.cumsum(x), rtol=1e-5, atol=1e-4)


def test_what_is_read_again_or_elsewhere_is_not_written_over() -> None:
    def twice(x):
        y = ak.cumulative_sum(x)
        z = y + 1.0
        w = ak.cumulative_sum(z[::-1] * z)  # reads across its own result
        return ak.cumulative_sum(z) + y + w

    x = np.arange(50, dtype=np.float32)
    _, result = compiled(twice, x)
    y = np.cumsum(x)
    z = y + 1
    expected = np.cumsum(z) + y + np.cumsum(z[::-1] * z)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)


def test_momentum_is_the_sum_of_gradients_in_its_own_memory() -> None:
    """Three gradients are added to a donated input, each as soon as it is there."""

    def step(p, v, x):
        trace = active_trace()
        for scale in (1.0, 2.0, 3.0):
            g = ak.cumulative_sum(x * scale)
            with trace.labelled(phase="update"):
                v = v * 0.5 + g if scale == 1.0 else v + g
                (v,) = get("barrier")(v)
        with trace.labelled(phase="update"):
            return p - v * 0.1, v

    p, v, x = (np.random.default_rng(i).standard_normal(1000).astype(np.float32) for i in range(3))
    program, (new_p, new_v) = compiled(step, p, v, x, donate=(0, 1))
    assert sorted(program.plan.reused) == [0, 1]
    assert program.arena_bytes <= 2 * 4096  # one gradient and its operand
    expected = v * np.float32(0.5) + 6 * np.cumsum(x)
    np.testing.assert_allclose(new_v.numpy(), expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(new_p.numpy(), p - expected * np.float32(0.1), rtol=1e-5, atol=1e-3)


def test_the_gradient_of_response_norm_takes_the_place_of_its_operand() -> None:
    def gradient(x):
        return ak.grad(lambda x: (ak.local_response_norm(ak.cumulative_sum(x, axis=0)) ** 2).sum())(
            x
        )

    x = np.random.default_rng(0).standard_normal((2, 5, 5, 24)).astype(np.float32) * 30
    program, result = compiled(gradient, x)
    assert program.plan.lower_bound_bytes <= 3 * 4864  # x, y, and one gradient after the other
    expected = ak.jit(gradient)(ak.asarray(x, device="numpy")).numpy()
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_a_donated_input_that_is_read_elsewhere_is_not_overwritten_early() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    _, (y, z) = compiled(lambda x: (x + 1.0, x.T @ (x + 1.0)), x, donate=(0,))
    np.testing.assert_array_equal(y.numpy(), x + 1)
    np.testing.assert_array_equal(z.numpy(), x.T @ (x + 1))
    _, y = compiled(lambda x: x[::-1] + x, x, donate=(0,))  # reads across its own result
    np.testing.assert_array_equal(y.numpy(), x[::-1] + x)


def test_outputs_never_share_memory_with_what_the_caller_keeps() -> None:
    x = np.arange(4, dtype=np.float32)
    jitted = ak.jit(lambda x: (x, x, ak.reshape(x, (2, 2))))
    tensor = ak.asarray(x, device="opencl")
    buffers = [tensor._native.buffer, *(r._native.buffer for r in jitted(tensor))]
    assert len(set(map(id, buffers))) == 4


def test_the_same_program_gets_the_same_plan() -> None:
    """Also where many results of one kernel live equally long."""

    def many(x):
        centred = x - ak.max(x, axis=1, keepdims=True)
        return ak.concat([ak.exp(centred * i) for i in range(1, 7)], axis=0)

    x = np.ones((64, 32), np.float32)
    first, second = (compiled(many, x)[0].plan for _ in range(2))
    assert first.slab_bytes[0] >= 6 * x.nbytes
    assert [p.arguments for p in first.launches] == [p.arguments for p in second.launches]


def test_another_shape_is_refused_before_anything_runs() -> None:
    program, _ = compiled(lambda x: x + 1.0, np.ones(3, np.float32))
    wrong = ak.asarray(np.ones(4, np.float32), device="opencl")._native
    with pytest.raises(BackendError, match=r"Input 0 of the program is float32\[3\]"):
        program.run([wrong])


def test_training_does_not_grow_and_stays_near_the_lower_bound(runtime: Runtime) -> None:
    model = nn.Sequential(conv=nn.Conv2d(8, 3), pool=nn.MaxPool2d(2), flat=nn.Flatten(),
                          fc=nn.Linear(7))  # fmt: skip
    device = str(registry.backend("opencl").devices()[0].device)
    step = train.TrainStep(model, losses.SoftmaxCrossEntropy(), optim.sgd(0.01), device=device)
    batch = (np.ones((4, 12, 12, 3), np.float32), np.zeros(4, np.int32))
    state = step.init(0, batch[0].shape)
    memory = registry.backend("opencl").memory
    seen = []
    for index in range(1000):
        state, report = step(state, batch)
        if index % 250 == 100:
            report["loss"]
            gc.collect()
            seen.append(memory(ak.device(device)).in_use_bytes)
    assert len(set(seen)) == 1
    executable = step.compile(state, batch)
    assert executable.temporary_memory_bytes() <= 1.1 * executable.program.plan.lower_bound_bytes


def test_every_weight_and_slot_is_updated_in_place(runtime: Runtime) -> None:
    """Also where the old weight is read for the gradient of the layer before."""
    model = nn.Sequential(
        conv=nn.Conv2d(8, 3),
        again=nn.Conv2d(8, 3),
        flat=nn.Flatten(),
        hidden=nn.Linear(16),
        out=nn.Linear(7),
    )
    optimizer = optim.sgd(0.01, momentum=0.9)
    step = train.TrainStep(
        model, losses.SoftmaxCrossEntropy(), optimizer, device=str(runtime.device)
    )
    batch = (np.ones((4, 8, 8, 3), np.float32), np.zeros(4, np.int32))
    plan = step.compile(step.init(0, batch[0].shape), batch).program.plan
    fresh = [spec for spec, reused in zip(plan.outputs, plan.reused, strict=True) if reused is None]
    assert len(plan.outputs) == 2 * 8 + 2
    assert [spec.shape for spec in fresh] == [(3,)]  # the metrics


def test_a_reduction_recomputes_cheap_values_that_are_used_again() -> None:
    """Batch statistics: neither the centred values nor their squares go through memory."""
    x = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)

    def normalised(x):
        centred = x - ak.mean(x, axis=0)
        return centred * ak.rsqrt(ak.mean(centred * centred, axis=0) + 1e-5)

    program, result = compiled(normalised, x)
    assert program.arena_bytes < x.nbytes
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + 1e-5)
    np.testing.assert_allclose(result.numpy(), wanted, atol=1e-5)
