"""Compiled programs: every rewrite keeps the result, and memory is reused only where it may be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accelkit_torch import TorchBackend, bookkeeping, convolution
from accelkit_torch.compile import OVERWRITING, TorchExecutable
from accelkit_torch.reuse import Reuse
from accelkit_torch.rewrites import rewrite_for_torch
from accelkit_torch.table import TABLE

from accelkit import autodiff, dtypes
from accelkit.backend import CompileOptions, Interpreter
from accelkit.graph import Graph, TensorSpec
from accelkit.passes import prepare
from accelkit.primitives import get
from accelkit.tracing import trace_graph

TORCH = TorchBackend()
DEVICE = TORCH.devices()[-1].device
CONV = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
POOL = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 0), (0, 0))}
NO_TRANSPOSE = {"transpose_a": False, "transpose_b": False}
SGD = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": False}

conv2d, max_pool2d, relu, matmul = map(get, ("conv2d", "max_pool2d", "relu", "matmul"))
add, reshape, reduce_sum, multiply = map(get, ("add", "reshape", "reduce_sum", "multiply"))


def traced(function: Callable[..., Sequence[Any]], *shapes: tuple[int, ...]) -> Graph:
    specs = [TensorSpec(shape, dtypes.float64) for shape in shapes]
    graph, captured = trace_graph(function, specs)
    assert not captured
    return prepare(graph, TORCH)


def operands(graph: Graph) -> list[torch.Tensor]:
    random = np.random.default_rng(3)
    return [torch.from_numpy(random.normal(size=v.spec.shape)) for v in graph.inputs]


def compiled(graph: Graph, donate: Sequence[int] = ()) -> TorchExecutable:
    return TorchExecutable(TORCH, graph, DEVICE, frozenset(donate), CompileOptions())


def check(graph: Graph, donate: Sequence[int] = ()) -> TorchExecutable:
    """Compare with the program as it was, twice, and that nothing else was written to."""
    executable = compiled(graph, donate)
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    for _ in range(2):
        arrays = operands(graph)
        expected = plain([a.clone() for a in arrays])
        before = [a.clone() for a in arrays]
        found = executable(arrays)
        for a, b, value in zip(found, expected, graph.outputs, strict=True):
            assert TORCH.spec(a) == value.spec
            torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-11, atol=1e-12)
        for i, (array, old) in enumerate(zip(arrays, before, strict=True)):
            if i not in donate:
                assert torch.equal(array, old)
    return executable


def step(x: Any, w: Any, b: Any, d: Any, c: Any, *slots: Any) -> list[Any]:
    """A convolutional network's training step: its loss and updated parameters."""

    def loss(w: Any, b: Any, d: Any, c: Any) -> Any:
        y = max_pool2d(relu(add(conv2d(x, w, **CONV), b)), **POOL)
        flat = reshape(y, shape=(y.shape[0], y.size // y.shape[0]))
        z = add(matmul(flat, d, **NO_TRANSPOSE), c)
        return reduce_sum(multiply(z, z), axes=(0, 1))

    value, gradients = autodiff.value_and_grad(loss, (0, 1, 2, 3))(w, b, d, c)
    rate = slots[-1]
    outputs = [value]
    for p, g, v in zip((w, b, d, c), gradients, slots, strict=False):
        outputs += get("sgd_update")(p, g, v, rate, **SGD)
    return outputs


PARAMETERS = ((3, 3, 3, 4), (4,), (36, 5), (5,))
STEP_SHAPES = ((2, 7, 7, 3), *PARAMETERS, *PARAMETERS, ())
STEP_STATE = tuple(range(1, 9))


@pytest.mark.parametrize("donate", [(), STEP_STATE, (1, 3, 7)], ids=str)
def test_training_step(donate: tuple[int, ...]) -> None:
    graph = traced(step, *STEP_SHAPES)
    counts = check(graph, donate).program.counts()
    assert counts["torch_conv2d_bias"] == 1
    assert counts["torch_conv2d_backward"] == 1
    assert counts["torch_max_pool2d"] == counts["torch_max_pool2d_grad"] == 1
    assert counts["torch_add_matmul"] == 1
    accumulated = counts.get("torch_accumulate_matmul", 0)
    assert accumulated == (1 if 7 in donate else 0)  # 7 is the momentum of the matrix
    assert counts["torch_sgd"] == 1 + accumulated
    left = {"conv2d", "conv2d_weight_grad", "max_pool2d", "max_pool2d_grad", "sgd_update"}
    assert not left & counts.keys()


@pytest.mark.parametrize("momentum", [0.01, 0.5, 0.9, 1.0])
def test_momentum_that_holds_the_gradient_already(momentum: float) -> None:
    """Products add to the momentum they share with the update, unless its factor is tiny."""
    options = {"momentum": momentum, "weight_decay": 0.01, "nesterov": False}

    def update(p: Any, a: Any, b: Any, v: Any, rate: Any) -> Any:
        return get("sgd_update")(p, matmul(a, b, **NO_TRANSPOSE), v, rate, **options)

    executable = check(traced(update, (4, 5), (4, 3), (3, 5), (4, 5), ()), donate=(0, 3))
    accumulated = executable.program.counts().get("torch_accumulate_matmul", 0)
    assert accumulated == (momentum >= 0.5)


def test_update_kernels_copy_nothing() -> None:
    """They copy operands that are not contiguous, as convolution weights seem to be."""
    graph = traced(step, *STEP_SHAPES)
    executable = compiled(graph, STEP_STATE)
    arrays = operands(graph)
    first = executable(arrays)
    arrays[1:9] = [first[i] for i in (1, 3, 5, 7, 2, 4, 6, 8)]
    assert not arrays[1].is_contiguous()
    with torch.profiler.profile() as profile:
        executable(arrays)
    updates = [e for e in profile.events() if e.name == "aten::_fused_sgd_"]
    assert len(updates) == 2
    for event in updates:
        assert "aten::contiguous" not in {child.name for child in event.cpu_children}


def test_donated_state_is_updated_in_place() -> None:
    graph = traced(step, *STEP_SHAPES)
    executable = compiled(graph, STEP_STATE)
    arrays = operands(graph)
    first = executable(arrays)
    # The first step may give convolution weights another memory layout; no later step does.
    state = [first[i] for i in (1, 3, 5, 7, 2, 4, 6, 8)]
    addresses = [t.data_ptr() for t in state]
    again = executable([arrays[0], *state, arrays[-1]])
    assert [again[i].data_ptr() for i in (1, 3, 5, 7, 2, 4, 6, 8)] == addresses


def test_donated_tensor_whose_memory_is_shared_is_left_alone() -> None:
    graph = traced(step, *STEP_SHAPES)
    arrays = operands(graph)
    base = torch.randn(2, 36, 5, dtype=torch.float64)
    arrays[3] = base[0]
    before = base.clone()
    expected = compiled(graph)([a.clone() for a in arrays])
    found = compiled(graph, STEP_STATE)(arrays)
    assert torch.equal(base, before)
    torch.testing.assert_close(found, expected)


def test_memory_that_torch_did_not_allocate_is_left_alone() -> None:
    executable = compiled(traced(lambda x: [multiply(x, x)], (3,)), (0,))
    source = np.array([1.0, 2.0, 3.0])
    assert executable([torch.from_numpy(source)])[0].tolist() == [1, 4, 9]
    assert source.tolist() == [1, 2, 3]


def test_same_tensor_donated_and_read() -> None:
    def function(p: Any, q: Any) -> list[Any]:
        return [multiply(p, q), add(q, q)]

    executable = compiled(traced(function, (4,), (4,)), (0,))
    x = torch.arange(4.0, dtype=torch.float64)
    product, total = executable([x, x])
    assert product.tolist() == [0, 1, 4, 9]
    assert total.tolist() == [0, 2, 4, 6]
    assert x.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("donate", [(), (0, 1, 2, 3)], ids=str)
def test_sgd(nesterov: bool, momentum: float, donate: tuple[int, ...]) -> None:
    options = {"momentum": momentum, "weight_decay": 0.01, "nesterov": nesterov}

    def function(p: Any, q: Any, v: Any, u: Any, g: Any, h: Any, rate: Any) -> list[Any]:
        new_p, new_v = get("sgd_update")(p, matmul(g, g, **NO_TRANSPOSE), v, rate, **options)
        new_q, new_u = get("sgd_update")(q, h, u, rate, **options)
        return [new_p, new_q, new_v, new_u, multiply(new_p, new_p)]

    shapes = ((3, 3), (5,), (3, 3), (5,), (3, 3), (5,), ())
    executable = check(traced(function, *shapes), donate)
    assert ("sgd_update" in executable.program.counts()) is (momentum == 0.0)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("step_number", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.95, 0.9), (0.0, 0.0)], ids=str)
def test_adam(decoupled: bool, step_number: int, betas: tuple[float, float]) -> None:
    options = {
        "beta1": betas[0], "beta2": betas[1], "epsilon": 1e-6, "weight_decay": 0.02,
        "decoupled": decoupled,
    }  # fmt: skip

    def function(*tensors: Any) -> list[Any]:
        *state, rate, c1, c2 = tensors
        new = get("adam_update")(*state[:4], rate, c1, c2, **options)
        return [*new, *get("adam_update")(*state[4:], rate, c1, c2, **options)]

    graph = traced(function, *[(4, 3)] * 8, (), (), ())
    arrays = [a.abs() for a in operands(graph)]
    arrays[-2:] = [torch.tensor(1.0 - beta**step_number, dtype=torch.float64) for beta in betas]
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    expected = plain([a.clone() for a in arrays])
    for donate in ((), (0, 2, 3, 4)):
        executable = compiled(graph, donate)
        assert executable.program.counts()["torch_adam"] == 1
        found = executable([a.clone() for a in arrays])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("update", ["sgd", "adam"])
@pytest.mark.parametrize("donate", [(), (0, 1, 2)], ids=str)
def test_a_skipped_update(update: str, donate: tuple[int, ...]) -> None:
    options = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}

    def function(p: Any, m: Any, v: Any, g: Any, rate: Any, c1: Any, c2: Any) -> list[Any]:
        finite = get("is_finite")(reduce_sum(g, axes=(0, 1)))
        product = matmul(g, g, **NO_TRANSPOSE)
        if update == "sgd":
            new, old = get("sgd_update")(p, product, m, rate, **SGD), (p, m)
        else:
            new = get("adam_update")(p, product, m, v, rate, c1, c2, decoupled=True, **options)
            old = (p, m, v)
        return [get("select")(finite, a, b) for a, b in zip(new, old, strict=True)]

    graph = traced(function, (3, 3), (3, 3), (3, 3), (3, 3), (), (), ())
    executable = compiled(graph, donate)
    counts = executable.program.counts()
    assert counts[f"torch_{update}"] == 1
    assert "select" not in counts
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    arrays = [a.abs() for a in operands(graph)[:5]]
    arrays += [torch.tensor(c, dtype=torch.float64) for c in (0.1, 0.01)]
    expected = plain([a.clone() for a in arrays])
    found = executable([a.clone() for a in arrays])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    arrays[3][0, 0] = float("nan")
    before = [a.clone() for a in arrays]
    found = executable(arrays)
    torch.testing.assert_close(found, before[: len(found)], rtol=0, atol=0)


def test_a_condition_that_comes_from_the_update() -> None:
    def function(p: Any, v: Any, g: Any, rate: Any) -> list[Any]:
        new_p, new_v = get("sgd_update")(p, g, v, rate, **SGD)
        finite = get("is_finite")(reduce_sum(new_p, axes=(0,)))
        return [get("select")(finite, new_p, p), get("select")(finite, new_v, v)]

    counts = check(traced(function, (4,), (4,), (4,), ()), (0, 1)).program.counts()
    assert counts["select"] == 2


def test_an_update_that_reads_another_one() -> None:
    def function(p: Any, g: Any, v: Any, rate: Any) -> list[Any]:
        p, v = get("sgd_update")(p, g, v, rate, **SGD)
        q = multiply(p, p)
        p, v = get("sgd_update")(p, q, v, rate, **SGD)
        return [p, v, q]

    assert check(traced(function, (4,), (4,), (4,), ()), (0, 2)).program.counts()["torch_sgd"] == 2


def pooled_gradient(x: Any, g: Any) -> list[Any]:
    def loss(x: Any) -> Any:
        return reduce_sum(multiply(max_pool2d(relu(x), **POOL), g), axes=(0, 1, 2, 3))

    value, dx = autodiff.value_and_grad(loss)(x)
    return [value, dx]


def test_pooling_before_relu() -> None:
    graph = traced(pooled_gradient, (2, 7, 7, 3), (2, 3, 3, 3))
    program = check(graph).program
    order = [node.primitive.name for node in program.nodes]
    assert order.index("torch_max_pool2d") < order.index("relu")
    assert order.index("relu_grad") < order.index("torch_max_pool2d_grad")


def test_pooling_before_relu_on_special_values() -> None:
    graph = traced(pooled_gradient, (1, 5, 5, 1), (1, 2, 2, 1))
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    random = np.random.default_rng(0)
    for _ in range(50):
        # Many ties, and windows without a positive element.
        x = random.choice([-2.0, -1.0, -0.0, 0.0, 1.0, np.inf, -np.inf], (1, 5, 5, 1))
        arrays = [torch.from_numpy(x), torch.from_numpy(random.normal(size=(1, 2, 2, 1)))]
        torch.testing.assert_close(
            compiled(graph)(arrays), plain(arrays), rtol=0, atol=0, equal_nan=True
        )


def test_rectified_images_with_another_use_stay() -> None:
    def function(x: Any) -> list[Any]:
        y = relu(x)
        return [max_pool2d(y, **POOL), y]

    order = [n.primitive.name for n in check(traced(function, (1, 5, 5, 1))).program.nodes]
    assert order == ["relu", "max_pool2d"]


def test_deterministic_gradient_of_pooling() -> None:
    """The form for accelerators, which runs on any device."""
    random = np.random.default_rng(0)
    for padding in (((0, 0), (0, 0)), ((1, 1), (1, 0))):
        geometry = {**POOL, "padding": padding}
        x = torch.from_numpy(random.integers(0, 3, (2, 7, 8, 3)).astype(np.float64))
        y = TORCH.table["max_pool2d"](x, **geometry)
        g = torch.from_numpy(random.normal(size=tuple(y.shape)))
        expected = TORCH.table["max_pool2d_grad"](x, y, g, **geometry)
        found = convolution.deterministic_max_pool2d_grad(x, y, g, **geometry)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    graph = traced(pooled_gradient, (1, 5, 5, 1), (1, 2, 2, 1))
    kept = rewrite_for_torch(graph, frozenset(), use_pooling_indices=False).counts()
    assert kept["max_pool2d_grad"] == 1


def test_pooling_with_borders_that_torch_lacks() -> None:
    geometry = {**POOL, "padding": ((2, 1), (0, 2))}

    def function(x: Any, g: Any) -> list[Any]:
        def loss(x: Any) -> Any:
            return reduce_sum(multiply(max_pool2d(x, **geometry), g), axes=(0, 1, 2, 3))

        return list(autodiff.value_and_grad(loss)(x))

    check(traced(function, (1, 6, 6, 2), (1, 4, 3, 2)))


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.float32, dtypes.float64], ids=str)
def test_dropout(dtype: dtypes.DType) -> None:
    specs = [TensorSpec((4, 6), dtype), TensorSpec((2,), dtypes.uint32)]

    def function(x: Any, key: Any) -> list[Any]:
        dropped = get("dropout")(x, key, rate=0.5, offset=1)
        return [dropped, get("dropout")(dropped, key, rate=0.5, offset=1)]

    graph = prepare(trace_graph(function, specs)[0], TORCH)
    executable = compiled(graph)
    counts = executable.program.counts()
    assert counts["torch_keep"] == 2
    assert counts["torch_mask_bits"] == counts["random_keep_mask"] == 1
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    values = np.resize([1.5, np.nan, -np.inf, -0.0, -3.0], (4, 6)).astype(dtype.numpy)
    arrays = [torch.from_numpy(values), torch.tensor([1, 2], dtype=torch.uint32)]
    for a, b in zip(executable(arrays), plain(arrays), strict=True):
        assert TORCH.get(a).tobytes() == TORCH.get(b).tobytes()


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_gradients(padding: Any, groups: int) -> None:
    geometry = {**CONV, "padding": padding, "groups": groups}

    def function(x: Any, w: Any, b: Any) -> list[Any]:
        def loss(x: Any, w: Any, b: Any) -> Any:
            y = add(conv2d(x, w, **geometry), b)
            return reduce_sum(multiply(y, y), axes=(0, 1, 2, 3))

        value, gradients = autodiff.value_and_grad(loss, (0, 1, 2))(x, w, b)
        return [value, *gradients]

    graph = traced(function, (2, 6, 5, 4), (3, 3, 4 // groups, 6), (6,))
    assert check(graph).program.counts()["torch_conv2d_backward"] == 1


def test_elementwise_chains_reuse_memory() -> None:
    def function(x: Any, y: Any) -> list[Any]:
        z = multiply(add(x, y), y)  # over the sum
        w = get("exp")(get("negative")(z))  # not over z, which is read again
        return [get("subtract")(w, z)]

    graph = traced(function, (3, 4), (3, 4))
    check(graph)
    reuse = Reuse(graph, frozenset(), set(OVERWRITING))
    names = {node.primitive.name for node in reuse.overwritten}
    assert names == {"multiply", "exp", "subtract"}


def test_views_are_not_written_through() -> None:
    def function(x: Any) -> list[Any]:
        y = add(x, x)
        view = get("transpose")(y, permutation=(1, 0))
        square = multiply(view, y)  # y's memory under two names
        wide = get("broadcast_to")(reduce_sum(y, axes=(0,)), shape=(3, 3))
        return [square, get("exp")(wide), get("slice")(y, start=(0, 0), stop=(2, 3), step=(1, 1))]

    check(traced(function, (3, 3)))


def test_results_never_share_memory() -> None:
    def function(x: Any) -> list[Any]:
        zero = get("full")(shape=(2, 2), value=0.0, dtype=dtypes.float64)
        y = add(x, x)
        return [x, reshape(x, shape=(4,)), zero, y, reshape(y, shape=(4,)), y]

    executable = check(traced(function, (2, 2)))
    x = torch.ones(2, 2, dtype=torch.float64)
    results = [x, *executable([x]), *executable([x])]
    assert len({t.untyped_storage().data_ptr() for t in results}) == len(results)


def test_users_primitive_may_return_a_view() -> None:
    from accelkit.primitives import PRIMITIVES, primitive

    same = primitive("test_torch_same", lambda x: x)
    same.lowering("torch")(lambda x: x)
    try:

        def function(x: Any) -> list[Any]:
            y = add(x, x)
            z = same(y)
            w = get("exp")(y)  # must not overwrite what z still holds
            return [add(z, w)]

        check(traced(function, (4,)))
    finally:
        del PRIMITIVES["test_torch_same"]


def test_gradient_tracking_of_the_user_is_ignored() -> None:
    executable = compiled(traced(lambda x: [multiply(x, x)], (3,)), (0,))
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (y,) = executable([x])
    assert not y.requires_grad


def test_precision_switch_is_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        compiled(traced(lambda x: [matmul(x, x, **NO_TRANSPOSE)], (3, 3)))(
            [torch.eye(3, dtype=torch.float64)]
        )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_softmax_of_a_cross_entropy_is_computed_once(smoothing: float) -> None:
    def function(logits: Any, labels: Any, g: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        forward, backward = get("softmax_cross_entropy"), get("softmax_cross_entropy_grad")
        return [
            forward(logits, labels, label_smoothing=smoothing),
            backward(logits, labels, g, label_smoothing=smoothing),
        ]

    counts = check(traced(function, (4, 7), (4,), (4,))).program.counts()
    assert counts["torch_cross_entropy"] == counts["torch_cross_entropy_grad"] == 1
    assert not {"softmax_cross_entropy", "softmax_cross_entropy_grad"} & counts.keys()


def test_a_cross_entropy_without_gradient_keeps_nothing() -> None:
    def function(logits: Any, labels: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        return [get("softmax_cross_entropy")(logits, labels, label_smoothing=0.0)]

    assert "torch_cross_entropy" not in check(traced(function, (4, 7), (4,))).program.counts()


def test_what_a_step_observes_is_the_same_with_and_without_reading_it() -> None:
    keys = torch.tensor([[7, 0], [1, 2]], dtype=torch.uint32)
    for loss, right, seen in itertools.product((1.5, math.nan, -math.inf), (0, 1), (-1, 3)):
        values = [torch.tensor(loss), torch.tensor(0.25)]
        arrays = [torch.tensor([seen, -1], dtype=torch.int32), keys, torch.tensor(bool(right))]
        found = TABLE["step_report"](*arrays, *values)
        expected = bookkeeping.deferred_report(*arrays, *values)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype is b.dtype
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    weights = torch.tensor([1.0, 0.0, 2.0])
    for labels in ([0, 1, 2], [0, 9, 2], [3, 0, 0], [0, -1, 0], [-1, 0, 0]):
        array = torch.tensor(labels)
        found = TABLE["labels_in_range"](array, weights, classes=3)
        assert torch.equal(found, bookkeeping.labels_that_count_in_range(array, weights, 3))
        assert found.item() is all(0 <= n < 3 for n, w in zip(labels, weights, strict=True) if w)
    for valid, scale in itertools.product((True, False), (1.0, 0.0)):
        arrays = [torch.tensor(valid), weights * scale, torch.tensor([0.5, 9.0, -3.0])]
        found = TABLE["evaluation_report"](*arrays)
        torch.testing.assert_close(
            found, bookkeeping.deferred_evaluation_report(*arrays), equal_nan=True
        )
        assert found[1:].tolist() == [-1.0, -1.0 if valid else 0.0]


def test_a_label_that_is_no_class_is_taken_for_one_in_a_loss() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([1, 9, -100], dtype=torch.int32)
    found = TABLE["softmax_cross_entropy"](logits, labels, label_smoothing=0.0)
    expected = -torch.log_softmax(logits, -1)[[0, 1, 2], [1, 3, 0]]
    torch.testing.assert_close(found, expected)
