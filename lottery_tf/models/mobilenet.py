"""MobileNet for small images.

Howard et al., https://arxiv.org/abs/1704.04861, table 1. Its strides reduce a CIFAR image to 2×2
pixels, as is usual in PyTorch (https://github.com/kuangliu/pytorch-cifar). Initial weights are
PyTorch's default ones.
"""

from collections.abc import Sequence
from types import ModuleType

from lottery_tf.graph.compat import keras as tf_keras
from lottery_tf.models.pytorch import (
    batch_norm,
    convolution,
    default_uniform,
    depthwise_convolution,
    linear,
)
from lottery_tf.models.shapes import check_halvings

# Channels, as multiples of the width, and stride of each block.
_BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *5 * ((16, 1),), (32, 2), (32, 1))


def mobilenet(
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """A 3×3 convolution of ``width`` (32) channels and 13 blocks of up to 32 times as many.

    A block is a 3×3 depthwise convolution and a 1×1 convolution, each followed by a BatchNorm and
    a ReLU.

    Raises:
      UsageError: the image is smaller than 16×16, so that four halvings leave nothing.
    """
    check_halvings("mobilenet", input_shape, 4)
    width = width or 32
    images = keras.Input(input_shape, name="image")
    x = convolution(
        *(images, width, 3, 1, "stem_conv"),
        kernel_initializer=default_uniform(keras, 9 * input_shape[-1]),
    )
    x = keras.layers.ReLU(name="stem_relu")(batch_norm(x, "stem_bn"))
    for number, (multiple, stride) in enumerate(_BLOCKS, start=1):
        name = f"block{number}"
        x = depthwise_convolution(
            *(x, 3, stride, f"{name}_depthwise"), depthwise_initializer=default_uniform(keras, 9)
        )
        x = keras.layers.ReLU(name=f"{name}_relu1")(batch_norm(x, f"{name}_bn1"))
        x = convolution(
            *(x, multiple * width, 1, 1, f"{name}_conv"),
            kernel_initializer=default_uniform(keras, x.shape[-1]),
        )
        x = keras.layers.ReLU(name=f"{name}_relu2")(batch_norm(x, f"{name}_bn2"))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, linear(x, num_classes, "head"), name="mobilenet")
