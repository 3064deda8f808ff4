"""Counts that any slow-down in structure changes: no clock is involved.

A change that adds a primitive to the step, computes something twice, or keeps memory longer fails
here. Where a count goes down, or a new feature needs the difference, write the new one.
"""

from __future__ import annotations

import collections
import functools

import pytest

from accelkit import dtypes, losses, models, optim, passes, registry
from accelkit.graph import Graph, TensorSpec, node_flops
from accelkit.train.program import build_train_program
from accelkit.train.recipe import Recipe

PRODUCTS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "matmul")
BATCH_SIZE = 4

# Multiply-adds of convolutions and matrix products, forward, per image.
FORWARD_MULTIPLY_ADDS = {"torchvision": 714_188_480, "2012": 724_406_816}
# The same of conv1, whose input needs no gradient.
FIRST_LAYER_MULTIPLY_ADDS = {"torchvision": 70_276_800, "2012": 105_415_200}
PARAMETERS = {"torchvision": 61_100_840, "2012": 60_965_224}


@functools.cache
def prepared(variant: str, batch_size: int = BATCH_SIZE) -> Graph:
    """The training step of AlexNet as the reference backend compiles it; no weights needed."""
    model = models.build("alexnet", variant=variant)
    optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=5e-4)
    recipe = Recipe(
        model.module, losses.SoftmaxCrossEntropy(), (), dtypes.float32, optimizer=optimizer
    )
    shape = (batch_size, *model.input_shape)
    parameters = model.module.specify(shape, training=True).parameters
    specs = {f"parameters.{n}": TensorSpec(p.shape, dtypes.float32) for n, p in parameters.items()}
    for slot in optimizer.slot_names():
        slots = {f"optimizer.{slot}.{n}": specs[f"parameters.{n}"] for n in parameters}
        specs |= slots
    specs["watch"] = TensorSpec((2,), dtypes.int32)
    batch = [
        TensorSpec(shape, dtypes.float32),
        TensorSpec((batch_size,), dtypes.int32),
        TensorSpec((batch_size,), dtypes.float32),
    ]
    program = build_train_program(recipe, specs, batch, list(optimizer.scalars(0)))
    return passes.prepare(program.graph, registry.backend("numpy"))


def flops_by_primitive(graph: Graph, phase: str | None = None) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for node in graph.nodes:
        if phase in (None, node.phase):
            found[node.primitive.name] += node_flops(node)
    return found


@pytest.mark.parametrize("variant", FORWARD_MULTIPLY_ADDS)
@pytest.mark.parametrize("batch_size", [1, BATCH_SIZE])
def test_products_of_a_step_count_exactly_their_multiply_adds(variant, batch_size):
    graph = prepared(variant, batch_size)
    forward = flops_by_primitive(graph, "forward")
    backward = flops_by_primitive(graph, "backward")
    multiply_adds = FORWARD_MULTIPLY_ADDS[variant]
    assert sum(forward[name] for name in PRODUCTS) == 2 * batch_size * multiply_adds
    needed = 2 * multiply_adds - FIRST_LAYER_MULTIPLY_ADDS[variant]
    assert sum(backward[name] for name in PRODUCTS) == 2 * batch_size * needed


def test_a_training_step_of_torchvisions_variant_takes_4_14_gflop_per_image():
    products = flops_by_primitive(prepared("torchvision"))
    per_image = sum(products[name] for name in PRODUCTS) / BATCH_SIZE
    assert per_image == 4_144_577_280
    assert round(per_image / 1e9, 2) == 4.14


@pytest.mark.parametrize("variant", PARAMETERS)
def test_the_update_counts_six_operations_per_parameter(variant):
    assert flops_by_primitive(prepared(variant), "update").total() == 6 * PARAMETERS[variant]


PRIMITIVES = {
    "sgd_update": 16,
    "reduce_sum": 10,
    "matmul": 9,
    "reshape": 9,
    "add": 8,
    "relu": 7,
    "relu_grad": 7,
    "conv2d": 5,
    "conv2d_weight_grad": 5,
    "conv2d_input_grad": 4,
    "dropout": 4,
    "full": 3,
    "max_pool2d": 3,
    "max_pool2d_grad": 3,
    "slice": 3,
    "cast": 2,
    "concatenate": 2,
    "less": 2,
    "logical_and": 2,
    "divide": 1,
    "equal": 1,
    "greater_equal": 1,
    "is_finite": 1,
    "logical_not": 1,
    "logical_or": 1,
    "multiply": 1,
    "reduce_all": 1,
    "select": 1,
    "softmax_cross_entropy": 1,
    "softmax_cross_entropy_grad": 1,
}
NORMALIZATION = {"local_response_norm": 2, "local_response_norm_grad": 2}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("torchvision", PRIMITIVES), ("2012", {**PRIMITIVES, **NORMALIZATION})],
)
def test_the_prepared_step_holds_no_primitive_more_than_needed(variant, expected):
    assert prepared(variant).counts() == expected


def test_the_number_of_primitives_does_not_depend_on_the_batch_size():
    assert prepared("2012", 2).counts() == prepared("2012", BATCH_SIZE).counts()


@pytest.mark.parametrize(
    ("variant", "arena_bytes", "input_bytes"),
    [("torchvision", 160_528_640, 491_215_236), ("2012", 171_201_152, 490_195_252)],
)
def test_planned_memory_with_parameters_and_slots_updated_in_place(
    variant, arena_bytes, input_bytes
):
    graph = prepared(variant)
    state = ("parameters.", "optimizer.", "watch")
    donated = {i for i, name in enumerate(graph.input_names) if name.startswith(state)}
    plan = passes.plan_values(graph, donate=frozenset(donated))
    assert plan.arena_bytes == plan.lower_bound_bytes == arena_bytes
    assert plan.input_bytes == input_bytes
