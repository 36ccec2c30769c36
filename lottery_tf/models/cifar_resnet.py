"""The ResNets for CIFAR, of depth 6n + 2: three stages of n basic blocks.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385,
section 4.2, with option B at the two shortcuts that change shape: a 1×1 convolution with
BatchNorm. A convolution of stride 2 pads an even image at its lower right only, as Keras does.
BatchNorm has PyTorch's momentum and epsilon, which the papers on lottery tickets trained with;
Keras's own momentum lags far behind in short training.
"""

from collections.abc import Sequence

from lottery_tf.keras import keras
from lottery_tf.models.shapes import check_halvings

WIDTH = 16


def cifar_resnet(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    halving_stem: bool = False,
) -> keras.Model:
    """A ResNet of ``depth`` layers whose stages have ``width`` (16), 2·width and 4·width channels.

    Args:
      depth: 6n + 2.
      input_shape, num_classes, width: as in ``lottery_tf.models.create``.
      halving_stem: whether the stem has stride 2, for a quarter of the cost; not in the paper.

    Raises:
      UsageError: the image is smaller than 4×4 (8×8 with a halving stem), so that the last
        stage's two halvings leave nothing to halve.
    """
    name = f"resnet{depth}_half" if halving_stem else f"resnet{depth}"
    check_halvings(name, input_shape, 3 if halving_stem else 2)
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20. Received: {depth}.")
    width = width or WIDTH
    images = keras.Input(input_shape, name="image")
    x = _conv_bn(images, width, "stem_conv", "stem_bn", stride=2 if halving_stem else 1)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer="he_normal", name="head")(x)
    return keras.Model(images, logits, name=name)


def _basic_block(x, channels: int, stride: int, name: str):
    shortcut = x
    if stride > 1:
        shortcut = _conv_bn(
            x, channels, f"{name}_shortcut_conv", f"{name}_shortcut_bn", size=1, stride=stride
        )
    x = _conv_bn(x, channels, f"{name}_conv1", f"{name}_bn1", stride=stride)
    x = keras.layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv_bn(x, channels, f"{name}_conv2", f"{name}_bn2")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu2")(x)


def _conv_bn(x, channels: int, conv_name: str, bn_name: str, size: int = 3, stride: int = 1):
    x = keras.layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=conv_name,
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=bn_name)(x)
