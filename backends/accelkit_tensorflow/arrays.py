"""Arrays that a compiled step updates in place.

TensorFlow reuses the memory of an input for an output only if the input is a variable. So the
outputs that take the place of donated inputs stay in variables: each is a :class:`VariableArray`,
one *version* of a variable's content. The next step that takes the version as a donated input
writes the variable and hands out a new version; the old one refuses to be read.

Reading a version gives an ordinary ``tf.Tensor`` that keeps its content: it shares the
variable's memory until the next step, which then writes to fresh memory.
"""

from __future__ import annotations

from typing import Any

from accelkit.errors import StateConsumedError
from accelkit_tensorflow.framework import tf

__all__ = ["VariableArray", "as_tensor", "as_variable"]


class VariableArray:
    """One version of a variable's content. TensorFlow's functions accept it as a tensor.

    Attributes:
        shape: Extent of each axis.
        dtype: TensorFlow's dtype.
    """

    __slots__ = ("__weakref__", "_variable", "dtype", "shape")

    def __init__(self, variable: tf.Variable) -> None:
        self._variable: tf.Variable | None = variable
        self.shape = variable.shape
        self.dtype = variable.dtype

    @property
    def variable(self) -> tf.Variable:
        """The variable that holds the content.

        Raises:
            StateConsumedError: if a step has overwritten it.
        """
        if self._variable is None:
            raise StateConsumedError(
                f"This array {self.dtype.name}{tuple(self.shape)} was donated to a compiled "
                f"program, which has overwritten it. Use what the program returned, or keep a "
                f"copy of the state (`state.copy()`) before the step."
            )
        return self._variable

    @property
    def is_consumed(self) -> bool:
        """Whether a step has overwritten this version."""
        return self._variable is None

    @property
    def device(self) -> str:
        """TensorFlow's name of the device that holds it."""
        return str(self.variable.device)

    def consume(self) -> tf.Variable:
        """The variable, which this version gives up."""
        variable = self.variable
        self._variable = None
        return variable

    def value(self) -> tf.Tensor:
        """The content as a tensor that later steps leave alone."""
        return self.variable.value()

    def numpy(self) -> Any:
        """The content as a NumPy array."""
        return self.value().numpy()

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return tf.convert_to_tensor(self.value(), dtype=dtype, name=name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        state = "consumed" if self._variable is None else "current"
        return f"<VariableArray {self.dtype.name}{tuple(self.shape)}, {state}>"


def as_tensor(array: Any) -> tf.Tensor:
    """The tensor of a native array."""
    return array.value() if isinstance(array, VariableArray | tf.Variable) else array


def as_variable(array: Any) -> tf.Variable:
    """A variable with the content of a native array: its own, or a new one."""
    if isinstance(array, VariableArray):
        return array.variable
    return tf.Variable(array, trainable=False)
