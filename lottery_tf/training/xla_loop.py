"""Many training steps as one loop inside XLA."""

from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import count_steps, keras, steps_per_execution, train_by


def steps_in_one_loop(model: keras.Model) -> None:
    """Makes ``model.fit`` run the steps of an execution as one loop inside XLA.

    Keras calls the compiled step once a step, and each call hands all variables over and back: a
    third of the time of a small network. Logs, callbacks and weights are the same. Batches whose
    shape is not known beforehand take Keras' own loop.

    Args:
      model: compiled with ``jit_compile=True`` and ``steps_per_execution`` above 1, for a single
        device; compiling it again undoes this.
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
        # Always of ``most`` rows, those of a shorter last execution left zero: one compilation.
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
