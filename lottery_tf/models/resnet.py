"""ResNets of basic blocks for small images.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385: those
for CIFAR of section 4.2, and ResNet-18 and -34 of table 1 with a stem for small images, as the
literature on lottery tickets trains them. Shortcuts that change shape are option B: a 1×1
convolution with BatchNorm. A convolution of stride 2 pads an even image at its lower right only,
as Keras does. BatchNorm has PyTorch's momentum and epsilon, which the papers on lottery tickets
trained with; Keras's own momentum lags far behind in short training.
"""

from collections.abc import Sequence

from lottery_tf.keras import keras
from lottery_tf.models.shapes import check_halvings

CIFAR_WIDTH, WIDTH = 16, 64
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


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
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20. Received: {depth}.")
    width = width or CIFAR_WIDTH
    return _resnet(name, (blocks,) * 3, width, input_shape, num_classes, halving_stem)


def resnet(
    depth: int, input_shape: Sequence[int], num_classes: int, width: int | None = None
) -> keras.Model:
    """ResNet-18 or -34 with a 3×3 stem of stride 1 and no pooling behind it.

    Four stages of ``width`` (64), 2·width, 4·width and 8·width channels.

    Raises:
      UsageError: the image is smaller than 8×8.
    """
    width = width or WIDTH
    return _resnet(f"resnet{depth}", _BLOCKS[depth], width, input_shape, num_classes)


def _resnet(name, blocks, width, input_shape, num_classes, halving_stem=False) -> keras.Model:
    check_halvings(name, input_shape, len(blocks) - 1 + halving_stem)
    images = keras.Input(input_shape, name="image")
    x = _conv_bn(images, width, "stem_conv", "stem_bn", stride=2 if halving_stem else 1)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, number in enumerate(blocks):
        for block in range(number):
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
