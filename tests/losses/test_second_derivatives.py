"""Second derivatives that TensorFlow lacks, against those of the same computation by a matrix."""

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases

from lottery_tf.losses import derivatives
from lottery_tf.losses.derivatives import differentiable

assert derivatives  # registers them as it is imported


def resized(method, antialias=False):
    return lambda x: tf.image.resize(x, (6, 3), method, antialias=antialias)


LINEAR = {
    "nearest": resized("nearest"),
    "bilinear": resized("bilinear"),
    "bicubic": resized("bicubic"),
    "lanczos": resized("lanczos3"),
    "antialiased": resized("bilinear", antialias=True),
}


def hessian(function, x):
    """Of Σ (f(x)³), by x."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(function(x) ** 3)
        gradient = tape.gradient(value, x)
    return tf.reshape(outer.jacobian(gradient, x, experimental_use_pfor=False), (16, 16)).numpy()


@pytest.mark.parametrize("name", LINEAR)
def test_images_of_another_size(name):
    """f(x) = A x: the Hessian is 6 Aᵀ diag(A x) A."""
    function, units = LINEAR[name], np.eye(16, dtype=np.float32).reshape(16, 4, 4, 1)
    a = np.stack([function(tf.constant(each[None])).numpy().ravel() for each in units], 1)
    x = tf.constant(np.random.default_rng(0).random((1, 4, 4, 1)), tf.float32)
    expected = 6 * a.T @ np.diag(a @ x.numpy().ravel()) @ a
    np.testing.assert_allclose(hessian(function, x), expected, atol=2e-5)


def test_softsign():
    """x / (1 + |x|): written out, TensorFlow differentiates it itself."""
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), tf.float32)
    expected = hessian(lambda x: x / (1 + tf.abs(x)), x)
    np.testing.assert_allclose(hessian(tf.nn.softsign, x), expected, atol=1e-5)


@both_kerases
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_networks_that_enlarge_images(interpolation, its_keras):
    """The product of the Hessian with a vector is the difference of gradients, to first order."""
    layers = its_keras.layers
    inputs = its_keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, padding="same", activation="tanh")(inputs)
    x = layers.UpSampling2D(2, interpolation=interpolation)(x)
    model = differentiable(its_keras.Model(inputs, layers.Conv2D(1, 3, activation="tanh")(x)))
    kernel = model.trainable_variables[0]
    kernel = kernel.value if its_keras.__name__ == "keras" else kernel
    random = np.random.default_rng(0)
    images = tf.constant(random.random((2, 4, 4, 1)), tf.float32)
    vector = tf.constant(random.random(kernel.shape), tf.float32)

    def gradient():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(images, training=True) ** 2)
        return tape.gradient(value, kernel)

    with tf.GradientTape() as tape:
        slope = gradient()
    product = tape.gradient(slope, kernel, vector)
    ends = []
    for step in (0.01, -0.02):
        kernel.assign_add(step * vector)
        ends.append(gradient())
    np.testing.assert_allclose(product, (ends[0] - ends[1]) / 0.02, rtol=0.02, atol=0.02)
