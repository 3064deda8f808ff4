"""Primitives with kernels of their own: a table from a primitive's name to its lowering.

A rule gets the node and the device's profile and returns launches over the buffers "in0", "in1",
..., "out0" and scratch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from accelkit.graph import Node, Value
from accelkit_opencl.kernels import indexing
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.epilogue import Epilogue
from accelkit_opencl.kernels.fused import Body, Read, elementwise_kernel
from accelkit_opencl.kernels.matmul_cpu import Matmul, MomentumUpdate
from accelkit_opencl.kernels.pooling import Pooling, pooling_kernel
from accelkit_opencl.kernels.response_norm import ResponseNorm, response_norm_kernel
from accelkit_opencl.kernels.source import KernelSource, ctype
from accelkit_opencl.lowering import Launch, Lowering, Profile
from accelkit_opencl.products import (
    lower_forward,
    lower_input_gradient,
    lower_matmul,
    lower_matmul_update,
    lower_weight_gradient,
)
from accelkit_opencl.views import View, row_major

__all__ = ["NODE_RULES", "lower_node", "lower_product", "product_of"]

Rule = Callable[[Node, Profile], Lowering]


def lower_node(node: Node, profile: Profile) -> Lowering:
    """The launches of one node; none if all its results are empty."""
    if all(v.spec.size == 0 for v in node.outputs):
        return Lowering(())
    return NODE_RULES[node.primitive.name](node, profile)


def _named(lowering: Lowering, names: dict[str, str]) -> Lowering:
    names = {**names, "out": "out0"}
    launches = tuple(
        Launch(launch.source, tuple(names.get(b, b) for b in launch.buffers))
        for launch in lowering.launches
    )
    return Lowering(launches, lowering.scratch_bytes)


def _single(source: KernelSource, inputs: int) -> Lowering:
    return Lowering((Launch(source, (*(f"in{i}" for i in range(inputs)), "out0")),))


def product_of(node: Node) -> tuple[str, Matmul | Convolution] | None:
    """Kind and geometry of a node that is a matrix product or a convolution, else None."""
    name, shapes = node.primitive.name, [v.spec.shape for v in node.inputs]
    out = node.outputs[0].spec.shape
    if any(0 in shape for shape in (*shapes, out)):
        return None
    if name == "matmul":
        return "matmul", _matmul_of(node, node.inputs[0])
    if name == "conv2d":
        return "forward", _convolution(node, shapes[0], shapes[1])
    if name == "conv2d_input_grad":
        return "input gradient", _convolution(node, out, shapes[1])
    if name == "conv2d_weight_grad":
        return "weight gradient", _convolution(node, shapes[0], out)
    return None


def _matmul_of(node: Node, a: Value) -> Matmul:
    """The product that a node computes, perhaps with more besides, of which ``a`` is the left."""
    out, transpose_a = node.outputs[0].spec, node.parameters["transpose_a"]
    return Matmul(
        math.prod(out.shape[:-2]),
        out.shape[-2],
        out.shape[-1],
        a.spec.shape[-2] if transpose_a else a.spec.shape[-1],
        transpose_a,
        node.parameters["transpose_b"],
        ctype(out.dtype.name),
    )


def _product(node: Node, profile: Profile) -> Lowering:
    if product_of(node) is None:  # an empty sum
        return _fill(node, profile, 0)
    return lower_product(node, profile)


def lower_product(node: Node, profile: Profile, epilogue: Epilogue | None = None) -> Lowering:
    """The launches of a matrix product or a convolution, an epilogue's arguments among them."""
    found = product_of(node)
    assert found is not None, f"{node.primitive.name} is no product, or an empty one"
    kind, product = found
    lower, names = _PRODUCTS[kind]
    fused = {} if epilogue is None else {"epilogue": epilogue}
    lowering = lower(product, profile, **fused)
    return _named(lowering, dict(zip(names, ("in0", "in1"), strict=True)))


def _matmul_update(node: Node, profile: Profile) -> Lowering:
    """``sgd_update_matmul``: operands (p, a, b, v, rate), results (p', v')."""
    p, product = node.parameters, _matmul_of(node, node.inputs[1])
    update = MomentumUpdate(p["momentum"], p["weight_decay"], p["nesterov"])
    names = ("p", "a", "b", "v", "rate", "new_p", "new_v")
    buffers = dict(zip(names, ("in0", "in1", "in2", "in3", "in4", "out0", "out1"), strict=True))
    return _named(lower_matmul_update(product, update, profile), buffers)


_PRODUCTS: dict[str, tuple[Callable[..., Lowering], tuple[str, str]]] = {
    "matmul": (lower_matmul, ("a", "b")),
    "forward": (lower_forward, ("x", "w")),
    "input gradient": (lower_input_gradient, ("g", "w")),
    "weight gradient": (lower_weight_gradient, ("x", "g")),
}


def _fill(node: Node, profile: Profile, value: float) -> Lowering:
    spec = node.outputs[0].spec
    constant = value if spec.dtype.kind == "f" else int(value)
    view = View(None, spec.shape, spec.dtype, (0,) * spec.ndim, constant=constant)
    body = Body(spec.shape, (Read("x", view, None),), (), (("x", "out"),), (("out", spec.dtype),))
    source = elementwise_kernel(body, cpu=profile.cpu, compute_units=profile.compute_units)
    return Lowering((Launch(source, ("out0",)),))


def _convolution(node: Node, x: tuple[int, ...], w: tuple[int, ...]) -> Convolution:
    p = node.parameters
    return Convolution(
        x[0],
        x[1],
        x[2],
        x[3],
        (w[0], w[1]),
        w[3],
        p["strides"],
        p["padding"],
        p["dilation"],
        p["groups"],
        ctype(node.outputs[0].spec.dtype.name),
    )


def _pooling(node: Node, profile: Profile) -> Lowering:
    name, p = node.primitive.name, node.parameters
    scatters = "image_size" in p or name == "max_pool2d_grad"
    image = (
        node.outputs[0] if scatters else node.inputs[1 if name == "max_pool2d_gather" else 0]
    ).spec
    small = node.inputs[1 if name == "max_pool2d_grad" else 0] if scatters else node.outputs[0]
    batch, height, width, channels = image.shape
    pooling = Pooling(
        (batch, height, width, channels),
        (small.spec.shape[1], small.spec.shape[2]),
        p["window"],
        p["strides"],
        (p["padding"][0][0], p["padding"][1][0]),
        ctype(image.dtype.name),
    )
    return _single(pooling_kernel(name, pooling, cpu=profile.cpu), len(node.inputs))


def _placed(
    node: Node, profile: Profile, operand: int, offset: int, strides: tuple[int, ...]
) -> Launch | None:
    """Copy an operand to a strided region of the result."""
    spec, dtype = node.inputs[operand].spec, node.outputs[0].spec.dtype
    if spec.size == 0:
        return None
    read = Read("x", View(None, spec.shape, dtype, row_major(spec.shape)), "in")
    target = View(None, spec.shape, dtype, strides, offset)
    body = Body(spec.shape, (read,), (), (("x", "out"),), (("in", dtype), ("out", dtype)), target)
    source = elementwise_kernel(body, cpu=profile.cpu, compute_units=profile.compute_units)
    return Launch(source, (f"in{operand}", "out0"))


def _pad(node: Node, profile: Profile) -> Lowering:
    p, shape = node.parameters, node.outputs[0].spec.shape
    steps = row_major(shape)
    offset = sum(a * s for a, s in zip(p["low"], steps, strict=True))
    strides = tuple(s * (i + 1) for s, i in zip(steps, p["interior"], strict=True))
    fill = _fill(node, profile, p["value"])
    placed = _placed(node, profile, 0, offset, strides)
    return Lowering((*fill.launches, *([placed] if placed else [])))


def _concatenate(node: Node, profile: Profile) -> Lowering:
    steps = row_major(node.outputs[0].spec.shape)
    axis, position, launches = node.parameters["axis"], 0, []
    for number, value in enumerate(node.inputs):
        launch = _placed(node, profile, number, position * steps[axis], steps)
        position += value.spec.shape[axis]
        if launch is not None:
            launches.append(launch)
    return Lowering(tuple(launches))


def _around(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _argument(node: Node, profile: Profile) -> Lowering:
    spec = node.inputs[0].spec
    sizes = _around(spec.shape, node.parameters["axis"])
    largest = node.primitive.name == "argmax"
    return _single(indexing.argument_kernel(*sizes, ctype(spec.dtype.name), largest=largest), 1)


def _cumulative_sum(node: Node, profile: Profile) -> Lowering:
    spec = node.inputs[0].spec
    sizes = _around(spec.shape, node.parameters["axis"])
    return _single(indexing.cumulative_sum_kernel(*sizes, ctype(spec.dtype.name)), 1)


def _argsort(node: Node, profile: Profile) -> Lowering:
    spec = node.inputs[0].spec
    sizes = _around(spec.shape, node.parameters["axis"])
    descending = node.parameters["descending"]
    source = indexing.argsort_kernel(*sizes, ctype(spec.dtype.name), descending=descending)
    return Lowering(
        (Launch(source, ("in0", "work", "out0")),), {"work": node.outputs[0].spec.memory_bytes}
    )


def _take(node: Node, profile: Profile) -> Lowering:
    """Lines that indices name, the same for all lines or for each its own; or its gradient."""
    name = node.primitive.name
    gradient, along = name.endswith("_grad"), name.startswith("take_along")
    spec = (node.outputs[0] if gradient else node.inputs[0]).spec
    indices = node.inputs[1].spec
    if spec.size == 0:
        return _fill(node, profile, 0)  # there is nothing that an index could name
    axis = node.parameters["axis"]
    count = indices.shape[axis] if along else indices.size
    kinds = ctype(spec.dtype.name), ctype(indices.dtype.name)
    kernel = indexing.take_along_kernel if along else indexing.take_kernel
    return _single(kernel(*_around(spec.shape, axis), count, *kinds, gradient=gradient), 2)


def _response_norm(node: Node, profile: Profile) -> Lowering:
    p, spec = node.parameters, node.outputs[0].spec
    norm = ResponseNorm(
        math.prod(spec.shape[:-1]),
        spec.shape[-1],
        p["size"],
        p["alpha"],
        p["beta"],
        p["k"],
        ctype(spec.dtype.name),
    )
    gradient = node.primitive.name == "local_response_norm_grad"
    return _single(response_norm_kernel(norm, gradient=gradient), len(node.inputs))


NODE_RULES: dict[str, Rule] = {
    "matmul": _product,
    "conv2d": _product,
    "conv2d_input_grad": _product,
    "conv2d_weight_grad": _product,
    "max_pool2d": _pooling,
    "max_pool2d_winners": _pooling,
    "max_pool2d_gather": _pooling,
    "max_pool2d_scatter": _pooling,
    "max_pool2d_grad": _pooling,
    "avg_pool2d": _pooling,
    "avg_pool2d_grad": _pooling,
    "local_response_norm": _response_norm,
    "local_response_norm_grad": _response_norm,
    "pad": _pad,
    "concatenate": _concatenate,
    "argmax": _argument,
    "argmin": _argument,
    "cumulative_sum": _cumulative_sum,
    "argsort": _argsort,
    "take": _take,
    "take_grad": _take,
    "take_along_axis": _take,
    "take_along_axis_grad": _take,
    "sgd_update_matmul": _matmul_update,
}
