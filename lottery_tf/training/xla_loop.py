"""Many training steps as one loop inside XLA."""

from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import count_steps, keras, steps_per_execution, train_by


def steps_in_one_loop(model: keras.Model) -> None:
    """Makes ``model.fit`` run the steps of an execution as one loop inside XLA.

    Keras calls the compiled function once for each step. Each call passes all variables in and out,
    which takes a third of the time of a small network. Logs, callbacks and weights are the same.
    Keras' own loop is used for batches of a shape that is not known beforehand.

    Args:
      model: a model compiled with ``jit_compile=True`` and ``steps_per_execution`` above 1, for a
        single device. Compiling it again undoes this.
    """
    one_by_one = model.make_train_function()
    most = int(steps_per_execution(model).numpy())

    @tf.function(jit_compile=True)
    def train(batches: Any, steps: tf.Tensor) -> Any:
        for step in tf.range(steps):
            logs = model.train_step(tf.nest.map_structure(lambda each, i=step: each[i], batches))
        return logs

    @tf.function
    def in_one_loop(iterator: Any) -> Any:
        steps = tf.cast(steps_per_execution(model), tf.int32)
        spec = iterator.element_spec
        # Always ``most`` rows, with zeros after a shorter last execution: then XLA compiles once.
        arrays = [
            tf.TensorArray(each.dtype, most, element_shape=each.shape)
            for each in tf.nest.flatten(spec)
        ]
        for step in tf.range(steps):
            batch = tf.nest.flatten(next(iterator))
            arrays = [array.write(step, each) for array, each in zip(arrays, batch, strict=True)]
        logs = train(tf.nest.pack_sequence_as(spec, [array.stack() for array in arrays]), steps)
        count_steps(model, steps)
        return logs

    def train_function(iterator: Any) -> Any:
        specs = tf.nest.flatten(iterator.element_spec)
        known = all(spec.shape.is_fully_defined() for spec in specs)
        return (in_one_loop if known else one_by_one)(iterator)

    train_by(model, train_function)
