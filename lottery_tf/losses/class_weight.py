"""Weights of classes as weights of examples, as Keras' ``fit`` makes them."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.losses.outputs import Outputs, outputs_of


def with_class_weight(
    data: tf.data.Dataset, weights: Mapping[int, float] | None, model: keras.Model
) -> tf.data.Dataset:
    """``data`` whose examples have the weights of their classes, beside those that they have.

    Args:
      data: batches (inputs, labels, …), labels as whole numbers or one-hot rows.
      weights: class → weight; None leaves the data as they are.
      model: with one output.

    Raises:
      UsageError: for a model of several outputs, data without labels, and unless there is a weight
        for each class from 0 on.
    """
    if weights is None:
        return data
    if len(model.outputs) != 1:
        raise UsageError(
            f"Expected a model with one output for class_weight; '{model.name}' has "
            f"{len(model.outputs)}: give the weights of the examples as third part of the data."
        )
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or tf.nest.is_nested(spec[1]):
        raise UsageError("Expected data with labels, (inputs, labels), for class_weight.")
    classes = model.outputs[0].shape[-1]
    if classes != 1 and Outputs.SIGMOIDS in outputs_of(model).values():
        raise UsageError(
            f"Expected outputs of which one is right for class_weight; '{model.name}' gives each "
            "label a probability of its own: give the weights of the examples as third part of "
            "the data."
        )
    classes = 2 if classes == 1 else classes
    if sorted(weights) != list(range(classes)):
        raise UsageError(
            f"Expected class_weight with a weight for each class, the whole numbers from 0 to "
            f"{classes - 1}; got those of {list(weights)}."
        )
    table = tf.constant([float(weights[n]) for n in range(classes)])

    def weighted(x: Any, y: tf.Tensor, *of_examples: tf.Tensor) -> tuple[Any, ...]:
        one_hot = y.shape.rank == 2 and y.shape[-1] == classes and classes > 1
        number = tf.argmax(y, axis=-1) if one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
        found = tf.gather(table, number)
        for given in of_examples:
            found *= tf.cast(tf.reshape(given, [-1]), found.dtype)
        return x, y, found

    return data.map(weighted)
