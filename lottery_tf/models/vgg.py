"""VGG-16 with BatchNorm for small images.

Simonyan and Zisserman, https://arxiv.org/abs/1409.1556, table 1, column D, with BatchNorm. One
dense layer follows the average of each channel. Layers and initial weights are those of the
reference (https://github.com/VITA-Group/ToST, pruning_techniques/models).
"""

from collections.abc import Sequence
from types import ModuleType

from lottery_tf.graph.compat import keras as tf_keras
from lottery_tf.models.pytorch import batch_norm, convolution, he_normal
from lottery_tf.models.shapes import check_halvings

_CONVOLUTIONS = (2, 2, 3, 3, 3)


def vgg16(
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """13 convolutions in five stages of w, 2w, 4w, 8w and 8w channels, a pooling between each two.

    The width w is 64 in the paper.

    Raises:
      UsageError: the image is smaller than 16×16, so that four poolings leave nothing.
    """
    check_halvings("vgg16", input_shape, len(_CONVOLUTIONS) - 1)
    width = width or 64
    images = x = keras.Input(input_shape, name="image")
    for stage, number in enumerate(_CONVOLUTIONS):
        if stage:
            x = keras.layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
        for i in range(number):
            name = f"stage{stage + 1}_{{}}{i + 1}"
            x = convolution(
                *(x, width * min(2**stage, 8), 3, 1, name.format("conv")),
                use_bias=True,
                kernel_initializer=he_normal(keras, "fan_out"),
            )
            x = batch_norm(x, name.format("bn"))
            x = keras.layers.ReLU(name=name.format("relu"))(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="head"
    )(x)
    return keras.Model(images, logits, name="vgg16")
