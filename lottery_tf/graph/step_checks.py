"""Checks of values in a compiled step, which are not known before it runs."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import is_traced
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import is_floating, ops_for


def check_in_step(value: tf.Tensor, good: tf.Tensor, sentence: str, *facts: tf.Tensor) -> tf.Tensor:
    """``value`` if all of ``good`` is true; else the step ends with the error ``sentence``.

    XLA leaves assertions out, and JAX has none. There a floating ``value`` and its derivative
    become NaN, so that the mistake is not silent.

    Args:
      value: of any shape and dtype.
      good: bool, of any shape.
      sentence: what was expected, and what to do.
      *facts: texts and tensors, appended to the sentence.

    Raises:
      UsageError: unless all is good, if it runs eagerly.
      tf.errors.InvalidArgumentError: the same when the compiled step runs; ``step_checks`` turns
        it into a UsageError.
    """
    if ops_for(value) is keras3.ops:
        return _checked_elsewhere(value, good, sentence, *facts)
    good = tf.reduce_all(good)
    if tf.executing_eagerly():
        if not good:
            raise UsageError(_sentence(sentence, *facts))
        return value
    with tf.control_dependencies([tf.debugging.Assert(good, [sentence, *facts])]):
        if not value.dtype.is_floating:
            return tf.identity(value)
        return value * tf.where(good, tf.ones([], value.dtype), float("nan"))


def _checked_elsewhere(value: Any, good: Any, sentence: str, *facts: Any) -> Any:
    """``check_in_step`` on other backends; on JAX, when it traces a step, the value becomes NaN."""
    ops = keras3.ops
    good = ops.all(good)
    if not is_traced(good):
        if not good:
            raise UsageError(_sentence(sentence, *facts))
        return value
    if not is_floating(value):
        return value
    return value * ops.cast(ops.where(good, 1.0, float("nan")), value.dtype)


def _sentence(*parts: Any) -> str:
    return (
        " ".join(each if isinstance(each, str) else str(np.asarray(each)) for each in parts) + "."
    )


@contextlib.contextmanager
def step_checks() -> Iterator[None]:
    """Turns an assertion that ends a step within the block into a UsageError.

    The same for data with another number of batches than they claim to have."""
    try:
        yield
    except tf.errors.FailedPreconditionError as error:
        told = re.search(r"Input dataset was expected to contain[^.\n]*", str(error))
        if told is None:
            raise
        raise UsageError(
            f"Expected as many batches as assert_cardinality says; TensorFlow says: {told[0]}. "
            "Give the right number, or endless data and steps_per_epoch."
        ) from error
    except tf.errors.InvalidArgumentError as error:
        failed = re.search(r"assertion failed: ((?:\[[^]]*\] ?)+)", str(error))
        if failed is None:
            raise
        parts = [part for part in re.findall(r"\[([^]]*)\]", failed[1]) if part]
        raise UsageError(" ".join(parts) + ".") from error
