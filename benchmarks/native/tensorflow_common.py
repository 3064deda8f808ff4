"""What the TensorFlow programs share: a step on variables inside one ``tf.function``."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from benchmarks.native.tensorflow_layers import Layers
from benchmarks.workload import Workload

__all__ = ["TensorflowProgram", "set_threads", "version"]


def version() -> str:
    """The framework's version."""
    return f"tensorflow {tf.__version__}"


class TensorflowProgram:
    """A training or evaluation step as one function; weights are variables updated in place."""

    def __init__(
        self, workload: Workload, weights: dict[str, np.ndarray], *, jit_compile: bool
    ) -> None:
        set_threads(workload.threads)
        tf.random.set_seed(workload.seed)
        self.workload = workload
        self.variables = {name: tf.Variable(value) for name, value in weights.items()}
        self.layers = Layers(workload.network(), self.variables, training=workload.is_training)
        inputs, labels = workload.batch()
        self.batch = (tf.constant(inputs), tf.constant(labels))
        function = self._loss
        if workload.is_training:
            self.velocity = {
                name: tf.Variable(tf.zeros_like(value)) for name, value in self.variables.items()
            }
            function = self._train
        # Nothing here depends on values, and AutoGraph cannot read match statements.
        self.function = tf.function(function, jit_compile=jit_compile, autograph=False)

    def step(self) -> tf.Tensor:
        """Run one step."""
        return self.function(*self.batch)

    def finish(self) -> None:
        """Wait for everything that was started."""
        tf.test.experimental.sync_devices()

    def _loss(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = self.layers(inputs)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def _train(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, labels)
        gradients = tape.gradient(loss, self.variables)
        for name, parameter in self.variables.items():
            gradient = gradients[name] + self.workload.weight_decay * parameter
            velocity = self.velocity[name]
            velocity.assign(self.workload.momentum * velocity + gradient)
            parameter.assign_sub(self.workload.learning_rate * velocity)
        return loss


def set_threads(threads: int) -> None:
    """Size TensorFlow's thread pools."""
    config = tf.config.threading
    if config.get_intra_op_parallelism_threads() != threads:
        config.set_intra_op_parallelism_threads(threads)  # refused once TensorFlow has run
        config.set_inter_op_parallelism_threads(threads)
