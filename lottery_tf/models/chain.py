"""Chains of convolutions without normalisation or shortcuts.

Every signal goes through every layer. If a sparse layer passes less signal than the dense one, no
later layer makes up for it. These networks are made to show that; they are from no paper.
"""

from collections.abc import Sequence
from types import ModuleType

from lottery_tf.graph.compat import keras as tf_keras
from lottery_tf.models.shapes import check_halvings

WIDTH = 16


def chain(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: ModuleType = tf_keras,
) -> tf_keras.Model:
    """``depth`` 3×3 convolutions of ``width`` (16) channels, each with bias and ReLU.

    Then come the mean of each channel and a dense layer. The convolutions behind the first and
    the second third have stride 2. Their kernels are He normal (He et al. 2015, arXiv 1502.01852),
    which keeps the second moment of the signal; the dense kernel is Glorot uniform.

    Args:
      depth: 3 or more.
      input_shape, num_classes, width, keras: as in ``lottery_tf.models.create``.

    Raises:
      UsageError: the image is smaller than 4×4.
    """
    name = f"chain{depth}"
    check_halvings(name, input_shape, 2)
    images = x = keras.Input(input_shape, name="image")
    for i in range(depth):
        x = keras.layers.Conv2D(
            width or WIDTH,
            3,
            strides=2 if i in (depth // 3, 2 * depth // 3) else 1,
            padding="same",
            kernel_initializer="he_normal",
            name=f"conv{i + 1}",
        )(x)
        x = keras.layers.ReLU(name=f"relu{i + 1}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, keras.layers.Dense(num_classes, name="head")(x), name=name)
