"""Conv-4, the small VGG of "The Lottery Ticket Hypothesis".

Frankle and Carbin, https://arxiv.org/abs/1803.03635, figure 2.
"""

from collections.abc import Sequence
from types import ModuleType

from lottery_tf.graph.compat import keras as tf_keras
from lottery_tf.models.shapes import check_halvings


def conv4(
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """3×3 convolutions w, w, pool, 2w, 2w, pool, then two hidden layers of 4w units; w = 64.

    Weights are Glorot normal, as in the paper.

    Raises:
      UsageError: the image is smaller than 4×4, so that two poolings leave nothing.
    """
    check_halvings("conv4", input_shape, 2)
    width = width or 64
    images = x = keras.Input(input_shape, name="image")
    for stage in (1, 2):
        for i in (1, 2):
            x = keras.layers.Conv2D(
                stage * width,
                3,
                padding="same",
                kernel_initializer="glorot_normal",
                name=f"stage{stage}_conv{i}",
            )(x)
            x = keras.layers.ReLU(name=f"stage{stage}_relu{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for i in (1, 2):
        x = keras.layers.Dense(4 * width, kernel_initializer="glorot_normal", name=f"dense{i}")(x)
        x = keras.layers.ReLU(name=f"dense{i}_relu")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer="glorot_normal", name="head")(x)
    return keras.Model(images, logits, name="conv4")
