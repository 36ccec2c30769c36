"""ResNets for small images, of basic blocks or of bottlenecks.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385.
There are the ResNets for CIFAR of section 4.2, and ResNet-18 and -34 of table 1 with a stem for
small images, as in the literature on lottery tickets. ResNet-104 is the reference's, with
bottlenecks in the stages for CIFAR. Shortcuts that change shape are option B with BatchNorm: a 1×1
convolution of stride 2, with a pooling of one pixel for the stride. Initial weights are those of
the reference (https://github.com/VITA-Group/ToST, pruning_techniques/models; for ResNet-104
LRsI/models/oresnet.py).
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import keras as tf_keras
from lottery_tf.models.pytorch import batch_norm, convolution, he_normal, linear
from lottery_tf.models.shapes import check_halvings

CIFAR_WIDTH, WIDTH = 16, 64
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_EXPANSION = 4  # of a bottleneck: channels of its last convolution / channels of the others


def cifar_resnet(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
    halving_stem: bool = False,
    residual: bool = True,
) -> tf_keras.Model:
    """A ResNet of ``depth`` layers whose stages have ``width`` (16), 2·width and 4·width channels.

    Args:
      depth: 6n + 2.
      input_shape, num_classes, width, keras: as in ``lottery_tf.models.create``.
      halving_stem: whether the stem has stride 2, for a quarter of the cost. It is not in the
        paper.
      residual: False for the paper's plain network, which has no shortcuts.

    Raises:
      UsageError: the image is smaller than 4×4 (8×8 with a halving stem), so that the last
        stage's two halvings leave nothing to halve.
    """
    name = f"{'resnet' if residual else 'plain'}{depth}{'_half' * halving_stem}"
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20. Received: {depth}.")
    width = width or CIFAR_WIDTH
    model = functools.partial(_resnet, keras, name, input_shape, num_classes, width)
    stages, head = (blocks,) * 3, he_normal(keras, "fan_in")
    return model(stages, "fan_in", head, halving_stem=halving_stem, residual=residual)


def bottleneck_resnet(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """The reference's ResNet of bottlenecks for CIFAR, (depth − 2)/6 of them in each of 3 stages.

    Depths from 54 on have the reference's names, which count two convolutions a block. The longest
    path of "ResNet-104" has in fact 155 layers with weights. The stages have ``width`` (16),
    2·width and 4·width channels inside the blocks, and four times as many between them. The
    shortcut of each stage's first block is a 1×1 convolution, in the first stage too.

    Raises:
      UsageError: the image is smaller than 4×4.
    """
    blocks = ((depth - 2) // 6,) * 3
    model = functools.partial(_resnet, keras, f"resnet{depth}", input_shape, num_classes)
    return model(width or CIFAR_WIDTH, blocks, fan="fan_out", bottleneck=True)


def resnet(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """ResNet-18 or -34 with a 3×3 stem of stride 1 and no pooling behind it.

    Four stages of ``width`` (64), 2·width, 4·width and 8·width channels.

    Raises:
      UsageError: the image is smaller than 8×8.
    """
    width, name = width or WIDTH, f"resnet{depth}"
    model = functools.partial(_resnet, keras, name, input_shape, num_classes, width)
    return model(_BLOCKS[depth], fan="fan_out")


def _resnet(
    keras: ModuleType,
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    width: int,
    blocks: Sequence[int],
    fan: str,
    head: Any = None,
    halving_stem: bool = False,
    residual: bool = True,
    bottleneck: bool = False,
) -> tf_keras.Model:
    """A ResNet. ``blocks``: number in each stage. ``fan``: of He normal kernels except ``head``."""
    check_halvings(name, input_shape, len(blocks) - 1 + halving_stem)

    def conv_bn(
        x: tf.Tensor, channels: int, conv_name: str, bn_name: str, size: int = 3, stride: int = 1
    ) -> tf.Tensor:
        x = convolution(
            x, channels, size, stride, conv_name, kernel_initializer=he_normal(keras, fan)
        )
        return batch_norm(x, bn_name)

    def block(x: tf.Tensor, channels: int, stride: int, name: str) -> tf.Tensor:
        # Channels, size and stride of each convolution.
        within = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            within = [(channels, 1, 1), (channels, 3, stride), (channels * _EXPANSION, 1, 1)]
        shortcut, after = x, within[-1][0]
        if residual and (stride > 1 or x.shape[-1] != after):
            if stride > 1:
                # A strided 1×1 convolution of fewer than 16 channels: in TensorFlow 2.21 with
                # oneDNN on AVX-512 its gradient writes beyond its memory.
                pool = keras.layers.AveragePooling2D(1, stride, name=f"{name}_shortcut_pool")
                shortcut = pool(shortcut)
            conv_name, bn_name = f"{name}_shortcut_conv", f"{name}_shortcut_bn"
            shortcut = conv_bn(shortcut, after, conv_name, bn_name, size=1)
        for number, (filters, size, step) in enumerate(within, 1):
            x = conv_bn(x, filters, f"{name}_conv{number}", f"{name}_bn{number}", size, step)
            if residual and number == len(within):
                x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
            x = keras.layers.ReLU(name=f"{name}_relu{number}")(x)
        return x

    images = keras.Input(input_shape, name="image")
    x = conv_bn(images, width, "stem_conv", "stem_bn", stride=2 if halving_stem else 1)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, number in enumerate(blocks):
        for index in range(number):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(x, width * 2**stage, stride, f"stage{stage + 1}_block{index + 1}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, linear(x, num_classes, "head", head), name=name)
