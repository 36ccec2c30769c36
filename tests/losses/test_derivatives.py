"""The copy of a model that is differentiated twice."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, both_kerases, chain, examples, functions, layers, values

from lottery_tf.graph.layers import named_variables
from lottery_tf.losses.derivatives import as_watched, differentiable


def biased(its_keras):
    """Every kind of layer that adds a bias to images, with sums between them."""
    layers, softplus = its_keras.layers, functions(its_keras).softplus
    kind = {"bias_initializer": "random_normal"}
    inputs = its_keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="softplus", **kind)(inputs)
    y = layers.Conv2D(3, 1, padding="same", use_bias=False)(x)
    x = softplus(layers.Add()([layers.DepthwiseConv2D(3, padding="same", **kind)(x), y]))
    y = layers.SeparableConv2D(3, 3, padding="same", activation="tanh", **kind)(x)
    x = layers.Add()([layers.Conv2DTranspose(3, 3, padding="same", **kind)(y), y])
    x = layers.Dense(4, activation="tanh", **kind)(x)
    return its_keras.Model(inputs, layers.Dense(3, **kind)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.long
@both_kerases
def test_no_gradient_of_a_bias_can_be_merged_with_a_second_derivative(its_keras):
    """oneDNN merges BiasAddGrad with any convolution's gradient: "785 nodes in a cycle"."""

    def kinds(model):
        weights = [as_watched(model, each) for each in model.trainable_variables]

        @tf.function
        def second(x):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(model(x, training=True) ** 2)
                first = tape.gradient(loss, weights)
            return first, outer.gradient(first, weights)

        graph = second.get_concrete_function(tf.TensorSpec((2, 6, 6, 2))).graph
        return {operation.type for operation in graph.get_operations()}

    model = biased(its_keras)
    assert {"Conv2DBackpropFilter", "BiasAddGrad"} <= kinds(model)
    found = kinds(differentiable(model))
    assert "Conv2DBackpropFilter" in found and "BiasAddGrad" not in found


@both_kerases
def test_the_copy_has_the_same_weights_and_outputs(its_keras):
    model, (x, _) = biased(its_keras), examples(4, (6, 6, 2))
    copy = differentiable(model)
    assert list(named_variables(copy)) == list(named_variables(model))
    assert_same(values(copy), values(model))
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)


@both_kerases
@pytest.mark.parametrize("kind", ["Conv2D", "Conv2DTranspose"])
def test_a_bias_before_the_places(kind, its_keras):
    """Its axis is the second one; not run: not every CPU can."""
    conv = getattr(its_keras.layers, kind)(3, 1, data_format="channels_first")
    model = chain(conv, shape=(2, 6, 5))
    assert differentiable(model).output_shape == model.output_shape == (None, 3, 6, 5)


class Own(layers.Dense):
    """A subclass with a call of its own, which asks whether it trains."""

    def call(self, x, training=None):
        return self.activation(x @ self.kernel + (2 * self.bias if training else self.bias))


class Own3(keras3.layers.Dense):
    def call(self, x, training=None):
        return self.activation(x @ self.kernel + (2 * self.bias if training else self.bias))


@pytest.mark.parametrize("own", [Own, Own3])
def test_of_a_users_own_layer_the_bias_is_its_own_affair(own):
    model = chain(own(3, activation="tanh", bias_initializer="ones"))
    x, _ = examples(5)
    np.testing.assert_allclose(
        differentiable(model)(x, training=True), model(x, training=True), rtol=1e-6
    )
