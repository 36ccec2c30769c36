"""VGG-16 with BatchNorm for small images.

Simonyan and Zisserman, https://arxiv.org/abs/1409.1556, table 1, column D, with BatchNorm and one
dense layer behind the average of what the convolutions leave, as the literature on lottery tickets
trains it on CIFAR. Weights are drawn as PyTorch's VGG draws them; BatchNorm has PyTorch's
constants.
"""

from collections.abc import Sequence

from lottery_tf.keras import keras
from lottery_tf.models.shapes import check_halvings

_CONVOLUTIONS = (2, 2, 3, 3, 3)


def vgg16(input_shape: Sequence[int], num_classes: int, width: int | None = None) -> keras.Model:
    """13 convolutions in five stages of w, 2w, 4w, 8w and 8w channels, a pooling behind each.

    The width w is 64 in the paper.

    Raises:
      UsageError: the image is smaller than 32×32, so that five poolings leave nothing.
    """
    check_halvings("vgg16", input_shape, len(_CONVOLUTIONS))
    width = width or 64
    images = x = keras.Input(input_shape, name="image")
    for stage, number in enumerate(_CONVOLUTIONS):
        for i in range(number):
            name = f"stage{stage + 1}_{{}}{i + 1}"
            x = keras.layers.Conv2D(
                width * min(2**stage, 8),
                3,
                padding="same",
                kernel_initializer=keras.initializers.VarianceScaling(
                    2.0, "fan_out", "untruncated_normal"
                ),
                name=name.format("conv"),
            )(x)
            x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name.format("bn"))(
                x
            )
            x = keras.layers.ReLU(name=name.format("relu"))(x)
        x = keras.layers.MaxPooling2D(name=f"stage{stage + 1}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="head"
    )(x)
    return keras.Model(images, logits, name="vgg16")
