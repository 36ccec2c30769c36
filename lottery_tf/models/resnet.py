"""ResNets of basic blocks for small images.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385: those
for CIFAR of section 4.2, and ResNet-18 and -34 of table 1 with a stem for small images, as the
literature on lottery tickets trains them. Shortcuts that change shape are option B, with BatchNorm:
a 1×1 convolution of stride 2, the stride as a pooling of one pixel. Weights are drawn as the
reference draws those that it prunes (https://github.com/VITA-Group/ToST,
pruning_techniques/models).
"""

import functools
from collections.abc import Sequence

import tensorflow as tf

from lottery_tf.graph.compat import keras
from lottery_tf.models.pytorch import batch_norm, convolution, he_normal, linear
from lottery_tf.models.shapes import check_halvings

CIFAR_WIDTH, WIDTH = 16, 64
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def cifar_resnet(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    halving_stem: bool = False,
    residual: bool = True,
) -> keras.Model:
    """A ResNet of ``depth`` layers whose stages have ``width`` (16), 2·width and 4·width channels.

    Args:
      depth: 6n + 2.
      input_shape, num_classes, width: as in ``lottery_tf.models.create``.
      halving_stem: whether the stem has stride 2, for a quarter of the cost; not in the paper.
      residual: False for the paper's plain network, which has no shortcuts.

    Raises:
      UsageError: the image is smaller than 4×4 (8×8 with a halving stem), so that the last
        stage's two halvings leave nothing to halve.
    """
    name = f"{'resnet' if residual else 'plain'}{depth}{'_half' * halving_stem}"
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20. Received: {depth}.")
    model = functools.partial(_resnet, name, input_shape, num_classes, width or CIFAR_WIDTH)
    stages, head = (blocks,) * 3, he_normal("fan_in")
    return model(stages, "fan_in", head, halving_stem=halving_stem, residual=residual)


def resnet(
    depth: int, input_shape: Sequence[int], num_classes: int, width: int | None = None
) -> keras.Model:
    """ResNet-18 or -34 with a 3×3 stem of stride 1 and no pooling behind it.

    Four stages of ``width`` (64), 2·width, 4·width and 8·width channels.

    Raises:
      UsageError: the image is smaller than 8×8.
    """
    model = functools.partial(_resnet, f"resnet{depth}", input_shape, num_classes, width or WIDTH)
    return model(_BLOCKS[depth], fan="fan_out")


def _resnet(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    width: int,
    blocks: Sequence[int],
    fan: str,
    head: keras.initializers.Initializer | None = None,
    halving_stem: bool = False,
    residual: bool = True,
) -> keras.Model:
    """``blocks``: their number in each stage; ``fan``: of the He normal kernels but ``head``."""
    check_halvings(name, input_shape, len(blocks) - 1 + halving_stem)

    def conv_bn(
        x: tf.Tensor, channels: int, conv_name: str, bn_name: str, size: int = 3, stride: int = 1
    ) -> tf.Tensor:
        x = convolution(x, channels, size, stride, conv_name, kernel_initializer=he_normal(fan))
        return batch_norm(x, bn_name)

    def basic_block(x: tf.Tensor, channels: int, stride: int, name: str) -> tf.Tensor:
        shortcut = x
        if residual and stride > 1:
            # The gradient of a 1×1 convolution with a stride, of fewer than 16 channels, writes
            # beyond its memory in TensorFlow 2.21 with oneDNN on AVX-512.
            pool = keras.layers.AveragePooling2D(1, stride, name=f"{name}_shortcut_pool")
            conv_name, bn_name = f"{name}_shortcut_conv", f"{name}_shortcut_bn"
            shortcut = conv_bn(pool(x), channels, conv_name, bn_name, size=1)
        x = conv_bn(x, channels, f"{name}_conv1", f"{name}_bn1", stride=stride)
        x = keras.layers.ReLU(name=f"{name}_relu1")(x)
        x = conv_bn(x, channels, f"{name}_conv2", f"{name}_bn2")
        if residual:
            x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
        return keras.layers.ReLU(name=f"{name}_relu2")(x)

    images = keras.Input(input_shape, name="image")
    x = conv_bn(images, width, "stem_conv", "stem_bn", stride=2 if halving_stem else 1)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, number in enumerate(blocks):
        for block in range(number):
            stride = 2 if stage > 0 and block == 0 else 1
            x = basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, linear(x, num_classes, "head", head), name=name)
