"""What the TensorFlow programs share: a training step on variables inside one ``tf.function``."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from benchmarks.workload import Workload, pooling_matrix

__all__ = ["TensorflowProgram", "version"]


def version() -> str:
    """The framework's version."""
    return f"tensorflow {tf.__version__}"


class TensorflowProgram:
    """Forward, backward and update as one function; weights are variables updated in place."""

    def __init__(
        self, workload: Workload, weights: dict[str, np.ndarray], *, jit_compile: bool
    ) -> None:
        _set_threads(workload.threads)
        tf.random.set_seed(workload.seed)
        self.workload = workload
        self.variables = {name: tf.Variable(value) for name, value in weights.items()}
        self.velocity = {
            name: tf.Variable(tf.zeros_like(value)) for name, value in self.variables.items()
        }
        inputs, labels = workload.batch()
        self.batch = (tf.constant(inputs), tf.constant(labels))
        self.train = tf.function(self._train, jit_compile=jit_compile)

    def step(self) -> tf.Tensor:
        """Run one step."""
        return self.train(*self.batch)

    def finish(self) -> None:
        """Wait for everything that was started."""
        tf.test.experimental.sync_devices()

    def _train(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self._logits(inputs))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.variables)
        for name, parameter in self.variables.items():
            gradient = gradients[name] + self.workload.weight_decay * parameter
            velocity = self.velocity[name]
            velocity.assign(self.workload.momentum * velocity + gradient)
            parameter.assign_sub(self.workload.learning_rate * velocity)
        return loss

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        if self.workload.convolutions:
            x = self._features(x)
        for layer in self.workload.dense:
            if layer.dropout and self.workload.dropout:
                x = tf.nn.dropout(x, self.workload.dropout)
            x = tf.matmul(x, self.variables[f"{layer.name}.weight"])
            x = tf.nn.bias_add(x, self.variables[f"{layer.name}.bias"])
            if layer.relu:
                x = tf.nn.relu(x)
        return x

    def _features(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self.workload.convolutions:
            pad = [layer.padding, layer.padding]
            x = tf.nn.conv2d(
                x,
                self.variables[f"{layer.name}.weight"],
                layer.stride,
                [[0, 0], pad, pad, [0, 0]],
            )
            x = tf.nn.relu(tf.nn.bias_add(x, self.variables[f"{layer.name}.bias"]))
            if layer.pool:
                x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        if x.shape[1] != 6:
            pool = pooling_matrix(x.shape[1])
            x = tf.einsum("ih,nhwc,jw->nijc", pool, x, pool)
        return tf.reshape(x, [x.shape[0], -1])


def _set_threads(threads: int) -> None:
    config = tf.config.threading
    if config.get_intra_op_parallelism_threads() != threads:
        config.set_intra_op_parallelism_threads(threads)  # refused once TensorFlow has run
        config.set_inter_op_parallelism_threads(threads)
