"""LeNet-300-100, the fully connected net of "The Lottery Ticket Hypothesis".

Frankle and Carbin, https://arxiv.org/abs/1803.03635, figure 2; after LeCun et al. 1998.
"""

from collections.abc import Sequence
from types import ModuleType

from lottery_tf.graph.compat import keras as tf_keras


def lenet_300_100(
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """Two hidden layers of ``width`` (300) and a third of it, with ReLUs; Glorot normal weights."""
    width = width or 300
    images = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(images)
    for i, units in enumerate((width, max(1, round(width / 3))), start=1):
        x = keras.layers.Dense(units, kernel_initializer="glorot_normal", name=f"dense{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer="glorot_normal", name="head")(x)
    return keras.Model(images, logits, name="lenet_300_100")
