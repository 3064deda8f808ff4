"""The JAX backend against the NumPy backend, and what only JAX can get wrong."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from accelkit_jax import JaxBackend, philox, runtime, scheduling
from accelkit_jax.compile import in_place_options, reusable
from backends.comparison import run
from backends.primitive_cases import Case

from accelkit import dtypes, losses, nn, optim, train
from accelkit.backend import CompileOptions
from accelkit.device import Device
from accelkit.errors import BackendError, DeviceError, OptionError, OutOfMemoryError
from accelkit.graph import TensorSpec
from accelkit.primitives import get
from accelkit.tracing import trace_graph
from backends import xla_cases

JAX = JaxBackend()
CPU = JAX.devices()[-1].device


class TestShared(xla_cases.SharedTests):
    backend = JAX


def test_emulated_generator_equals_the_native_one() -> None:
    with runtime.wide_types():
        for key in ((0, 0), (7, 0xFFFFFFFF)):
            for first in (0, 5, (1 << 32) - 2):
                words = jax.numpy.asarray(np.array(key, np.uint32))
                np.testing.assert_array_equal(
                    philox.emulated_blocks(words, first, 6), philox.native_blocks(words, first, 6)
                )


def test_a_wrong_native_generator_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    native = runtime.jax_device(CPU)
    assert philox.generator(native) is philox.native_blocks

    def swapped(key: jax.Array, first: int, count: int) -> jax.Array:
        return philox.emulated_blocks(key[::-1], first, count)

    monkeypatch.setattr(philox, "native_blocks", swapped)
    with runtime.wide_types():
        assert philox.generator.__wrapped__(native) is philox.emulated_blocks


def test_a_mask_that_is_read_twice_is_drawn_once() -> None:
    mask = functools.partial(philox.RANDOM["random_keep_mask"], shape=(64, 32), rate=0.3, offset=0)

    def program(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = jax.numpy.where(mask(key), x, 0.0)
        return kept, jax.numpy.where(mask(key), jax.numpy.tanh(kept.sum()) * x, 0.0)

    with runtime.wide_types():
        arguments = np.zeros(2, np.uint32), np.ones((64, 32), np.float32)
        text = jax.jit(program).lower(*arguments).compile().as_text()
    # Ten rounds with this multiplier; one constant each, or one for all.
    drawing = [part for part in text.split("\n\n") if str(0xD2511F53) in part]
    assert len(drawing) == 1, text
    assert " u8[512]" in drawing[0], "a byte for each block of four"


def test_donated_arrays_are_deleted_and_others_kept() -> None:
    executable = JAX.compile(xla_cases.update_graph(), CPU, donate=frozenset({0}))
    arrays = [JAX.put(np.ones(1000, np.float32), CPU) for _ in range(3)]
    executable(arrays)
    assert [a.is_deleted() for a in arrays] == [True, False, False]


def test_only_reusable_inputs_are_donated() -> None:
    graph = xla_cases.update_graph()
    assert reusable(graph, {0, 1, 2}) == (0, 1)  # two outputs of this shape


def test_no_parameter_is_copied_before_its_update_in_place() -> None:
    """Equal shapes pair with their own successors; the backward pass reads before the update."""
    if not in_place_options(runtime.jax_device(CPU)):
        pytest.skip("this XLA lacks the option, which jax 0.10 has")
    model = nn.Sequential(nn.Linear(8), nn.ReLU(), nn.Linear(8), nn.ReLU(), nn.Linear(8))
    optimizer = optim.sgd(0.1, momentum=0.9, weight_decay=0.01)
    step = train.TrainStep(model, losses.SoftmaxCrossEntropy(), optimizer, device=CPU)
    batch = (np.ones((4, 8), np.float32), np.zeros(4, np.int32))
    executable = step.compile(step.init(0, (4, 8)), batch)
    text = executable._program.as_text()
    entry = text[text.index("ENTRY") :]
    assert "parameter(" in entry
    assert " copy(" not in entry
    aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}", text[: text.index("ENTRY")])
    state = executable.graph.input_names
    assert len(aliases) == sum(name.startswith(("param", "optim", "watch")) for name in state)
    assert all(output == operand for output, operand in aliases)


def test_imported_memory_is_not_overwritten_by_donation() -> None:
    source = np.ones(1000, np.float32)
    imported = JAX.from_dlpack(source, CPU)
    others = [JAX.put(np.ones(1000, np.float32), CPU) for _ in range(2)]
    executable = JAX.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    outputs = executable([imported, *others])
    assert JAX.get(outputs[0])[0] == -1.0
    assert (source == 1.0).all()


def test_exported_memory_is_not_overwritten_by_donation() -> None:
    arrays = [JAX.put(np.ones(1000, np.float32), CPU) for _ in range(3)]
    exported = np.from_dlpack(arrays[0])
    JAX.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))(arrays)
    assert (exported == 1.0).all()


def test_sixty_four_bits_without_a_global_switch() -> None:
    assert not jax.config.jax_enable_x64
    x = JAX.put(np.array([1.0 + 2.0**-40]), CPU)
    y = JAX.run(get("multiply"), [x, x], {}, CPU)
    assert JAX.get(y)[0] == (1.0 + 2.0**-40) ** 2
    assert not jax.config.jax_enable_x64
    assert jax.numpy.ones(2).dtype == np.float32  # the user's own JAX is as it was


def test_worker_threads() -> None:
    found: list[object] = []

    def work() -> None:
        case = Case("reduce_sum", (np.full(10, 0.1),), {"axes": (0,)})
        found.append(run(JAX, case)[0].dtype)
        executable = JAX.compile(xla_cases.update_graph(10), CPU)
        arrays = [JAX.put(np.ones(10, np.float32), CPU) for _ in range(3)]
        found.append(JAX.get(executable(arrays)[2]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [np.float64, 10.0]


def test_constants_are_not_weak() -> None:
    for parameters in ({"value": 1.5, "dtype": dtypes.float32}, {"value": 1, "dtype": dtypes.int8}):
        array = JAX.run(get("full"), [], {"shape": (), **parameters}, CPU)
        assert not array.weak_type
    x = JAX.put(np.ones(3), CPU)
    assert not JAX.run(get("reduce_sum"), [x], {"axes": (0,)}, CPU).weak_type


def test_signed_zeros_are_different_constants() -> None:
    signs = []
    for value in (0.0, -0.0, 0.0):
        parameters = {"shape": (), "value": value, "dtype": dtypes.float32}
        signs.append(np.signbit(JAX.get(JAX.run(get("full"), [], parameters, CPU))))
    assert signs == [False, True, False]


def test_precision_options() -> None:
    options = CompileOptions(matmul_precision="tf32")
    JAX.compile(xla_cases.update_graph(), CPU, options=options)
    with pytest.raises(OptionError, match="'float32', 'tf32'"):
        JAX.compile(xla_cases.update_graph(), CPU, options=CompileOptions("float8"))


def test_temporary_memory() -> None:
    executable = JAX.compile(xla_cases.update_graph(), CPU)
    found = executable.temporary_memory_bytes()
    assert found is not None
    assert found >= 0


def test_memory_statistics() -> None:
    statistics = JAX.memory(CPU)
    assert statistics.in_use_bytes
    assert statistics.peak_bytes
    assert statistics.method


def test_unknown_device() -> None:
    with pytest.raises(DeviceError, match="jax:cpu:0"):
        JAX.put(np.zeros(1), Device("jax", "npu", 0))


def test_a_broken_driver_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(DeviceError, match="JAX finds no usable device: no driver"):
        runtime.discover.__wrapped__()


def test_translation_of_errors() -> None:
    exhausted = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes")
    assert isinstance(JAX.translate(exhausted), OutOfMemoryError)
    other = JAX.translate(RuntimeError("INTERNAL: broken"))
    assert isinstance(other, BackendError)
    assert not isinstance(other, OutOfMemoryError)


def test_synchronize_waits_for_results() -> None:
    x = JAX.put(np.ones((64, 64), np.float32), CPU)
    y = JAX.run(get("matmul"), [x, x], {"transpose_a": False, "transpose_b": False}, CPU)
    JAX.synchronize(CPU)
    assert y.is_ready()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_an_update_in_blocks(
    monkeypatch: pytest.MonkeyPatch, nesterov: bool, transpose: bool
) -> None:
    """The result of the whole, by blocks of rows; without Nesterov, and nothing large is copied."""
    monkeypatch.setattr(scheduling, "_PIECE_BYTES", 1 << 15)
    rng = np.random.default_rng(0)
    rows, columns = 256, 128
    p, v = (rng.standard_normal((rows, columns)).astype(np.float32) for _ in range(2))
    a, b = (rng.standard_normal((4, n)).astype(np.float32) for n in (rows, columns))
    operands = [p, a if transpose else a.T.copy(), b, v, np.float32(0.1)]
    options = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    graph, _ = trace_graph(
        lambda *xs: get("sgd_update_matmul")(
            *xs, transpose_a=transpose, transpose_b=False, **options
        ),
        [TensorSpec(np.shape(x), dtypes.float32) for x in operands],
    )
    program = JAX.compile(graph, CPU, donate=frozenset({0, 3}))
    found = program([JAX.put(x, CPU) for x in operands])
    g = a.T @ b + np.float32(0.01) * p
    new_v = np.float32(0.9) * v + g
    new_p = p - np.float32(0.1) * (g + np.float32(0.9) * new_v if nesterov else new_v)
    for one, expected in zip(found, (new_p, new_v), strict=True):
        np.testing.assert_allclose(np.asarray(one), expected, rtol=1e-5, atol=1e-5)
    if not nesterov:
        assert program.temporary_memory_bytes() < p.nbytes


_IN_A_FRESH_PROCESS = """
import os
from accelkit_jax import JaxBackend
backend = JaxBackend()
assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
print([str(info.device) for info in backend.devices()])
assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
"""


def test_environment_is_left_alone() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_")}
    result = subprocess.run(
        [sys.executable, "-c", _IN_A_FRESH_PROCESS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "jax:cpu:0" in result.stdout
