"""Running cases on a device and on the oracle, and comparing the results."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from accelkit import dtypes, registry
from accelkit.backend import Backend
from accelkit.compilation import compile_graph
from accelkit.device import Device, default_device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, ParityError
from accelkit.graph import Graph
from accelkit.parity import graphs
from accelkit.parity.cases import BITS, CLOSE, Case, build_case
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.primitives import PRIMITIVES
from accelkit.tensor import Tensor

__all__ = [
    "Check",
    "Mismatch",
    "available_dtypes",
    "check_definitions",
    "check_eager",
    "check_gradients",
    "check_second_derivatives",
    "check_values",
    "compare",
    "cotangents",
    "execute",
    "explain",
    "gradient_floor",
    "guarded",
    "oracle",
    "replay",
    "run_eagerly",
    "run_joined",
]

_ORACLE = Device("numpy")
_MOST_ATTEMPTS = 24  # at a simpler case than the one that fails


class Mismatch(NamedTuple):
    """One result that is not what it should be."""

    case: Case
    what: str


Check = Callable[[Sequence[Case], Device], list[Mismatch]]


def available_dtypes(device: Device) -> list[DType]:
    """The dtypes that tensors on the device can have."""
    names = registry.backend(device.backend).dtype_names(device)
    return [d for d in dtypes.ALL if d.name in names]


# --- running ------------------------------------------------------------------------------------


def execute(graph: Graph, arrays: Sequence[np.ndarray], device: Device) -> list[np.ndarray]:
    """Compile a graph for a device and run it on host arrays."""
    backend = registry.backend(device.backend)
    executable = compile_graph(graph, device)
    return _fetch(backend, executable([backend.put(a, device) for a in arrays]))


def _fetch(backend: Backend, arrays: Sequence[object]) -> list[np.ndarray]:
    return [backend.get(a) for a in arrays]


def oracle(graph: Graph, arrays: Sequence[np.ndarray], *, widen: bool = True) -> list[np.ndarray]:
    """The reference's results: by NumPy, in float64 unless told otherwise."""
    if not widen:
        return execute(graph, arrays, _ORACLE)
    return execute(graphs.wide(graph), [_wide_array(a) for a in arrays], _ORACLE)


def _wide_array(array: np.ndarray) -> np.ndarray:
    floating = dtypes.dtype(array.dtype).is_floating
    return array.astype(np.float64) if floating else array


def run_joined(
    parts: Sequence[tuple[Graph, Sequence[np.ndarray]]], device: Device
) -> list[list[np.ndarray]]:
    """Compile all graphs as one and run it; the results per graph."""
    joined = graphs.join([graph for graph, _ in parts])
    found = iter(execute(joined, [a for _, arrays in parts for a in arrays], device))
    return [[next(found) for _ in graph.outputs] for graph, _ in parts]


def run_eagerly(case: Case, device: Device) -> list[np.ndarray]:
    """The case's results by one call of its primitive, composites by their definition."""
    backend = registry.backend(device.backend)
    primitive = PRIMITIVES[case.primitive]
    tensors = [Tensor._eager(backend.put(a, device), device) for a in case.arrays]
    with default_device(device):
        result = primitive(*tensors, **case.parameters)
    results = result if primitive.multiple_outputs else (result,)
    return _fetch(backend, [t.native for t in results])


# --- comparing ----------------------------------------------------------------------------------


def _disagreement(
    found: np.ndarray, wanted: np.ndarray, comparison: str, bound: float, floor: float
) -> str:
    """What is wrong with a result; empty if nothing is."""
    if found.shape != wanted.shape:
        return f"has shape {found.shape}, expected {wanted.shape}"
    if not dtypes.dtype(found.dtype).is_floating:
        equal = np.array_equal(found, wanted)
        return "" if equal else f"is not equal to the reference: {_elements(found, wanted)}"
    if comparison == CLOSE:
        measured = deviation(found, wanted, floor=floor)
        if measured <= bound:
            return ""
        return f"deviates by {measured:.3g}, allowed are {bound:.3g}: {_elements(found, wanted)}"
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if comparison == BITS:
        same &= (np.signbit(a) == np.signbit(b)) | np.isnan(a)
    return "" if same.all() else f"is not equal to the reference: {_elements(found, wanted)}"


def _elements(found: np.ndarray, wanted: np.ndarray) -> str:
    """The first few elements that differ."""
    a, b = found.astype(object).reshape(-1), wanted.astype(object).reshape(-1)
    with np.errstate(all="ignore"):
        size = [_distance(x, y) for x, y in zip(a, b, strict=True)]
    worst = sorted(range(len(size)), key=lambda i: -size[i])[:4]
    pairs = [f"[{i}] {a[i]!r} instead of {b[i]!r}" for i in worst if size[i] > 0]
    return ", ".join(pairs) or "zeros of the other sign"


def _distance(x: object, y: object) -> float:
    p, q = float(x), float(y)  # type: ignore[arg-type]
    if p == q or (p != p and q != q):
        return 0.0
    distance = abs(p - q)
    return distance if distance == distance else float("inf")


def compare(
    case: Case,
    label: str,
    graph: Graph,
    found: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    *,
    comparison: str,
    bound: float,
    floor: float,
) -> list[Mismatch]:
    """What is wrong with each output of a case's graph, compared with the wanted one."""
    problems = []
    for position, (a, b, value) in enumerate(zip(found, wanted, graph.outputs, strict=True)):
        what = f"{label} {position}" if len(graph.outputs) > 1 else label
        if dtypes.dtype(a.dtype) is not value.spec.dtype:
            text = f"has dtype {a.dtype}, expected {value.spec.dtype}"
        else:
            text = _disagreement(a, b, comparison, bound, floor)
        if text:
            problems.append(Mismatch(case, f"{what} {text}"))
    return problems


def _value_mismatches(
    case: Case, graph: Graph, found: Sequence[np.ndarray], label: str
) -> list[Mismatch]:
    wanted = oracle(graph, case.arrays, widen=case.widen and case.comparison == CLOSE)
    return compare(
        case,
        label,
        graph,
        found,
        wanted,
        comparison=case.comparison,
        bound=tolerance(case.dtype, gradient=False, length=case.length),
        floor=case.floor,
    )


# --- the checks ---------------------------------------------------------------------------------


def check_values(batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Compare the results of cases that are compiled as one graph."""
    parts = [(graphs.value_graph(case), case.arrays) for case in batch]
    results = run_joined(parts, device)
    return [
        problem
        for case, (graph, _), found in zip(batch, parts, results, strict=True)
        for problem in _value_mismatches(case, graph, found, "the result")
    ]


def check_eager(batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Compare the results of cases that are run one primitive at a time."""
    problems = []
    for case in batch:
        found = run_eagerly(case, device)
        problems += _value_mismatches(case, graphs.value_graph(case), found, "the eager result")
    return problems


def check_definitions(batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Compare composites by their definition, on the device itself, with the reference."""
    parts = [(graphs.defined_graph(case), case.arrays) for case in batch]
    results = run_joined(parts, device)
    return [
        problem
        for case, (_, _), found in zip(batch, parts, results, strict=True)
        for problem in _value_mismatches(
            case, graphs.value_graph(case), found, "the definition's result"
        )
    ]


def cotangents(case: Case, graph: Graph) -> list[np.ndarray]:
    """Random arrays for the inputs of ``graph`` beyond the case's operands."""
    generator = np.random.default_rng(zlib.crc32(repr(case).encode()))
    extra = graph.inputs[len(case.arrays) :]
    return [generator.standard_normal(v.spec.shape).astype(v.spec.dtype.numpy) for v in extra]


def gradient_floor(case: Case, graph: Graph) -> float:
    """Size of the terms of a derivative: of the cotangents, or of the results' own terms."""
    sizes = [float(np.max(np.abs(a.astype(float)), initial=0.0)) for a in cotangents(case, graph)]
    return max(case.floor, *sizes) if sizes else case.floor


def check_gradients(batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Compare the vector-Jacobian products of cases that are compiled as one graph."""
    return _check_derivatives(batch, device, graphs.gradient_graph, "the cotangent of operand")


def check_second_derivatives(batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Compare the derivatives of the cases' derivatives."""
    return _check_derivatives(batch, device, graphs.second_order_graph, "second derivative")


def _check_derivatives(
    batch: Sequence[Case], device: Device, derive: Callable[[Case], Graph], label: str
) -> list[Mismatch]:
    chosen = [case for case in batch if case.gradients]
    if not chosen:
        return []
    built = [derive(case) for case in chosen]
    extra = [cotangents(case, graph) for case, graph in zip(chosen, built, strict=True)]
    parts = [
        (graph, [*case.arrays, *more])
        for case, graph, more in zip(chosen, built, extra, strict=True)
    ]
    problems = []
    results = run_joined(parts, device)
    for case, (graph, arrays), found in zip(chosen, parts, results, strict=True):
        problems += compare(
            case,
            label,
            graph,
            found,
            oracle(graph, arrays, widen=case.widen),
            comparison=CLOSE,
            bound=tolerance(case.dtype, gradient=True, length=case.gradient_length),
            floor=gradient_floor(case, graph),
        )
    return problems


def guarded(check: Check, batch: Sequence[Case], device: Device) -> list[Mismatch]:
    """Run a check; if it raises, run it case by case to find out which one is to blame."""
    try:
        return check(batch, device)
    except Exception:
        problems = []
        for case in batch:
            try:
                problems += check([case], device)
            except Exception as error:
                problems.append(Mismatch(case, f"raises {type(error).__name__}: {error}"))
        if not problems:
            raise  # only the batch as a whole fails
        return problems


# --- explaining ---------------------------------------------------------------------------------


def replay(primitive: str, dtype: str, choices: Sequence[int], *, device: str = "numpy") -> Case:
    """The case that these choices make, as printed by a failure."""
    remaining = iter(choices)

    def decide(count: int) -> int:
        return min(next(remaining, 0), count - 1)

    return build_case(primitive, decide, dtypes.dtype(dtype), available_dtypes(find_device(device)))


def explain(problems: Sequence[Mismatch], check: Check, device: Device) -> ParityError:
    """The error for failed cases: the first one made as small as possible, and how to replay it."""
    case = problems[0].case
    smallest = _minimised(case, check, device)
    alone = guarded(check, [smallest], device)
    shown = alone[0] if alone else problems[0]
    note = "" if alone else "\n  It fails only in one graph with the other cases of its batch."
    return ParityError(
        f"{len(problems)} result(s) of {device} are wrong, the first of them:\n"
        f"  {shown.case}\n  {shown.what}{note}\n"
        f"Reproduce it with:\n"
        f"  from accelkit.parity import {check.__name__}, replay\n"
        f"  case = {repr(shown.case)[:-1]}, device={str(device)!r})\n"
        f"  {check.__name__}([case], accelkit.device({str(device)!r}))"
    )


def _minimised(case: Case, check: Check, device: Device) -> Case:
    """Lower choices one by one as long as the case still fails alone."""
    best, attempts = case, _MOST_ATTEMPTS
    for position in range(len(case.choices)):
        if attempts == 0:
            break
        if position >= len(best.choices) or best.choices[position] == 0:
            continue
        attempts -= 1
        choices = [*best.choices]
        choices[position] = 0
        try:
            simpler = replay(case.primitive, case.dtype.name, choices, device=str(device))
        except AccelkitError:  # these choices make no valid case
            continue
        if guarded(check, [simpler], device):
            best = simpler
    return best
