"""Programs are kept as definitions; what traced them, and the stacks of its operations, is not."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from accelkit_tensorflow import runtime_function
from accelkit_tensorflow.framework import tf
from tensorflow.python.eager import context

import accelkit as ak

OFFSET = tf.constant(2.0)  # captured, as a tensor that is there before the trace
X = tf.constant([1.0, 2.0, 3.0])


def traced() -> Any:
    """A function that calls others: one that XLA compiles, and a loop's condition and body."""

    def inner(x: Any) -> Any:
        return x * 3.0

    def outer(x: Any) -> list[Any]:
        y = tf.function(inner, autograph=False, jit_compile=True)(x) + OFFSET
        (z,) = tf.while_loop(lambda v: tf.reduce_sum(v) < 100.0, lambda v: [v + v], [y])
        return [y, z]

    signature = [tf.TensorSpec([3], tf.float32)]
    return tf.function(outer, input_signature=signature, autograph=False).get_concrete_function()


def registered() -> set[str]:
    """Names of the functions that programs call."""
    gc.collect()
    return {name for name in CONTEXT.list_function_names() if name.startswith("accelkit_")}


CONTEXT = context.context()
EXPECTED = [[5.0, 8.0, 11.0], [40.0, 64.0, 88.0]]


def test_what_a_function_computes_stays() -> None:
    call = runtime_function.runtime_function(traced())
    gc.collect()
    for _ in range(2):
        np.testing.assert_array_equal([y.numpy() for y in call([X])], EXPECTED)


def test_what_was_traced_goes() -> None:
    function = traced()
    graph = weakref.ref(function.graph)
    old = function.function_def.signature.name
    assert CONTEXT.has_function(old)
    assert CONTEXT.get_graph_debug_info(old).files  # of the stacks
    before = registered()
    call = runtime_function.runtime_function(function)
    del function
    own = registered() - before
    assert len(own) == 4  # itself, the compiled one, the loop's two
    assert graph() is None
    assert not CONTEXT.has_function(old)
    assert not any(CONTEXT.get_graph_debug_info(name).files for name in own)
    del call
    assert not own & registered()


def test_a_function_without_results() -> None:
    variable = tf.Variable(0.0)

    def assign(x: Any) -> list[Any]:
        variable.assign(tf.reduce_sum(x))
        return []

    signature = [tf.TensorSpec([3], tf.float32)]
    function = tf.function(assign, input_signature=signature, autograph=False)
    call = runtime_function.runtime_function(function.get_concrete_function())
    assert list(call([X])) == []
    assert variable.numpy() == 6.0


def test_where_tensorflow_has_moved_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_function, "_context", lambda: None)
    call = runtime_function.runtime_function(traced())
    np.testing.assert_array_equal([y.numpy() for y in call([X])], EXPECTED)


def test_programs_go_with_their_functions() -> None:
    before = registered()
    x = ak.asarray([1.0, 2.0], device="tensorflow")
    program = ak.jit(lambda v: ak.sum(ak.tanh(v) * v))
    program(x)
    made = registered() - before
    assert made
    del program
    assert not made & registered()
