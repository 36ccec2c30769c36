"""Layers that start, normalise and pad as PyTorch's, which the papers' networks were trained with.

Keras differs in three ways. A convolution that halves an even image pads it below and to the right
only, a pixel off its 1×1 shortcut. Its BatchNorm lags far behind in short training. Its normal
distributions are cut off at two standard deviations.
"""

from types import ModuleType
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import keras, keras_of


def he_normal(keras: ModuleType, mode: str) -> Any:
    """N(0, 2/fan), ``torch.nn.init.kaiming_normal_``; ``mode`` is "fan_in" or "fan_out"."""
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


def default_uniform(keras: ModuleType, fan_in: int) -> Any:
    """U(−b, b) with b = 1/√fan_in, PyTorch's default for kernels and biases."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def convolution(
    x: tf.Tensor, channels: int, size: int, stride: int, name: str, **config: Any
) -> tf.Tensor:
    """A square convolution that pads all sides of an image equally; no bias by default."""
    config = {"use_bias": False, **config}
    padded, padding = _padded(x, size, stride, name)
    return keras_of(x).layers.Conv2D(channels, size, stride, padding, name=name, **config)(padded)


def depthwise_convolution(
    x: tf.Tensor, size: int, stride: int, name: str, **config: Any
) -> tf.Tensor:
    """A square depthwise convolution, padded in the same way."""
    config = {"use_bias": False, **config}
    padded, padding = _padded(x, size, stride, name)
    return keras_of(x).layers.DepthwiseConv2D(size, stride, padding, name=name, **config)(padded)


def batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    """BatchNorm with PyTorch's epsilon and momentum (0.9 as Keras defines it)."""
    return keras_of(x).layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def linear(
    x: tf.Tensor, units: int, name: str, kernel: keras.initializers.Initializer | None = None
) -> tf.Tensor:
    """A dense layer. Its bias, and its kernel unless ``kernel`` is given, start as in PyTorch."""
    layers, bias = keras_of(x).layers, default_uniform(keras_of(x), x.shape[-1])
    kernel = kernel or default_uniform(keras_of(x), x.shape[-1])
    return layers.Dense(units, kernel_initializer=kernel, bias_initializer=bias, name=name)(x)


def _padded(x: tf.Tensor, size: int, stride: int, name: str) -> tuple[tf.Tensor, str]:
    """``x`` and Keras' padding for it. Only a stride above 1 needs a padding layer."""
    if stride == 1 or size == 1:
        return x, "same"
    return keras_of(x).layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x), "valid"
