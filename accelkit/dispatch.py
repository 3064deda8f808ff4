"""Where an operation goes: into the active trace, or to the device that holds its operands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelkit import registry
from accelkit.device import current_device, default_device
from accelkit.errors import AccelkitError, CapabilityError, DeviceMismatchError, DTypeError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import Primitive
from accelkit.tracing import active_trace, leaked

if TYPE_CHECKING:
    from accelkit.backend import Backend
    from accelkit.device import Device
    from accelkit.tensor import Tensor

__all__ = ["bind"]


def bind(
    primitive: Primitive,
    inputs: Sequence[Tensor],
    parameters: Mapping[str, Any],
    device: Device | None = None,
) -> Any:
    """Record or run one primitive; a tuple of tensors if it has several outputs.

    Args:
        primitive: What to compute.
        inputs: Operands, all on one device.
        parameters: Static arguments.
        device: Where to create a result that has no operands; the default device if None.

    Raises:
        ShapeError, DTypeError: if the operands do not fit, eagerly as in a trace.
        DTypeError: if an operand is no tensor.
        DeviceMismatchError: if the operands live on different devices.
        TraceError: if an operand belongs to a trace that has ended.
    """
    trace = active_trace()
    if trace is not None:
        if device is not None:
            trace.require_device(device)
        try:
            return trace.record(primitive, inputs, parameters)
        except AttributeError as error:
            raise _no_tensor(primitive, inputs, error) from None
    if inputs:
        try:
            device = inputs[0]._device
            for tensor in inputs:
                if tensor._device is not device or device is None:
                    raise _cannot_mix(primitive, inputs)
        except AttributeError as error:
            raise _no_tensor(primitive, inputs, error) from None
    elif device is None:
        device = current_device()
    assert device is not None
    backend = registry.backend(device.backend)
    specs = primitive.infer([tensor.spec for tensor in inputs], parameters)
    if not backend.supports(primitive, parameters):
        return _run_definition(primitive, inputs, parameters, backend, device, specs)
    try:
        result = backend.run(primitive, [t._native for t in inputs], parameters, device)
    except Exception as error:
        raise backend.translate(error) from error
    if primitive.lowerings:
        _require_specs(primitive, result, specs, backend)
    if primitive.multiple_outputs:
        return tuple(map(_wrap, result, itertools.repeat(device), specs))
    return _wrap(result, device, specs[0])


def _wrap(array: Any, device: Device, spec: TensorSpec) -> Tensor:
    from accelkit.tensor import Tensor

    globals()["_wrap"] = Tensor._eager  # the import is needed once only
    return Tensor._eager(array, device, spec)


def _run_definition(
    primitive: Primitive,
    inputs: Sequence[Tensor],
    parameters: Mapping[str, Any],
    backend: Backend,
    device: Device,
    specs: Sequence[TensorSpec],
) -> Any:
    if primitive.definition is None:
        raise CapabilityError(
            f"Backend {backend.name!r} does not implement the primitive {primitive.name!r}, and "
            f"it has no definition in terms of others. Add one with "
            f"`accelkit.primitives.get({primitive.name!r}).lowering({backend.name!r})`."
        )
    with default_device(device):  # for what the definition creates
        result = primitive.definition(*inputs, **parameters)
    found = [x.spec for x in (result if primitive.multiple_outputs else (result,))]
    primitive.require_specs("definition", found, specs)
    return result


def _require_specs(
    primitive: Primitive, result: Any, specs: Sequence[TensorSpec], backend: Backend
) -> None:
    """Check what a user's own lowering returned."""
    if backend.name in primitive.lowerings:
        arrays = result if primitive.multiple_outputs else (result,)
        found = [backend.spec(array) for array in arrays]
        primitive.require_specs(f"lowering for {backend.name!r}", found, specs)


def _no_tensor(primitive: Primitive, inputs: Sequence[Any], error: AttributeError) -> Exception:
    from accelkit.tensor import Tensor

    for operand in inputs:
        if not isinstance(operand, Tensor):
            return DTypeError(
                f"The primitive {primitive.name!r} takes tensors, got {type(operand).__name__}. "
                f"Convert it with accelkit.asarray."
            )
    return error


def _cannot_mix(primitive: Primitive, inputs: Sequence[Tensor]) -> AccelkitError:
    for tensor in inputs:
        if tensor._trace is not None:
            return leaked(tensor)
    names = list(dict.fromkeys(str(t._device) for t in inputs))
    return DeviceMismatchError(
        f"{primitive.name} got tensors on different devices: {' and '.join(names)}. Move one of "
        f"them with `.to(device)`."
    )
