"""The arithmetic of distillation: logits from models' outputs, and the divergence of two."""

from typing import Any

import tensorflow as tf

from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import ops_for


def divergence(student: Any, teacher: Any) -> Any:
    """KL(softmax(teacher) ‖ softmax(student)) of each row.

    The gradient by ``student`` is softmax(student) − softmax(teacher), exactly 0 if the two are
    equal. TensorFlow's own gradient would keep the rounding error of Σ softmax(teacher) − 1. There
    is no gradient by ``teacher``.

    Args:
      student, teacher: logits [batch, C] of one dtype; a teacher's may be −∞.

    Returns:
      [batch], of that dtype.
    """
    ops = ops_for(student)
    return _divergence(student, teacher) if ops is not keras3.ops else _elsewhere(student, teacher)


@tf.custom_gradient
def _divergence(student: tf.Tensor, teacher: tf.Tensor) -> Any:
    log_student, log_teacher = tf.nn.log_softmax(student), tf.nn.log_softmax(teacher)
    by_class = tf.math.multiply_no_nan(log_teacher - log_student, tf.exp(log_teacher))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        difference = tf.nn.softmax(student) - tf.nn.softmax(teacher)
        return upstream[..., None] * difference, None

    return tf.reduce_sum(by_class, axis=-1), gradient


def _elsewhere(student: Any, teacher: Any) -> Any:
    """The divergence by ``keras.ops``: its value, plus a term of value 0 that has its gradient."""
    ops = keras3.ops
    log_student, log_teacher = ops.log_softmax(student), ops.log_softmax(teacher)
    share = ops.exp(log_teacher)
    by_class = ops.where(share > 0, (log_teacher - log_student) * share, 0.0)
    difference = ops.softmax(student) - ops.softmax(teacher)
    slope = ops.sum(ops.stop_gradient(difference) * student, axis=-1)
    value = ops.sum(by_class, axis=-1)
    return ops.stop_gradient(value) + (slope - ops.stop_gradient(slope))


def logits_of(probabilities: tf.Tensor, smallest: float) -> tf.Tensor:
    """Logits of ``probabilities`` [batch, C], up to a constant for each row.

    If they come from a softmax of Keras, they are its inputs, as in Keras' own losses. Else they
    are log(max(p, ``smallest``)), in float32 or wider.
    """
    kept = _given_to("Softmax", probabilities)
    if kept is not None:
        return kept
    ops, wide = _widened(probabilities)
    return ops.log(ops.maximum(wide, smallest))


def logits_of_sigmoids(probabilities: tf.Tensor, smallest: float) -> tf.Tensor:
    """Logits of ``probabilities`` of any shape, each on its own.

    If they come from a sigmoid of Keras, they are its inputs. Else they are log p − log(1 − p),
    with p and 1 − p at least ``smallest``, in float32 or wider.
    """
    kept = _given_to("Sigmoid", probabilities)
    if kept is not None:
        return kept
    ops, wide = _widened(probabilities)
    yes, no = (ops.log(ops.maximum(each, smallest)) for each in (wide, 1 - wide))
    return yes - no


def _given_to(function: str, outputs: tf.Tensor) -> tf.Tensor | None:
    """The input of a function of Keras, if it is known to have made the outputs; else None."""
    kept = getattr(outputs, "_keras_logits", None)
    if kept is not None:
        return kept
    known = tf.is_symbolic_tensor(outputs) and outputs.op.type == function
    return outputs.op.inputs[0] if known else None


def _widened(probabilities: tf.Tensor) -> tuple[Any, tf.Tensor]:
    ops = ops_for(probabilities)
    return ops, ops.cast(probabilities, at_least_float32(probabilities.dtype))


def at_least_float32(dtype: Any) -> Any:
    """The dtype, but float32 for floating dtypes of half its size; as the backend's dtype."""
    size = dtype.size if isinstance(dtype, tf.DType) else dtype.itemsize
    return "float32" if size < 4 else dtype
