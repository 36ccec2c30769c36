"""The arithmetic of distillation: logits from what models give, and the divergence of two."""

from typing import Any

import tensorflow as tf


@tf.custom_gradient
def divergence(student: tf.Tensor, teacher: tf.Tensor) -> Any:
    """KL(softmax(teacher) ‖ softmax(student)) of each row.

    The gradient by ``student`` is softmax(student) − softmax(teacher), exactly 0 where the two are
    equal: differentiated by TensorFlow it would keep the rounding of Σ softmax(teacher) − 1. The
    teacher has none.

    Args:
      student, teacher: logits [batch, C] of one dtype; a teacher's may be −∞.

    Returns:
      [batch], of that dtype.
    """
    log_student, log_teacher = tf.nn.log_softmax(student), tf.nn.log_softmax(teacher)
    by_class = tf.math.multiply_no_nan(log_teacher - log_student, tf.exp(log_teacher))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        difference = tf.nn.softmax(student) - tf.nn.softmax(teacher)
        return upstream[..., None] * difference, None

    return tf.reduce_sum(by_class, axis=-1), gradient


def logits_of(probabilities: tf.Tensor, smallest: float) -> tf.Tensor:
    """Logits of ``probabilities`` [batch, C], up to a constant a row.

    Those that a softmax of Keras was given, if it was one, as Keras' own losses take them; else
    the logarithms, of at least ``smallest``, in float32 or wider.
    """
    kept = getattr(probabilities, "_keras_logits", None)
    if kept is not None:
        return kept
    if tf.is_symbolic_tensor(probabilities) and probabilities.op.type == "Softmax":
        return probabilities.op.inputs[0]
    wide = tf.cast(probabilities, at_least_float32(probabilities.dtype))
    return tf.math.log(tf.maximum(wide, smallest))


def at_least_float32(dtype: tf.DType) -> tf.DType:
    """float32 in the place of the floating dtypes of half its size."""
    return tf.float32 if dtype.size < 4 else dtype
