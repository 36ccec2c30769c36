"""Soft activation: the units' formulas, and every ReLU that a model may have."""

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, examples, layers, random_masks, values

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_layers
from lottery_tf.losses.cross_entropy import CrossEntropy
from lottery_tf.tweaks.soft_activation import SoftReLU

X = np.array([-2.0, -0.5, 0.0, 1.0, 8.0])


def _unit(progress, **kwargs):
    unit = SoftReLU(dtype="float64", **kwargs)
    unit.build((5,))
    unit.length.assign(4)
    unit.step.assign(progress)
    return unit(tf.constant(X)).numpy()


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_pswish_by_hand():
    """β = 1, 2 and 3 at 0, 1/4 and 1/2 of the way to 5."""
    for step, beta in ((0, 1), (1, 2), (2, 3)):
        np.testing.assert_allclose(_unit(step, end=5.0), X * _sigmoid(beta * X), rtol=1e-6)
    np.testing.assert_array_equal(_unit(4, end=5.0), [0, 0, 0, 1, 8])
    np.testing.assert_array_equal(_unit(9, end=5.0), [0, 0, 0, 1, 8])


def test_mish_by_hand():
    mish = X * np.tanh(np.log1p(np.exp(X)))
    relu = np.maximum(X, 0)
    kwargs = {"unit": "mish", "start": 0.0, "end": 1.0}
    np.testing.assert_allclose(_unit(0, **kwargs), mish, rtol=1e-12)
    np.testing.assert_allclose(_unit(1, **kwargs), 0.75 * mish + 0.25 * relu, rtol=1e-12)
    np.testing.assert_array_equal(_unit(4, **kwargs), relu)


def test_relu6_is_capped():
    np.testing.assert_allclose(_unit(0, cap=6.0), np.minimum(X * _sigmoid(X), 6), rtol=1e-6)
    np.testing.assert_array_equal(_unit(4, cap=6.0), [0, 0, 0, 1, 6])


def test_the_largest_value_is_that_of_the_relu():
    for relu, largest in (
        *((layers.ReLU(), 100), (layers.ReLU(max_value=3.0), 3), (layers.ReLU(6), 6)),
        *((layers.Activation("relu6"), 6), (layers.Activation(tf.nn.relu6), 6), (tf.nn.relu6, 6)),
    ):
        inputs = keras.Input((1,))
        soft = lt.SoftActivation().prepare(keras.Model(inputs, relu(inputs)))
        assert np.array(soft(np.array([[100.0]]))) == largest


def test_the_curve_is_that_of_the_tweak():
    tweak = lt.SoftActivation(curve="exponential", beta_start=1.0, beta_end=25.0)
    (unit,) = tweak.layers(tweak.prepare(chain(layers.ReLU())))
    assert unit.schedule.at(0.5) == pytest.approx(5)


def test_what_is_masked_stays_so():
    """A sentence of the word 1 and padding has the mean of that word."""
    model = chain(
        layers.Embedding(2, 3, mask_zero=True, name="words"),
        layers.ReLU(),
        layers.GlobalAveragePooling1D(),
        shape=(2,),
    )
    soft = lt.SoftActivation().prepare(model)
    word = model.get_layer("words").embeddings.numpy()[1]
    np.testing.assert_allclose(soft(np.array([[1, 0]])), [word * _sigmoid(word)], rtol=1e-6)


def test_recurrent_layers_are_not_looked_into(lines):
    model = chain(layers.SimpleRNN(2, activation="relu", name="recurrent"), shape=(3, 2))
    lt.SoftActivation().prepare(model)
    assert lines[-1].endswith("0 ReLUs made soft; not looked into: recurrent (SimpleRNN)")


class Own(layers.Layer):
    """A layer of a user's own with a fused activation, and one that has none to be found."""

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def call(self, x):
        return self.activation(x)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}


class Opaque(layers.Layer):
    """What it computes is not seen from outside."""

    def call(self, x):
        return tf.nn.relu(x)


def _rectified(x):
    return tf.maximum(x, 0.0)


def every_relu():
    """A nested model and a shared layer, all forms of ReLU, and what is none."""
    inside = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, "relu", name="a"), layers.ReLU(name="b")], name="inside"
    )
    shared = layers.Dense(4, tf.nn.relu, name="shared")
    inputs = keras.Input((4,), name="x")
    x = shared(shared(inside(inputs)))
    x = layers.Activation("relu6", name="six")(x)
    x = layers.ReLU(max_value=3.0, name="three")(x)
    x = tf.nn.relu(x)
    x = tf.nn.relu6(features=keras.activations.relu(x))
    x = layers.Dense(4, layers.ReLU(), name="layer_as_function")(x)
    x = tf.maximum(Own(name="own")(x), 0.0)
    x = layers.Dense(4, _rectified, name="function")(x)
    x = layers.Activation("leaky_relu", name="leaky_activation")(x)
    x = layers.ReLU(threshold=1.0, name="from_1")(x)
    x = layers.LeakyReLU(name="leaky")(layers.ReLU(negative_slope=0.1, name="sloped")(x))
    x = layers.Dense(4, "elu", name="elu")(Opaque(name="opaque")(x))
    y = layers.Dense(4, "tanh", name="tanh")(x)
    return keras.Model(inputs, [layers.Dense(3, name="head")(y), layers.ReLU(name="out")(x)])


def test_every_relu_is_found_and_comes_back(lines, eager):
    plain = every_relu()
    tweak = lt.SoftActivation(share=0.0)
    model = tweak.prepare(lt.wrap(plain, random_masks(plain)))
    assert lines[-1].endswith(
        "11 ReLUs made soft; not looked into: tf.math.maximum (TFOpLambda), function (_rectified), "
        "leaky_activation (leaky_relu), from_1 (ReLU), sloped (ReLU), leaky (LeakyReLU) and 2 more"
    )
    assert len(tweak.layers(model)) == 11
    assert type(model.get_layer("inside")) is keras.Sequential
    x, y = examples(8)
    model.compile("sgd", ["sparse_categorical_crossentropy", None], run_eagerly=eager)
    model.fit(x, y, callbacks=tweak.callbacks(), verbose=0)
    final = lt.strip(tweak.finish(model))
    theirs, ours = named_layers(plain), named_layers(final)
    assert list(theirs) == list(ours)
    for path, layer in theirs.items():
        assert type(ours[path]) is type(layer)
        assert ours[path].get_config() == layer.get_config()
    assert final.count_params() == plain.count_params()
    assert type(final.get_layer("inside")) is keras.Sequential
    assert final.output_names == plain.output_names
    for one, other in zip(final(x), model(x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_soft_model_computes_swish():
    """The prepared model beside one that is written with swish."""

    def stack(activation):
        keras.utils.set_random_seed(1)
        return chain(layers.Dense(6, activation), layers.Dense(5, activation), layers.Dense(3))

    x, _ = examples(8)
    soft = lt.SoftActivation().prepare(stack("relu"))
    np.testing.assert_allclose(soft(x), stack("swish")(x), atol=1e-6)
    assert np.abs(soft(x) - stack("relu")(x)).max() > 0.01


def test_the_model_that_was_given_stays():
    plain = every_relu()
    before = values(plain)
    model = lt.SoftActivation().prepare(plain)
    assert model is not plain
    assert not any(isinstance(each, SoftReLU) for each in plain.submodules)
    assert before.keys() < values(model).keys()


def test_what_is_looked_into(lines):
    """No rectifier among them, and no more than one ReLU."""
    functions = ("linear", "tanh", tf.nn.softmax, "gelu", "silu", tf.nn.sigmoid, "mish", "relu")
    stack = [layers.Dense(4, function) for function in functions]
    model = chain(layers.Conv1D(4, 3), *stack, shape=(4, 4))
    lt.Recipe("ghost_skips,soft_activation").prepare(model)
    assert [line.partition(": ")[2] for line in lines] == [
        "1 ghost skip; spatial convolutions without one: none",
        "1 ReLU made soft; not looked into: none",
    ]


def test_a_model_without_relu_is_as_it_was(lines):
    tweak = lt.SoftActivation()
    model = tweak.prepare(chain(layers.Dense(3, "tanh")))
    assert "0 ReLUs made soft" in lines[-1]
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = examples(8)
    history = model.fit(x, y, callbacks=tweak.callbacks(), verbose=0).history
    assert list(history) == ["loss"]
    assert tweak.finish(model) is model


@pytest.mark.parametrize("first", ["soft_activation,ghost_skips", "ghost_skips,soft_activation"])
def test_a_fused_relu_under_a_ghost_is_soft_in_either_order(first, eager):
    def network():
        keras.utils.set_random_seed(0)
        return chain(
            layers.Conv2D(3, 3, padding="same", activation="relu", name="fused"),
            layers.Conv2D(3, 3, padding="same", name="linear"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(),
            shape=(5, 5, 3),
        )

    x, y = examples(8, (5, 5, 3))
    recipe = lt.Recipe(first, {"ghost_skips_alpha": 1.0})
    model = recipe.prepare(network())
    assert [layer.name for layer in model.layers[1:6]] == [
        *("fused", "fused_ghost", "linear", "linear_ghost", "relu"),
    ]
    assert model.get_layer("fused").activation is keras.activations.linear
    a = model.get_layer("fused")(x) + x
    a = a * tf.sigmoid(a)
    b = model.get_layer("linear")(a) + a
    b = b * tf.sigmoid(b)
    np.testing.assert_allclose(model(x), tf.reduce_mean(b, (1, 2)), atol=1e-5)
    model.compile("sgd", recipe.loss(CrossEntropy()), run_eagerly=eager)
    model.fit(x, y, batch_size=4, callbacks=recipe.callbacks(), verbose=0)
    final = recipe.finish(model)
    assert final.get_layer("fused").get_config()["activation"] == "relu"
    np.testing.assert_allclose(final(x), model(x), atol=1e-6)
