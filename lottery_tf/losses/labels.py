"""Checks of labels, and weights of classes, before a training step sees them."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of, spec_of
from lottery_tf.graph.layers import keys_of_outputs
from lottery_tf.graph.ops import ops_for
from lottery_tf.losses.binary_cross_entropy import (
    BinaryCrossEntropy,
    BinaryCrossEntropy3,
    check_yes_or_no,
)
from lottery_tf.losses.cross_entropy import CrossEntropy, CrossEntropy3, check_classes
from lottery_tf.losses.outputs import Outputs, outputs_of


def checked_labels(data: tf.data.Dataset, model: keras.Model, loss: Any) -> tf.data.Dataset:
    """``data`` with labels that are checked before the training step, so also under XLA.

    Args:
      data: batches (inputs, labels, …).
      model: the model to train.
      loss: a loss, or a list or dictionary with one for each output. Labels are checked for
        losses that take integer classes, or numbers from 0 to 1.
    """
    names = keys_of_outputs(model)
    outputs = dict(zip(names, map(spec_of, model.outputs), strict=True))
    if isinstance(loss, dict):
        losses = loss
    elif isinstance(loss, list | tuple):
        losses = dict(zip(names, loss, strict=False))
    else:
        losses = dict.fromkeys(names, loss)

    def checked(name: str, labels: Any) -> Any:
        output, loss = outputs.get(name), losses.get(name)
        if output is None or not isinstance(labels, tf.Tensor):
            return labels
        of = keras_of(model)
        loss = _named(loss, of)
        _check_fits(labels, loss, output, of)
        if labels.dtype == tf.string:
            return labels
        if _takes_yes_or_no(loss, of):
            return check_yes_or_no(labels, labels)
        if not _takes_classes(loss, of):
            return labels
        same_rank = labels.shape.rank == output.shape.rank
        if same_rank and labels.shape[-1] in (None, output.shape[-1]):
            return labels  # one-hot, or of unknown shape
        return check_classes(labels, labels, output.shape[-1])

    def of_batch(x: Any, y: Any, *rest: Any) -> tuple[Any, ...]:
        parts = tf.nest.flatten(y)
        if isinstance(y, dict):
            y = {name: checked(name, labels) for name, labels in y.items()}
        elif len(parts) == len(names):
            y = tf.nest.pack_sequence_as(y, list(map(checked, names, parts)))
        return (x, y, *rest)

    return data.map(of_batch) if are_labelled(data) else data


def _check_fits(labels: tf.Tensor, loss: Any, output: Any, of: ModuleType) -> None:
    """Raises UsageError for texts, and for classes and one-hot rows where the loss wants the other.

    Keras raises errors of many kinds, which speak of ranks and casts. A subclass of the user's may
    take labels of another form than its parent.
    """
    losses, classes = of.losses, output.shape[-1]

    def is_keras_own(kind: type, function: Any) -> bool:
        return type(loss) is kind or loss is function

    numbered = is_keras_own(
        losses.SparseCategoricalCrossentropy, losses.sparse_categorical_crossentropy
    )
    one_hot = is_keras_own(losses.CategoricalCrossentropy, losses.categorical_crossentropy)
    if labels.dtype == tf.string:
        ours = (CrossEntropy, CrossEntropy3, BinaryCrossEntropy, BinaryCrossEntropy3)
        binary = is_keras_own(losses.BinaryCrossentropy, losses.binary_crossentropy)
        if numbered or one_hot or binary or isinstance(loss, ours):
            raise UsageError(
                "Expected labels as numbers; they are texts: give the number of each one's class, "
                "as by numpy.unique(labels, return_inverse=True)."
            )
        return
    if labels.shape.rank is None or classes in (None, 1):
        return
    same_rank = labels.shape.rank == len(output.shape)
    rows = same_rank and labels.shape[-1] == classes
    if numbered and rows:
        raise UsageError(
            f"Expected class numbers as labels for SparseCategoricalCrossentropy; they are rows of "
            f"{classes} numbers, {tuple(labels.shape)}: use CategoricalCrossentropy."
        )
    if one_hot and not (same_rank and labels.shape[-1] in (None, classes)):
        raise UsageError(
            f"Expected one-hot rows of {classes} numbers as labels for CategoricalCrossentropy; "
            f"they are of shape {tuple(labels.shape)}: use SparseCategoricalCrossentropy for class "
            "numbers."
        )


def are_labelled(data: Any) -> bool:
    """Whether batches have labels beside the inputs, by the ``element_spec`` of ``data``."""
    return isinstance(data.element_spec, tuple) and len(data.element_spec) > 1


def _named(loss: Any, of: ModuleType) -> Any:
    """The loss; None if there is none, or if no loss has the name."""
    try:
        return of.losses.get(loss)
    except ValueError:
        return None  # compile says what is wrong with it


def _takes_classes(loss: Any, of: ModuleType) -> bool:
    """Whether a loss takes integer classes, without an ``ignore_class``."""
    if isinstance(loss, of.losses.SparseCategoricalCrossentropy):
        return loss.get_config().get("ignore_class") is None
    ours = isinstance(loss, CrossEntropy | CrossEntropy3)
    return ours or loss is of.losses.sparse_categorical_crossentropy


def _takes_yes_or_no(loss: Any, of: ModuleType) -> bool:
    """Whether a loss takes numbers from 0 to 1."""
    theirs = (of.losses.BinaryCrossentropy, BinaryCrossEntropy, BinaryCrossEntropy3)
    return isinstance(loss, theirs) or loss is of.losses.binary_crossentropy


def with_class_weight(
    data: tf.data.Dataset, weights: Mapping[int, float] | None, model: keras.Model
) -> tf.data.Dataset:
    """``data`` with the weights of the classes, multiplied with any weights of the examples.

    Args:
      data: batches (inputs, labels, …). Labels are whole numbers or one-hot rows, one for each
        example or for each place in it.
      weights: class → weight; None leaves the data as they are.
      model: a model with one output.

    Raises:
      UsageError: for a model of several outputs, for data without labels, and if a class from 0
        on has no weight.
    """
    if weights is None:
        return data
    if len(model.outputs) != 1:
        raise UsageError(
            f"Expected a model with one output for class_weight; '{model.name}' has "
            f"{len(model.outputs)}: give weights of the examples as the third part of the data."
        )
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or tf.nest.is_nested(spec[1]):
        raise UsageError("Expected data with labels, (inputs, labels), for class_weight.")
    classes = model.outputs[0].shape[-1]
    if classes != 1 and Outputs.SIGMOIDS in outputs_of(model).values():
        raise UsageError(
            f"Expected a model of exclusive classes for class_weight; '{model.name}' gives each "
            "label a probability of its own: give weights of the examples as the third part of "
            "the data."
        )
    classes = 2 if classes == 1 else classes
    if sorted(weights) != list(range(classes)):
        raise UsageError(
            f"Expected class_weight with a weight for each class, the whole numbers from 0 to "
            f"{classes - 1}; got weights for {list(weights)}."
        )
    table = tf.constant([float(weights[n]) for n in range(classes)])
    rank, single = len(model.outputs[0].shape), model.outputs[0].shape[-1] == 1

    def weighted(x: Any, y: tf.Tensor, *of_examples: tf.Tensor) -> tuple[Any, ...]:
        if y.shape.rank == rank and y.shape[-1] == classes and not single:
            number = tf.argmax(y, axis=-1)
        else:
            column = y.shape.rank == rank and y.shape[-1] == 1
            number = tf.cast(y[..., 0] if column else y, tf.int64)
        # The loss tells of labels that are not classes; the table has no entry for them.
        found = tf.gather(table, tf.clip_by_value(number, 0, classes - 1))
        for given in of_examples:
            found *= aligned_to(tf.cast(given, found.dtype), found)
        return x, y, found

    return data.map(weighted)


def aligned_to(weights: Any, losses: Any) -> Any:
    """Weights of examples, reshaped to be multiplied with their losses."""
    ops = ops_for(losses)
    if ops.ndim(weights) == ops.ndim(losses) + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    for _ in range(ops.ndim(losses) - ops.ndim(weights)):
        weights = weights[..., None]
    return weights
