"""The TensorFlow backend against the NumPy backend, and what only TensorFlow can get wrong."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import weakref

import accelkit_tensorflow
import numpy as np
import pytest
from accelkit_tensorflow import TensorflowBackend, VariableArray, philox, runtime
from accelkit_tensorflow import compile as compile_module
from accelkit_tensorflow.compile import TensorflowExecutable, output_targets
from accelkit_tensorflow.framework import tf
from backends.comparison import run
from backends.primitive_cases import Case

import accelkit as ak
from accelkit import dtypes
from accelkit.backend import CompileOptions
from accelkit.device import Device
from accelkit.errors import (
    BackendError,
    DeviceError,
    OptionError,
    OutOfMemoryError,
    StateConsumedError,
)
from accelkit.primitives import get
from backends import xla_cases

TENSORFLOW = TensorflowBackend()
CPU = TENSORFLOW.devices()[-1].device
ONES = np.ones(1000, np.float32)


class TestShared(xla_cases.SharedTests):
    backend = TENSORFLOW


def test_a_wrong_generator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    philox.check_generator.__wrapped__("/CPU:0")
    monkeypatch.setattr(philox, "bits", lambda key, start, count: tf.zeros(count, tf.uint32))
    with pytest.raises(BackendError, match="Philox"):
        philox.check_generator.__wrapped__("/CPU:0")


def test_a_mask_that_is_read_twice_is_drawn_once() -> None:
    draw = philox.XLA_RANDOM["random_keep_mask"]

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def program(key: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mask = draw(key, shape=(64, 32), rate=0.3, offset=0)
        kept = tf.where(mask, x, 0.0)
        return kept, tf.where(mask, tf.tanh(tf.reduce_sum(kept)) * x, 0.0)

    arguments = tf.constant([7, 8], tf.uint32), tf.ones((64, 32))
    text = program.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    drawing = [part for part in text.split("\n\n") if str(0xD2511F53) in part]
    assert len(drawing) == 1, text
    assert " u8[512]" in drawing[0], "a byte for each block of four"


def _steps(count: int) -> list[list[VariableArray]]:
    """The states after each of some steps."""
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    gradient = TENSORFLOW.put(ONES, CPU)
    state = [TENSORFLOW.put(ONES, CPU), TENSORFLOW.put(ONES, CPU)]
    states = []
    for _ in range(count):
        *state, _ = executable([*state, gradient])
        states.append(state)
    return states


def test_consumed_arrays_refuse_to_be_read() -> None:
    old, new = _steps(2)
    assert TENSORFLOW.get(new[1])[0] == 3.0
    assert old[1].is_consumed
    for read in (TENSORFLOW.get, np.asarray, tf.convert_to_tensor, tf.reduce_sum):
        with pytest.raises(StateConsumedError, match=r"float32\(1000,\)"):
            read(old[1])
    assert TENSORFLOW.spec(old[1]).shape == (1000,)
    assert "consumed" in repr(old[1])


def test_state_stays_in_one_variable() -> None:
    first, second = _steps(2)
    assert isinstance(second[0], VariableArray)
    memory = {id(a.variable) for a in second}
    assert len(memory) == 2
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    *third, _ = executable([*second, TENSORFLOW.put(ONES, CPU)])
    assert {id(a.variable) for a in third} == memory
    assert all(a.is_consumed for a in first + second)


def test_several_states_at_once() -> None:
    (one,), (other,) = _steps(1), _steps(1)
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    gradient = TENSORFLOW.put(ONES, CPU)
    *one, _ = executable([*one, gradient])
    assert TENSORFLOW.get(one[1])[0] == 3.0
    assert TENSORFLOW.get(other[1])[0] == 2.0


def test_a_donated_tensor_keeps_its_content() -> None:
    p = TENSORFLOW.put(ONES, CPU)
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    state = [p, TENSORFLOW.put(ONES, CPU)]
    for _ in range(3):
        *state, _ = executable([*state, TENSORFLOW.put(ONES, CPU)])
    np.testing.assert_array_equal(p.numpy(), ONES)


def test_a_donated_tensor_that_nobody_keeps_gives_its_memory_to_the_result() -> None:
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    gradient = TENSORFLOW.put(ONES, CPU)
    arrays = [tf.zeros(1000), tf.zeros(1000), gradient]
    kept = [weakref.ref(a) for a in arrays[:2]]
    state = executable(arrays)
    assert not arrays
    assert [r() for r in kept] == [None, None]
    assert TENSORFLOW.get(state[1])[0] == 1.0


def test_a_large_program_is_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow would keep the memory of a second state."""
    calls: list[int] = []
    call = TensorflowExecutable.__call__

    def counted(self: TensorflowExecutable, arrays: list[object]) -> list[object]:
        calls.append(len(arrays))
        return call(self, arrays)

    monkeypatch.setattr(TensorflowExecutable, "__call__", counted)
    graph = xla_cases.update_graph()
    TENSORFLOW.compile(graph, CPU)
    assert len(calls) == 1
    monkeypatch.setattr(compile_module, "_MOST_REHEARSED_BYTES", graph.input_bytes - 1)
    executable = TENSORFLOW.compile(graph, CPU)
    assert len(calls) == 1
    traced_s = executable.compile_time_s
    executable([TENSORFLOW.put(ONES, CPU) for _ in range(3)])
    compiled_s = executable.compile_time_s
    assert compiled_s > traced_s > 0.0
    executable([TENSORFLOW.put(ONES, CPU) for _ in range(3)])
    assert executable.compile_time_s == compiled_s


def test_the_users_variables_are_not_overwritten() -> None:
    mine = tf.Variable(ONES)
    executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
    executable([mine, TENSORFLOW.put(ONES, CPU), TENSORFLOW.put(ONES, CPU)])
    np.testing.assert_array_equal(mine.numpy(), ONES)


def test_variable_arrays_are_tensors_to_tensorflow() -> None:
    (state,) = _steps(1)
    assert float(tf.reduce_sum(state[1])) == 2000.0
    assert tf.convert_to_tensor(state[1]).dtype == tf.float32
    assert np.asarray(state[1]).sum() == 2000.0


def test_consumed_arrays_are_gone() -> None:
    (state,) = _steps(1)
    state[0].consume()
    with pytest.raises(StateConsumedError):
        TENSORFLOW.get(state[0])


def test_targets() -> None:
    graph = xla_cases.update_graph()
    assert output_targets(graph, {0, 1, 2}) == {0: 0, 1: 1}
    kept = graph.replace(outputs=[graph.inputs[1], graph.outputs[1], graph.inputs[0]])
    assert output_targets(kept, {0, 1}) == {0: 2, 1: 0}


def test_dtypes_without_a_kernel_are_compiled() -> None:
    a = np.array([[1, 2], [3, 65535]], np.uint16)
    case = Case("cumulative_sum", (a,), {"axis": 1})
    np.testing.assert_array_equal(run(TENSORFLOW, case)[0], np.cumsum(a, 1, np.uint16))
    dilated = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (2, 2), "groups": 1}
    x, g = np.ones((1, 5, 5, 1), np.float32), np.ones((1, 3, 3, 1), np.float32)
    case = Case("conv2d_weight_grad", (x, g), {**dilated, "kernel_size": (2, 2)})
    assert run(TENSORFLOW, case)[0].tolist() == [[[[9.0]], [[9.0]]], [[[9.0]], [[9.0]]]]


def test_a_wrong_call_keeps_its_own_error() -> None:
    a, b = (TENSORFLOW.put(np.ones(n, np.float32), CPU) for n in (2, 3))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        TENSORFLOW.run(get("add"), [a, b], {}, CPU)


def test_tf32_is_restored() -> None:
    switch = tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    for users_choice in (True, False):
        switch.enable_tensor_float_32_execution(users_choice)
        try:
            for precision in ("float32", "tf32"):
                options = CompileOptions(matmul_precision=precision)
                executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, options=options)
                executable([TENSORFLOW.put(ONES, CPU) for _ in range(3)])
                run(TENSORFLOW, Case("exp", (ONES,), {}))
                assert switch.tensor_float_32_execution_enabled() is users_choice
        finally:
            switch.enable_tensor_float_32_execution(before)
    with pytest.raises(OptionError, match="'float32' or 'tf32'"):
        TENSORFLOW.compile(xla_cases.update_graph(), CPU, options=CompileOptions("float8"))


def test_worker_threads() -> None:
    found: list[object] = []

    def work() -> None:
        found.append(float(run(TENSORFLOW, Case("reduce_sum", (ONES,), {"axes": (0,)}))[0]))
        executable = TENSORFLOW.compile(xla_cases.update_graph(), CPU, donate=frozenset({0, 1}))
        outputs = executable([TENSORFLOW.put(ONES, CPU) for _ in range(3)])
        found.append(float(TENSORFLOW.get(outputs[2])))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1000.0, 1000.0]


def test_dlpack() -> None:
    source = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = TENSORFLOW.from_dlpack(source, CPU)
    source[:] = 0.0
    assert TENSORFLOW.get(array)[1, 2] == 5.0
    (state,) = _steps(1)
    again = tf.experimental.dlpack.from_dlpack(TENSORFLOW.to_dlpack(state[1]))
    np.testing.assert_array_equal(again.numpy(), np.full(1000, 2.0))
    assert TENSORFLOW.dlpack_device(state[1]) == (1, 0)


def _has_no_cpu_kernel(case: Case) -> bool:
    """TensorFlow's own CPU kernels have no gradients of dilated convolutions, and say so."""
    dilated = case.parameters.get("dilation", (1, 1)) != (1, 1)
    return dilated and case.primitive.endswith("_grad")


def test_without_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelkit_tensorflow, "has_xla", lambda: False)
    backend = TensorflowBackend()
    assert "xla" in TENSORFLOW.capabilities
    assert "xla" not in backend.capabilities
    assert all("without XLA" in info.driver for info in backend.devices())
    xla_cases.check_donation(backend)
    xla_cases.check_copies_survive(backend)
    xla_cases.check_compiled(backend, "float32", leave_out=_has_no_cpu_kernel)
    xla_cases.check_control_flow(backend)


def test_unknown_device() -> None:
    with pytest.raises(DeviceError, match="tensorflow:cpu:0"):
        TENSORFLOW.put(np.zeros(1), Device("tensorflow", "npu", 0))


def test_a_broken_driver_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(tf.config, "list_logical_devices", fail)
    with pytest.raises(DeviceError, match="TensorFlow finds no usable device: no driver"):
        runtime.discover.__wrapped__()


def test_translation_of_errors() -> None:
    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert isinstance(TENSORFLOW.translate(exhausted), OutOfMemoryError)
    other = TENSORFLOW.translate(tf.errors.InternalError(None, None, "broken"))
    assert isinstance(other, BackendError)
    assert "broken" in str(other)


def test_signed_zeros_are_different_constants() -> None:
    signs = []
    for value in (0.0, -0.0, 0.0):
        parameters = {"shape": (), "value": value, "dtype": dtypes.float32}
        found = TENSORFLOW.get(TENSORFLOW.run(get("full"), [], parameters, CPU))
        signs.append(bool(np.signbit(found)))
    assert signs == [False, True, False]


_IN_A_FRESH_PROCESS = """
import os
before = dict(os.environ)
from accelkit_tensorflow import TensorflowBackend
backend = TensorflowBackend()
assert os.environ == before
os.write(2, b"standard error works\\n")
print([str(info.device) for info in backend.devices()])
"""


@pytest.mark.parametrize("before", ["", "import jax  # sets TF_CPP_MIN_LOG_LEVEL"])
def test_import_is_quiet_and_leaves_the_environment_alone(before: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", before + _IN_A_FRESH_PROCESS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tensorflow:cpu:0" in result.stdout
    assert result.stderr == "standard error works\n"


_FAILING = """
from accelkit_tensorflow.quiet import quiet_import
import os
with quiet_import():
    os.write(2, b"an important line\\noneDNN custom operations are on. Noise.\\nunfinished")
    raise SystemExit(3)
"""


def test_other_lines_on_standard_error_are_kept() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    result = subprocess.run(
        [sys.executable, "-c", _FAILING],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert result.stderr == "an important line\nunfinished"


@pytest.mark.parametrize("padding", [((0, 1), (2, 1)), ((1, 0), (0, 0)), ((1, 1), (1, 1))])
def test_convolutions_of_no_images(padding: tuple[tuple[int, int], tuple[int, int]]) -> None:
    x, w = ak.zeros((0, 8, 7, 2), device="tensorflow"), ak.ones((3, 3, 2, 4), device="tensorflow")

    def convolved(x: ak.Tensor, w: ak.Tensor) -> ak.Tensor:
        return ak.conv2d(x, w, strides=(2, 1), padding=padding)

    (top, bottom), (left, right) = padding
    expected = (0, (8 + top + bottom - 3) // 2 + 1, 7 + left + right - 2, 4)
    assert convolved(x, w).shape == ak.jit(convolved)(x, w).shape == expected
    image_slope, weight_slope = ak.grad(lambda *xs: ak.sum(convolved(*xs)), argnums=(0, 1))(x, w)
    assert image_slope.shape == x.shape
    assert not weight_slope.numpy().any()
    assert weight_slope.shape == w.shape
