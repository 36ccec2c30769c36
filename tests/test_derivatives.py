"""The copy of a model that is differentiated twice."""

import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, examples, layers, values

from lottery_tf.derivatives import differentiable
from lottery_tf.graph import named_variables
from lottery_tf.keras import keras


def biased():
    """Every kind of layer that adds a bias to images, with sums between them."""
    kind = {"bias_initializer": "normal"}
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="softplus", **kind)(inputs)
    y = layers.Conv2D(3, 1, padding="same", use_bias=False)(x)
    x = tf.nn.softplus(layers.Add()([layers.DepthwiseConv2D(3, padding="same", **kind)(x), y]))
    y = layers.SeparableConv2D(3, 3, padding="same", activation="tanh", **kind)(x)
    x = layers.Add()([layers.Conv2DTranspose(3, 3, padding="same", **kind)(y), y])
    x = layers.Dense(4, activation="tanh", **kind)(x)
    return keras.Model(inputs, layers.Dense(3, **kind)(layers.GlobalAveragePooling2D()(x)))


def test_no_gradient_of_a_bias_can_be_merged_with_a_second_derivative():
    """oneDNN merges BiasAddGrad with any convolution's gradient: "785 nodes in a cycle"."""

    def kinds(model):
        weights = model.trainable_variables

        @tf.function
        def second(x):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(model(x, training=True) ** 2)
                first = tape.gradient(loss, weights)
            return first, outer.gradient(first, weights)

        graph = second.get_concrete_function(tf.TensorSpec((2, 6, 6, 2))).graph
        return {operation.type for operation in graph.get_operations()}

    model = biased()
    assert {"Conv2DBackpropFilter", "BiasAddGrad"} <= kinds(model)
    found = kinds(differentiable(model))
    assert "Conv2DBackpropFilter" in found and "BiasAddGrad" not in found


def test_the_copy_has_the_same_weights_and_outputs():
    model, (x, _) = biased(), examples(4, (6, 6, 2))
    copy = differentiable(model)
    assert list(named_variables(copy)) == list(named_variables(model))
    assert_same(values(copy), values(model))
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [layers.Conv2D, layers.Conv2DTranspose])
def test_a_bias_before_the_places(kind):
    """Its axis is the second one; not run: not every CPU can."""
    inputs = keras.Input((2, 6, 5))
    model = keras.Model(inputs, kind(3, 1, data_format="channels_first")(inputs))
    assert differentiable(model).output_shape == model.output_shape == (None, 3, 6, 5)
