"""Fusing elementwise kernels into the matrix product or convolution that they follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from accelkit.graph import Value
from accelkit_opencl.kernels.epilogue import Epilogue
from accelkit_opencl.nodes import product_of
from accelkit_opencl.steps import ElementwiseStep, NodeStep, Step

__all__ = ["ProductStep", "fuse_products"]

_FUSIBLE = frozenset({"matmul", "forward", "input gradient"})


@dataclass(eq=False)
class ProductStep:
    """A product whose result goes straight into an elementwise kernel.

    Attributes:
        product: Its node and operands.
        after: What is computed from its result.
        argument: The argument of ``after`` that would have held the result.
    """

    product: NodeStep
    after: ElementwiseStep
    argument: str

    @property
    def result(self) -> Value:
        """The product's own result, which is never stored."""
        return self.product.node.outputs[0]


def fuse_products(steps: Sequence[Step], outputs: Sequence[Value]) -> list[Step | ProductStep]:
    """Join products with the one elementwise step that reads their result.

    Args:
        steps: Of a schedule, in order.
        outputs: Values that the program returns: they are stored.
    """
    readers = Counter(value for step in steps for value in _read(step))
    products = {
        step.node.outputs[0]: step
        for step in steps
        if isinstance(step, NodeStep)
        and (found := product_of(step.node)) is not None
        and found[0] in _FUSIBLE
        and readers[step.node.outputs[0]] == 1
        and step.node.outputs[0] not in outputs
    }
    fused: dict[Step, ProductStep] = {}
    for step in steps:
        if isinstance(step, ElementwiseStep):
            joined = _join(step, products)
            if joined is not None:
                fused[step] = joined
    swallowed = {id(joined.product) for joined in fused.values()}
    return [fused.get(step, step) for step in steps if id(step) not in swallowed]


def _read(step: Step) -> set[Value]:
    if isinstance(step, NodeStep):
        return set(step.operands)
    written = step.body.written if isinstance(step, ElementwiseStep) else frozenset()
    return {value for name, value in step.values.items() if name not in written}


def _join(step: ElementwiseStep, products: dict[Value, NodeStep]) -> ProductStep | None:
    """The step with the last product that it reads and that fits."""
    written = step.body.written
    for argument, value in reversed(step.values.items()):
        product = products.get(value)
        if product is None or argument in written:
            continue
        if Epilogue.of(step.body, argument, value.spec.shape[-1]) is not None:
            return ProductStep(product, step, argument)
    return None
