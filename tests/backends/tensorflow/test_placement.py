"""Programs of which TensorFlow's kernels compute the convolutions and XLA the rest."""

from __future__ import annotations

import numpy as np
import pytest
from accelkit_tensorflow import TensorflowBackend, placement, planned
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.placed import PlacedProgram
from accelkit_tensorflow.placement import place
from accelkit_tensorflow.table import KERNEL_COMPOSITES
from backends.comparison import REFERENCE, assert_close

from accelkit import dtypes
from accelkit.backend import Backend
from accelkit.graph import Graph, GraphBuilder, TensorSpec, Value, node_flops
from accelkit.passes import prepare
from accelkit.primitives import get

TENSORFLOW = TensorflowBackend()
CPU = TENSORFLOW.devices()[-1].device
SAME = ((1, 1), (1, 1))
WEIGHTS = ((3, 3, 3, 8), (3, 3, 8, 8))
IMAGES = (4, 9, 9, 3)


def _geometry(strides: int, padding: tuple[tuple[int, int], tuple[int, int]]) -> dict[str, object]:
    return {"strides": (strides,) * 2, "padding": padding, "dilation": (1, 1), "groups": 1}


FIRST, SECOND = _geometry(2, ((2, 1), (0, 1))), _geometry(1, SAME)


def _step(dtype: dtypes.DType = dtypes.float32) -> Graph:
    """Two convolutions with a relu between them, gradients, and updates with weight decay.

    Inputs: two weights, two momenta, images. Outputs: their successors and a sum.
    """
    builder = GraphBuilder()
    for position, shape in enumerate((*WEIGHTS, *WEIGHTS, IMAGES)):
        builder.inputs.append(Value(TensorSpec(shape, dtype), None, position))
    w1, w2, v1, v2, x = builder.inputs

    def add(name: str, *operands: Value, **parameters: object) -> Value:
        return builder.add(get(name), list(operands), parameters)[0]

    def scalar(value: float) -> Value:
        return add("full", shape=(), value=value, dtype=dtype)

    zero, momentum, decay, rate = map(scalar, (0.0, 0.9, 0.01, 0.125))
    kept = [add("multiply", v, momentum) for v in (v1, v2)]
    a = add("conv2d", x, w1, **FIRST)
    is_negative = add("less", a, zero)
    b = add("select", is_negative, zero, a)
    y = add("conv2d", b, w2, **SECOND)
    total = add("reduce_sum", add("multiply", y, y), axes=(0, 1, 2, 3))
    g2 = add("conv2d_weight_grad", b, y, kernel_size=(3, 3), **SECOND)
    back = add("conv2d_input_grad", y, w2, image_size=b.spec.shape[1:3], **SECOND)
    back = add("select", is_negative, zero, back)
    g1 = add("conv2d_weight_grad", x, back, kernel_size=(3, 3), **FIRST)
    outputs = []
    for w, v, g in ((w1, kept[0], g1), (w2, kept[1], g2)):
        velocity = add("add", v, add("add", g, add("multiply", w, decay)))
        outputs.append((add("subtract", w, add("multiply", velocity, rate)), velocity))
    (p1, m1), (p2, m2) = outputs
    return Graph(builder.inputs, builder.nodes, [p1, p2, m1, m2, total], name="step")


def _values(dtype: type = np.float32) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    shapes = (*WEIGHTS, *WEIGHTS, IMAGES)
    return [(random.standard_normal(shape) / 8).astype(dtype) for shape in shapes]


def _run(backend: Backend, graph: Graph, steps: int = 1) -> list[np.ndarray]:
    device = backend.devices()[-1].device
    program = backend.compile(prepare(graph, backend), device, donate=frozenset(range(4)))
    *state, images = (backend.put(value, device) for value in _values())
    for _ in range(steps):
        *state, total = program([*state, images])
    return [backend.get(array) for array in (*state, total)]


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LEAST_FLOPS", 1)
    monkeypatch.setattr(placement, "LEAST_CONVOLUTION_FLOPS", 1)
    monkeypatch.setattr(placement, "LEAST_INTENSITY", 0)
    monkeypatch.setattr(placement, "LARGE_BYTES", 1)


def _names(graph: Graph) -> list[list[str]]:
    return [[n.primitive.name for n in p.part.graph.nodes] for p in place(graph) if p.on_kernels]


@pytest.mark.usefixtures("everything_is_large")
def test_parts() -> None:
    """One part for each level's products, one cluster between two of them."""
    graph = prepare(_step(), TENSORFLOW)
    assert _names(graph) == [
        ["conv2d"],
        ["conv2d"],
        ["conv2d_weight_grad", "conv2d_input_grad"],
        ["conv2d_weight_grad"],
    ]
    parts = place(graph)
    assert [p.on_kernels for p in parts] == [True, False, True, False, True, False, True, False]
    made = {v for p in parts for v in p.part.outputs}
    assert made.issuperset(graph.outputs)
    # Neither the weight decay nor the momentum's share crosses a cut.
    crossing = {v for p in parts for v in p.part.inputs} - set(graph.inputs)
    assert not [v for v in crossing if v.node is not None and v.node.primitive.name == "multiply"]


def test_small_convolutions_are_left_to_xla() -> None:
    assert [p.on_kernels for p in place(prepare(_step(), TENSORFLOW))] == [False]


@pytest.mark.usefixtures("everything_is_large")
def test_few_products_between_large_cuts_are_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = prepare(_step(), TENSORFLOW)
    assert len(place(graph)) == 8
    monkeypatch.setattr(placement, "LEAST_INTENSITY", 10**6)
    assert [p.on_kernels for p in place(graph)] == [False]


@pytest.mark.usefixtures("everything_is_large")
def test_what_has_no_faster_kernel_is_left_to_xla() -> None:
    assert [p.on_kernels for p in place(prepare(_step(dtypes.float64), TENSORFLOW))] == [False]
    builder = GraphBuilder()
    builder.inputs.append(Value(TensorSpec((8, 8), dtypes.float32), None, 0))
    (x,) = builder.inputs
    parameters = {"transpose_a": False, "transpose_b": False}
    (y,) = builder.add(get("matmul"), [x, x], parameters)
    product = Graph([x], builder.nodes, [y], name="product")
    assert [p.on_kernels for p in place(product)] == [False]


@pytest.mark.usefixtures("everything_is_large")
def test_results() -> None:
    """Three steps of a program in parts: those of the reference, the same bits each time."""
    found = _run(TENSORFLOW, _step(), steps=3)
    for ours, theirs in zip(found, _run(REFERENCE, _step(), steps=3), strict=True):
        assert_close(ours, theirs, exact=False)
    for ours, again in zip(found, _run(TENSORFLOW, _step(), steps=3), strict=True):
        np.testing.assert_array_equal(ours, again)


@pytest.mark.usefixtures("everything_is_large")
def test_state_stays_in_one_variable() -> None:
    graph = prepare(_step(), TENSORFLOW)
    program = TENSORFLOW.compile(graph, CPU, donate=frozenset(range(4)))
    *state, images = (TENSORFLOW.put(value, CPU) for value in _values())
    *state, _ = program([*state, images])
    variables = [id(array.variable) for array in state]
    kept = state[0].value()
    before = kept.numpy().copy()
    *state, _ = program([*state, images])
    assert [id(array.variable) for array in state] == variables
    np.testing.assert_array_equal(kept.numpy(), before)
    assert not np.array_equal(TENSORFLOW.get(state[0]), before)


GEOMETRIES = [
    ((7, 8), (3, 3), _geometry(1, SAME)),
    ((7, 8), (3, 3), _geometry(2, SAME)),
    ((9, 7), (3, 2), _geometry(2, ((1, 0), (0, 1)))),
    ((11, 9), (5, 5), _geometry(4, ((2, 2), (2, 2)))),
    ((6, 6), (1, 1), _geometry(2, ((0, 0), (0, 0)))),
    ((5, 5), (2, 2), _geometry(1, ((1, 1), (1, 1)))),
]


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize(("size", "kernel", "geometry"), GEOMETRIES)
def test_geometries(
    size: tuple[int, int], kernel: tuple[int, int], geometry: dict[str, object]
) -> None:
    """Each convolution and its gradients on TensorFlow's kernels, against the reference."""
    random = np.random.default_rng(5)
    x = random.standard_normal((2, *size, 3)).astype(np.float32)
    w = random.standard_normal((*kernel, 3, 4)).astype(np.float32)
    builder = GraphBuilder()
    for position, array in enumerate((x, w)):
        builder.inputs.append(Value(TensorSpec(array.shape, dtypes.float32), None, position))
    vx, vw = builder.inputs
    (y,) = builder.add(get("conv2d"), [vx, vw], geometry)
    more = {**geometry, "image_size": size}
    (dx,) = builder.add(get("conv2d_input_grad"), [y, vw], more)
    (dw,) = builder.add(get("conv2d_weight_grad"), [vx, y], {**geometry, "kernel_size": kernel})
    graph = Graph(builder.inputs, builder.nodes, [y, dx, dw], name="convolutions")
    assert all(p.on_kernels for p in place(graph))
    found = TENSORFLOW.compile(graph, CPU)([TENSORFLOW.put(a, CPU) for a in (x, w)])
    device = REFERENCE.devices()[0].device
    wanted = REFERENCE.compile(graph, device)([REFERENCE.put(a, device) for a in (x, w)])
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(TENSORFLOW.get(ours), REFERENCE.get(theirs), exact=False)


@pytest.mark.usefixtures("everything_is_large")
def test_clusters_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the products, and reading and returning values, is left to the executor."""
    found: list[set[str]] = []
    call = PlacedProgram.__call__

    def recorded(self: PlacedProgram, *inputs: object) -> list[object]:
        results = call(self, *inputs)
        found.append({o.type for o in tf.compat.v1.get_default_graph().get_operations()})
        return results

    monkeypatch.setattr(PlacedProgram, "__call__", recorded)
    graph = prepare(_step(), TENSORFLOW)
    TENSORFLOW.compile(graph, CPU, donate=frozenset(range(4)))
    (operations,) = found
    assert {"Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"} <= operations
    assert not operations & {"Mul", "AddV2", "Sub", "SelectV2", "Less", "Sum", "AssignVariableOp"}


def _normalised(shape: tuple[int, ...]) -> Graph:
    """A convolution beside batch normalisation of ``shape``, and its gradient."""
    builder = GraphBuilder()
    shapes = (IMAGES, WEIGHTS[0], shape, shape[-1:], shape[-1:], shape)
    for position, given in enumerate(shapes):
        builder.inputs.append(Value(TensorSpec(given, dtypes.float32), None, position))
    images, w, x, scale, bias, g = builder.inputs
    (convolved,) = builder.add(get("conv2d"), [images, w], FIRST)
    y, mean, var = builder.add(get("batch_norm"), [x, scale, bias], {"epsilon": 1e-3})
    gradients = builder.add(get("batch_norm_grad"), [x, scale, mean, var, g], {"epsilon": 1e-3})
    outputs = [convolved, y, mean, var, *gradients]
    return Graph(builder.inputs, builder.nodes, outputs, name="normalised")


def _pooled(geometry: dict[str, object]) -> Graph:
    """A convolution beside the gradient of max-pooling."""
    builder = GraphBuilder()
    for position, given in enumerate((IMAGES, WEIGHTS[0], (2, 7, 8, 3))):
        builder.inputs.append(Value(TensorSpec(given, dtypes.float32), None, position))
    images, w, x = builder.inputs
    (convolved,) = builder.add(get("conv2d"), [images, w], FIRST)
    (y,) = builder.add(get("max_pool2d"), [x], geometry)
    (g,) = builder.add(get("multiply"), [y, y], {})
    (dx,) = builder.add(get("max_pool2d_grad"), [x, y, g], geometry)
    return Graph(builder.inputs, builder.nodes, [convolved, y, dx], name="pooled")


COMPOSITES = {
    "images": _normalised((3, 4, 5, 6)),
    "rows": _normalised((9, 6)),
    "pooling": _pooled({"window": (3, 3), "strides": (2, 2), "padding": ((0, 0), (0, 0))}),
    "padded pooling": _pooled({"window": (3, 2), "strides": (2, 1), "padding": ((1, 0), (0, 1))}),
}


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation and the gradient of max-pooling, ties included, on their kernels."""
    monkeypatch.setattr(placement, "LEAST_BYTES", 1)
    graph = COMPOSITES[name]
    prepared = prepare(graph, TENSORFLOW)
    composites = {n.primitive.name for n in graph.nodes} & KERNEL_COMPOSITES.keys()
    assert composites <= {name for part in _names(prepared) for name in part}
    random = np.random.default_rng(7)
    values = [
        # few different values, so that windows have several maxima
        np.round(random.standard_normal(v.spec.shape) * 2).astype(np.float32) / 2
        for v in graph.inputs
    ]
    values[-1] += np.float32(0.25)
    found = TENSORFLOW.compile(prepared, CPU)([TENSORFLOW.put(a, CPU) for a in values])
    device = REFERENCE.devices()[0].device
    expected = REFERENCE.compile(prepare(graph, REFERENCE), device)(
        [REFERENCE.put(a, device) for a in values]
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(TENSORFLOW.get(ours), REFERENCE.get(theirs), exact=False)


@pytest.mark.usefixtures("everything_is_large")
def test_small_results_wait_for_a_cluster_that_runs_in_any_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What becomes of a mean over the batch is no cluster between two kernels."""
    monkeypatch.setattr(placement, "LEAST_BYTES", 1)
    builder = GraphBuilder()
    for position, given in enumerate((IMAGES, WEIGHTS[0], (8,), (8,), WEIGHTS[1])):
        builder.inputs.append(Value(TensorSpec(given, dtypes.float32), None, position))
    images, w1, scale, bias, w2 = builder.inputs
    (a,) = builder.add(get("conv2d"), [images, w1], FIRST)
    b, mean, var = builder.add(get("batch_norm"), [a, scale, bias], {"epsilon": 1e-3})
    (y,) = builder.add(get("conv2d"), [b, w2], SECOND)
    (statistic,) = builder.add(get("multiply"), [mean, var], {})
    graph = prepare(Graph(builder.inputs, builder.nodes, [y, statistic], name="bn"), TENSORFLOW)
    assert [p.on_kernels for p in place(graph)] == [True, True, False, True]
    monkeypatch.setattr(placement, "LARGE_BYTES", 2**16)
    assert [p.on_kernels for p in place(graph)] == [True, True, True, False]


@pytest.mark.usefixtures("everything_is_large")
def test_large_results_of_a_level_are_clusters_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that an update does not keep the next kernel waiting."""
    builder = GraphBuilder()
    for position, given in enumerate((IMAGES, WEIGHTS[0])):
        builder.inputs.append(Value(TensorSpec(given, dtypes.float32), None, position))
    (a,) = builder.add(get("conv2d"), list(builder.inputs), FIRST)
    found = [builder.add(get(name), [a, a], {})[0] for name in ("multiply", "add")]
    graph = prepare(Graph(builder.inputs, builder.nodes, found, name="two"), TENSORFLOW)
    assert [p.on_kernels for p in place(graph)] == [True, False]
    monkeypatch.setattr(placement, "LEAST_BYTES", 1)
    assert [p.on_kernels for p in place(graph)] == [True, False, False]
    # They may run at the same time.
    executable = TENSORFLOW.compile(graph, CPU)
    monkeypatch.setattr(planned, "_cluster_bytes", lambda *given: 10**9)
    assert executable.temporary_memory_bytes() == 2 * 10**9 + a.spec.memory_bytes


def test_a_strided_convolution_of_moderate_size_runs_on_its_kernel() -> None:
    """ResNet-18's shortcuts, which are less work than a product that is worth a cut."""
    builder = GraphBuilder()
    for position, given in enumerate(((8, 56, 56, 64), (1, 1, 64, 128))):
        builder.inputs.append(Value(TensorSpec(given, dtypes.float32), None, position))
    (y,) = builder.add(get("conv2d"), list(builder.inputs), _geometry(2, ((0, 0), (0, 0))))
    assert placement.LEAST_CONVOLUTION_FLOPS < node_flops(builder.nodes[0]) < placement.LEAST_FLOPS
    assert [p.on_kernels for p in place(Graph(builder.inputs, builder.nodes, [y], name="c"))] == [
        True
    ]


def test_composites_without_large_convolutions_are_left_to_xla() -> None:
    for graph in COMPOSITES.values():
        assert [p.on_kernels for p in place(prepare(graph, TENSORFLOW))] == [False]


@pytest.mark.usefixtures("everything_is_large")
def test_values_between_clusters_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel reads or gives is stored in any case, and is no reason against a cut."""
    graph = COMPOSITES["pooling"]
    monkeypatch.setattr(placement, "LEAST_BYTES", 1)
    monkeypatch.setattr(placement, "LEAST_INTENSITY", 10**9)
    kernels_only = prepare(_normalised((3, 4, 5, 6)), TENSORFLOW)
    assert any(p.on_kernels for p in place(kernels_only))
    assert any(p.on_kernels for p in place(prepare(graph, TENSORFLOW)))
    assert [p.on_kernels for p in place(prepare(_step(), TENSORFLOW))] == [False]
