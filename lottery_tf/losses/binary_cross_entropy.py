"""The cross-entropy of labels that are each yes or no, with soft labels if asked for."""

from types import ModuleType
from typing import TypeAlias

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import ops_for, widened
from lottery_tf.graph.step_checks import check_in_step
from lottery_tf.losses.cross_entropy import SoftLabelled
from lottery_tf.losses.divergence import divergence, logits_of_sigmoids
from lottery_tf.losses.outputs import Outputs


class _BinaryCrossEntropy(SoftLabelled):
    """Binary cross-entropy for one unit or several labels; in training with soft labels, if asked.

    ``BinaryCrossEntropy`` is a loss of tf_keras, ``BinaryCrossEntropy3`` the same of Keras 3.
    Arguments and distillation are those of ``SoftLabelled``, where p is the sigmoid. Each label
    counts as two classes of its own. The loss is the mean over the labels, as in Keras.

    With smoothing ε the target is 1−ε for yes and ε for no, the paper's form with two classes.
    Keras' own ``label_smoothing`` of 2ε equals this ε.

    Call arguments:
      y_true: 0, 1 or probabilities between, [batch, L]; for one unit also [batch].
      y_pred: float [batch, L].

    Raises:
      UsageError: as ``SoftLabelled``, and for labels of another shape.
      tf.errors.InvalidArgumentError: for labels outside [0, 1]. Under XLA and JAX, which cannot
        raise, the loss is NaN. With torch it is a UsageError.
    """

    called = "binary_cross_entropy"
    # If the kind is unknown, the numbers alone do not tell probabilities from logits.
    not_taught_by = (Outputs.PROBABILITIES, Outputs.UNKNOWN)

    def _hard(self, y_true: tf.Tensor, y_pred: tf.Tensor, smoothing: float) -> tf.Tensor:
        """The mean cross-entropy over an example's labels. [batch]."""
        ops = ops_for(y_pred)
        target = as_rows(ops.convert_to_tensor(y_true), y_pred)
        target = check_yes_or_no(ops.cast(target, y_pred.dtype), target)
        if smoothing:
            target = target * (1 - smoothing) + (1 - target) * smoothing
        return self.of.losses.binary_crossentropy(target, y_pred, from_logits=self.from_logits)

    def logits(self, y_pred: tf.Tensor) -> tf.Tensor:
        return logits_of_sigmoids(y_pred, self.of.backend.epsilon())

    def _divergence(self, student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
        """The mean divergence over an example's labels. [batch]."""
        ops = ops_for(student)

        def classes(logits: tf.Tensor) -> tf.Tensor:
            """Logits of yes and no; infinite ones are clipped to what a softmax can take."""
            return ops.stack([ops.clip(logits, -1e30, 1e30), ops.zeros_like(logits)], axis=-1)

        return ops.mean(divergence(classes(student), classes(teacher)), axis=-1)


def as_rows(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Labels in the shape of outputs [batch, L]; a UsageError if they do not fit."""
    ops = ops_for(outputs)
    if ops.ndim(labels) is None:  # they come from tf.py_function
        return tf.reshape(labels, tf.shape(outputs))
    if ops.ndim(labels) == ops.ndim(outputs) - 1 and outputs.shape[-1] == 1:
        labels = labels[..., None]
    given, wanted = labels.shape, outputs.shape
    sizes = zip(tuple(given)[1:], tuple(wanted)[1:], strict=False)
    if len(given) != len(wanted) or any(a != b for a, b in sizes if None not in (a, b)):
        raise UsageError(
            f"Expected labels of shape {tuple(wanted)}, a number in [0, 1] for each output of the "
            f"model; got {tuple(given)}: give a column for each output."
        )
    # How many labels a generator gives is not known before they come.
    return tf.ensure_shape(labels, wanted) if None in tuple(given)[1:] else labels


def check_yes_or_no(value: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """``value``, unless one of the ``labels`` is outside [0, 1]; then as ``check_in_step``."""
    ops, labels = ops_for(labels), widened(labels)
    return check_in_step(
        value,
        (labels >= 0) & (labels <= 1),
        "Expected labels from 0 to 1 for the binary cross-entropy (0 is no, 1 is yes); map them "
        "so. The batch has labels from",
        *(ops.min(labels), "to", ops.max(labels)),
    )


@keras.saving.register_keras_serializable("lottery_tf")
class BinaryCrossEntropy(_BinaryCrossEntropy, keras.losses.Loss):
    __doc__ = _BinaryCrossEntropy.__doc__
    of = keras


@keras3.saving.register_keras_serializable("lottery_tf", "BinaryCrossEntropy")
class BinaryCrossEntropy3(_BinaryCrossEntropy, keras3.losses.Loss):
    __doc__ = _BinaryCrossEntropy.__doc__
    of = keras3


AnyBinaryCrossEntropy: TypeAlias = BinaryCrossEntropy | BinaryCrossEntropy3


def binary_cross_entropy(of: ModuleType) -> type[AnyBinaryCrossEntropy]:
    """Our class of the binary cross-entropy for that Keras."""
    return BinaryCrossEntropy3 if of is keras3 else BinaryCrossEntropy
