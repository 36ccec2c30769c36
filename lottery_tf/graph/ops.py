"""Tensor functions for tweaks, losses and scores, whatever the backend.

Their names and arguments are those of ``keras.ops``. On TensorFlow, with either Keras, they are
TensorFlow's own functions; on other backends they are those of ``keras.ops``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.graph.compat import is_keras3
from lottery_tf.graph.keras3 import keras as keras3


class _TensorFlow:
    """TensorFlow's functions by the names of ``keras.ops``."""

    abs, cos, exp, log, sqrt, square = tf.abs, tf.cos, tf.exp, tf.math.log, tf.sqrt, tf.square
    minimum, maximum, clip, rsqrt = tf.minimum, tf.maximum, tf.clip_by_value, tf.math.rsqrt
    arctan2, divide_no_nan, round = tf.atan2, tf.math.divide_no_nan, tf.round
    sum, mean, all, any = tf.reduce_sum, tf.reduce_mean, tf.reduce_all, tf.reduce_any
    min, max = tf.reduce_min, tf.reduce_max
    sigmoid, tanh, softplus, relu = tf.sigmoid, tf.tanh, tf.math.softplus, tf.nn.relu
    softmax, log_softmax, stop_gradient = tf.nn.softmax, tf.nn.log_softmax, tf.stop_gradient
    cast, where, cond, convert_to_tensor = tf.cast, tf.where, tf.cond, tf.convert_to_tensor
    stack, reshape, pad, slice, arange, size = (
        tf.stack,
        tf.reshape,
        tf.pad,
        tf.slice,
        tf.range,
        tf.size,
    )
    take, copy, zeros_like = tf.gather, tf.identity, tf.zeros_like

    @staticmethod
    def ndim(x: tf.Tensor) -> int | None:
        return x.shape.rank

    @staticmethod
    def shape(x: tf.Tensor) -> Any:
        """The sizes of the axes: numbers if known, else tensors."""
        dynamic = tf.shape(x)
        if x.shape.rank is None:
            return dynamic
        return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]

    @staticmethod
    def one_hot(x: tf.Tensor, num_classes: int, dtype: Any = None) -> tf.Tensor:
        return tf.one_hot(x, num_classes, dtype=dtype)

    @staticmethod
    def average_pool(
        x: tf.Tensor,
        pool_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
        data_format: str,
    ) -> tf.Tensor:
        spatial = {1: "W", 2: "HW", 3: "DHW"}[len(strides)]
        layout = f"N{spatial}C" if data_format == "channels_last" else f"NC{spatial}"
        return tf.nn.avg_pool(x, pool_size, strides, padding.upper(), layout)


def ops_for(thing: Any) -> Any:
    """The functions for a tensor, or for the computation of a layer, a loss or a model."""
    by_keras = is_keras3(thing) or keras3.ops.is_tensor(thing)
    by_tensorflow = keras3.backend.backend() == "tensorflow"
    return keras3.ops if by_keras and not by_tensorflow else _TensorFlow


def uniform_at(step: Any, seed: int, shape: Sequence[Any]) -> Any:
    """Random numbers in [0, 1) that depend on step, seed and replica. float32, ``shape``.

    Args:
      step: a variable with a whole number.
    """
    if ops_for(step) is keras3.ops:
        return keras3.random.uniform(shape, seed=_At(seed, step))
    replica = tf.distribute.get_replica_context()
    place = replica.replica_id_in_sync_group if replica else 0
    both = tf.stack([seed + tf.cast(place, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_uniform(shape, both)


class _At(keras3.random.SeedGenerator):
    """A generator without state that depends on a seed and a step."""

    def __init__(self, seed: int, step: Any):
        self.seed, self.step = seed, step

    def next(self, ordered: bool = True) -> Any:
        pair = [keras3.ops.cast(each, "uint32") for each in (self.seed, self.step)]
        return keras3.ops.stack(pair)


def shaped_as(like: Any, tensor: Any) -> Any:
    """``tensor`` with the static shape of ``like``, if it is TensorFlow's."""
    if isinstance(tensor, tf.Tensor):
        tensor.set_shape(like.shape)
    return tensor


def is_floating(tensor: Any) -> bool:
    """Whether a tensor's dtype is a floating one."""
    if isinstance(tensor.dtype, tf.DType):
        return tensor.dtype.is_floating
    return keras3.backend.is_float_dtype(keras3.backend.standardize_dtype(tensor.dtype))


def widened(tensor: Any) -> Any:
    """An integer or floating tensor in 64 bits; on JAX, which has no such dtypes, in 32."""
    ops = ops_for(tensor)
    bits = 32 if ops is keras3.ops and keras3.backend.backend() == "jax" else 64
    return ops.cast(tensor, f"{'float' if is_floating(tensor) else 'int'}{bits}")


def as_tensors(structure: Any) -> Any:
    """Arrays, or tensors of TensorFlow, as tensors of Keras 3's backend."""
    return tf.nest.map_structure(
        lambda each: keras3.ops.convert_to_tensor(np.asarray(each)), structure
    )


def is_tensor(thing: Any) -> bool:
    """Whether it is a tensor of TensorFlow, or of Keras 3's backend."""
    return tf.is_tensor(thing) or keras3.ops.is_tensor(thing)
