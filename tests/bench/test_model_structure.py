"""What a step of every model costs, counted: a slow-down in structure fails here, untimed.

Primitives, operations, planned bytes, and launches per step on the backends that launch one
primitive after the other. Where a count goes down, write the new one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest

from accelkit import dtypes, losses, models, optim, passes, registry
from accelkit.graph import Graph, TensorSpec, node_flops
from accelkit.train.program import Recipe, build_eval_program, build_train_program

MODELS = (
    ("lenet5", None),
    ("alexnet", "torchvision"),
    ("alexnet", "2012"),
    ("resnet18", None),
    ("vit", "micro"),
)
PRODUCTS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "matmul")
BATCH_SIZE = 4


@functools.cache
def prepared(name: str, variant: str | None, mode: str, backend: str = "numpy") -> Graph:
    """The step as a backend compiles it, from shapes alone."""
    model = models.build(name, variant=variant)
    optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=5e-4) if mode == "train" else None
    recipe = Recipe(
        model.module, losses.SoftmaxCrossEntropy(), (), dtypes.float32, optimizer=optimizer
    )
    shape = (BATCH_SIZE, *model.input_shape)
    spec = model.module.specify(shape, training=mode == "train")
    specs = {
        f"{part}.{n}": TensorSpec(p.shape, dtypes.float32)
        for part, found in (("parameters", spec.parameters), ("state", spec.state))
        for n, p in found.items()
    }
    batch = [
        TensorSpec(shape, dtypes.float32),
        TensorSpec((BATCH_SIZE,), dtypes.int32),
        TensorSpec((BATCH_SIZE,), dtypes.float32),
    ]
    if optimizer is None:
        program = build_eval_program(recipe, specs, batch)
    else:
        for slot in optimizer.slot_names():
            specs |= {f"optimizer.{slot}.{n}": specs[f"parameters.{n}"] for n in spec.parameters}
        specs["watch"] = TensorSpec((2,), dtypes.int32)
        program = build_train_program(recipe, specs, batch, list(optimizer.scalars(0)))
    return passes.prepare(program.graph, registry.backend(backend))


def donated(graph: Graph) -> frozenset[int]:
    """Positions of what a training step consumes."""
    if graph.name != "train_step":
        return frozenset()
    state = ("parameters.", "optimizer.", "state.", "watch")
    return frozenset(i for i, name in enumerate(graph.input_names) if name.startswith(state))


def torch_calls(name: str, variant: str | None, mode: str) -> int:
    """Calls per step on a torch CPU, after that backend's own rewrites."""
    rewrites = pytest.importorskip("accelkit_torch.rewrites")
    graph = prepared(name, variant, mode, "torch")
    return len(rewrites.rewrite_for_torch(graph, donated(graph), use_pooling_indices=True))


def opencl_launches(name: str, variant: str | None, mode: str) -> int:
    """Kernels per step on an OpenCL CPU, as planned without a device."""
    plan = pytest.importorskip("accelkit_opencl.plan")
    lowering = pytest.importorskip("accelkit_opencl.lowering")
    graph = prepared(name, variant, mode, "opencl")
    profile: Any = lowering.Profile(cpu=True)
    made = plan.make_plan(graph, donated(graph), profile, limit_bytes=2**33)
    return len(made.launches)


class Structure(NamedTuple):
    """The most that a step may take at a batch of 4, and exactly the operations of its products.

    Attributes:
        primitives: Of the prepared graph on the reference backend.
        product_flops: Of convolutions and matrix products.
        all_flops: Of all primitives.
        arena_bytes: Of intermediates, as planned.
        input_bytes: Of parameters, slots, statistics and batch.
        torch_calls, opencl_launches: Per step.
    """

    primitives: int
    product_flops: int
    all_flops: int
    arena_bytes: int
    input_bytes: int
    torch_calls: int
    opencl_launches: int


def of_products(forward: int, first: int, mode: str) -> int:
    """Operations from multiply-adds per image: the first layer's input needs no gradient."""
    return 2 * BATCH_SIZE * (3 * forward - first if mode == "train" else forward)


MULTIPLY_ADDS = {
    "lenet5": (416_520, 117_600),
    "torchvision": (714_188_480, 70_276_800),
    "2012": (724_406_816, 105_415_200),
    "resnet18": (1_814_073_344, 118_013_952),
    "micro": (68_299_776, 9_633_792),
}
MOST = {
    ("lenet5", "train"): Structure(87, 9_055_680, 9_614_168, 326_656, 506_244, 49, 58),
    ("lenet5", "infer"): Structure(37, 3_332_160, 3_390_785, 150_528, 259_400, 14, 20),
    ("torchvision", "train"): Structure(
        115, 16_578_309_120, 16_954_824_228, 160_528_640, 491_215_236, 71, 104
    ),
    ("torchvision", "infer"): Structure(
        47, 5_713_507_840, 5_717_830_609, 6_195_200, 246_811_840, 19, 31
    ),
    ("2012", "train"): Structure(
        119, 16_542_441_984, 16_986_329_508, 171_201_152, 490_195_252, 73, 105
    ),
    ("2012", "infer"): Structure(49, 5_795_254_528, 5_823_931_729, 9_292_800, 246_334_320, 21, 32),
    ("resnet18", "train"): Structure(
        798, 42_593_648_640, 42_820_968_612, 89_792_256, 95_962_996, 302, 513
    ),
    ("resnet18", "infer"): Structure(
        212, 14_512_586_752, 14_545_652_625, 25_690_496, 49_204_928, 193, 111
    ),
    ("micro", "train"): Structure(
        908, 1_562_124_288, 1_617_785_592, 34_707_072, 5_024_220, 868, 489
    ),
    ("micro", "infer"): Structure(324, 546_398_208, 568_400_865, 5_372_032, 3_716_288, 297, 148),
}


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize(("name", "variant"), MODELS)
class TestStep:
    def test_products_count_exactly_the_published_multiply_adds(self, name, variant, mode):
        graph, most = prepared(name, variant, mode), MOST[variant or name, mode]
        flops = sum(node_flops(n) for n in graph.nodes if n.primitive.name in PRODUCTS)
        assert flops == most.product_flops
        assert flops == of_products(*MULTIPLY_ADDS[variant or name], mode)

    def test_graph_and_memory_do_not_grow(self, name, variant, mode):
        graph, most = prepared(name, variant, mode), MOST[variant or name, mode]
        assert len(graph) <= most.primitives
        assert sum(map(node_flops, graph.nodes)) <= most.all_flops
        plan = passes.plan_values(graph, donate=donated(graph))
        assert plan.arena_bytes <= most.arena_bytes
        assert plan.arena_bytes <= 1.01 * plan.lower_bound_bytes
        assert plan.input_bytes == most.input_bytes

    def test_calls_of_torch_do_not_grow(self, name, variant, mode):
        assert torch_calls(name, variant, mode) <= MOST[variant or name, mode].torch_calls

    def test_launches_of_opencl_do_not_grow(self, name, variant, mode):
        most = MOST[variant or name, mode].opencl_launches
        assert opencl_launches(name, variant, mode) <= most
