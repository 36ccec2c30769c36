"""Soft activation: the units' formulas, and every ReLU that a model may have."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, examples, layers, random_masks, values

import lottery_tf as lt
from lottery_tf.graph.compat import is_keras3, keras, output_names, parts_of
from lottery_tf.graph.layers import named_layers
from lottery_tf.losses.cross_entropy import CrossEntropy
from lottery_tf.tweaks.soft_activation import SoftReLU, SoftReLU3, SoftUnit

X = np.array([-2.0, -0.5, 0.0, 1.0, 8.0])


def _unit(progress, kind=SoftReLU, **kwargs):
    unit = kind(dtype="float64", **kwargs)
    unit.build((5,))
    unit.length.assign(4)
    unit.step.assign(progress)
    return unit(tf.constant(X)).numpy()


both_kinds = pytest.mark.parametrize("kind", [SoftReLU, SoftReLU3])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


@both_kinds
def test_pswish_by_hand(kind):
    """β = 1, 2 and 3 at 0, 1/4 and 1/2 of the way to 5."""
    for step, beta in ((0, 1), (1, 2), (2, 3)):
        np.testing.assert_allclose(_unit(step, kind, end=5.0), X * _sigmoid(beta * X), rtol=1e-6)
    np.testing.assert_array_equal(_unit(4, kind, end=5.0), [0, 0, 0, 1, 8])
    np.testing.assert_array_equal(_unit(9, kind, end=5.0), [0, 0, 0, 1, 8])


def test_mish_by_hand():
    mish = X * np.tanh(np.log1p(np.exp(X)))
    relu = np.maximum(X, 0)
    kwargs = {"unit": "mish", "start": 0.0, "end": 1.0}
    np.testing.assert_allclose(_unit(0, **kwargs), mish, rtol=1e-12)
    np.testing.assert_allclose(_unit(1, **kwargs), 0.75 * mish + 0.25 * relu, rtol=1e-12)
    np.testing.assert_array_equal(_unit(4, **kwargs), relu)


def _swish(x, beta=1.0):
    return x * _sigmoid(beta * x)


def _mish(x, blend=0.0):
    return (1 - blend) * x * np.tanh(np.logaddexp(0, x)) + blend * np.maximum(x, 0)


def _gain(unit):
    """√(E[relu(x)²]/E[unit(x)²]) for x ~ N(0, 1), by Gauss and Hermite's quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(150)
    return np.sqrt(0.5 / (weights @ unit(points) ** 2 * (2 * np.pi) ** -0.5))


def test_the_gain_of_swish_is_known():
    """E[x²σ(x)²] for x ~ N(0, 1) is 0.3558: a layer of Swish passes 0.71 of what ReLU does."""
    assert _gain(_swish) == pytest.approx(np.sqrt(0.5 / 0.35577), rel=1e-4)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0, 4.0, 10.0, 25.0])
def test_pswish_keeps_the_signal_by_hand(beta):
    expected = _gain(lambda x: _swish(x, beta)) * _swish(X, beta)
    found = _unit(0, start=beta, keep_signal=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_mish_keeps_the_signal_by_hand(step):
    expected = _gain(lambda x: _mish(x, step / 4)) * _mish(X, step / 4)
    found = _unit(step, unit="mish", start=0.0, end=1.0, keep_signal=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("fade", [{}, {"unit": "mish", "start": 0.0, "end": 1.0}, {"cap": 6.0}])
def test_at_the_end_it_is_relu_whatever_it_kept(fade):
    largest = fade.get("cap", 8)
    for step in (4, 9):
        found = _unit(step, keep_signal=True, **fade)
        np.testing.assert_array_equal(found, [0, 0, 0, 1, largest])


def test_what_is_kept_comes_before_the_cap():
    np.testing.assert_allclose(
        _unit(0, cap=6.0, keep_signal=True), np.minimum(_gain(_swish) * _swish(X), 6), rtol=1e-4
    )


@pytest.mark.parametrize("fade", [{"end": 10.0}, {"unit": "mish", "start": 0.0, "end": 1.0}])
def test_the_second_moment_is_that_of_relu_all_the_way(fade):
    """A million of N(0, 1), at β from 1 to 10 or Mish's blend from 0 to 1."""
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    unit = SoftReLU(keep_signal=True, **fade)
    unit.build(x.shape)
    unit.length.assign(9)
    for step in range(10):
        unit.step.assign(step)
        assert np.mean(np.square(unit(x))) == pytest.approx(0.5, rel=0.01)


def test_it_keeps_the_signal_by_default(of):
    inputs = of.Input((1,))
    model = lt.SoftActivation().prepare(of.Model(inputs, of.layers.ReLU()(inputs)))
    np.testing.assert_allclose(model(X[:, None])[:, 0], _gain(_swish) * _swish(X), rtol=1e-4)


def test_what_a_release_before_has_saved_does_not_keep_the_signal():
    config = SoftReLU().get_config()
    del config["keep_signal"]
    assert SoftReLU.from_config(config).keep_signal is False
    assert SoftReLU.from_config({**config, "keep_signal": True}).keep_signal is True


def test_relu6_is_capped():
    np.testing.assert_allclose(_unit(0, cap=6.0), np.minimum(X * _sigmoid(X), 6), rtol=1e-6)
    np.testing.assert_array_equal(_unit(4, cap=6.0), [0, 0, 0, 1, 6])


def test_the_largest_value_is_that_of_the_relu(of):
    layers, relu6 = of.layers, of.ops.relu6 if hasattr(of, "ops") else tf.nn.relu6
    for relu, largest in (
        *((layers.ReLU(), 100), (layers.ReLU(max_value=3.0), 3), (layers.ReLU(6), 6)),
        *((layers.Activation("relu6"), 6), (layers.Activation(relu6), 6), (relu6, 6)),
        (functools.partial(of.activations.relu, max_value=4.0), 4),
    ):
        if of is keras and isinstance(relu, functools.partial):
            continue  # there it is several operations
        inputs = of.Input((1,))
        soft = lt.SoftActivation(keep_signal=False).prepare(of.Model(inputs, relu(inputs)))
        assert np.array(soft(np.array([[100.0]]))) == largest


def test_the_curve_is_that_of_the_tweak():
    tweak = lt.SoftActivation(curve="exponential", beta_start=1.0, beta_end=25.0)
    (unit,) = tweak.layers(tweak.prepare(chain(layers.ReLU())))
    assert unit.schedule.at(0.5) == pytest.approx(5)


def test_what_is_masked_stays_so(of):
    """A sentence of the word 1 and padding has the mean of that word."""
    layers = of.layers
    model = chain(
        layers.Embedding(2, 3, mask_zero=True, name="words"),
        layers.ReLU(),
        layers.GlobalAveragePooling1D(),
        shape=(2,),
    )
    soft = lt.SoftActivation(keep_signal=False).prepare(model)
    word = model.get_layer("words").embeddings.numpy()[1]
    np.testing.assert_allclose(soft(np.array([[1, 0]])), [word * _sigmoid(word)], rtol=1e-6)


def test_recurrent_layers_are_not_looked_into(lines, of):
    model = chain(of.layers.SimpleRNN(2, activation="relu", name="recurrent"), shape=(3, 2))
    lt.SoftActivation().prepare(model)
    assert lines[-1].endswith("0 ReLUs made soft; left as they are: recurrent (SimpleRNN)")


def _of_ones_own(of):
    """A layer of a user's own with a fused activation, and one that has none to be found."""

    class Own(of.layers.Layer):
        def __init__(self, activation="relu", **kwargs):
            super().__init__(**kwargs)
            self.activation = of.activations.get(activation)

        def call(self, x):
            return self.activation(x)

        def get_config(self):
            activation = of.activations.serialize(self.activation)
            return {**super().get_config(), "activation": activation}

    class Opaque(of.layers.Layer):
        def call(self, x):
            return tf.nn.relu(x)

    return Own, Opaque


def _rectified(x):
    return tf.maximum(x, 0.0)


def every_relu(of=keras):
    """A nested model and a shared layer, all forms of ReLU, and what is none."""
    keras, layers, (Own, Opaque) = of, of.layers, _of_ones_own(of)
    relu, relu6, maximum = (
        (of.ops.relu, of.ops.relu6, of.ops.maximum)
        if hasattr(of, "ops")
        else (tf.nn.relu, lambda x: tf.nn.relu6(features=x), tf.maximum)
    )
    inside = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, "relu", name="a"), layers.ReLU(name="b")], name="inside"
    )
    shared = layers.Dense(4, relu, name="shared")
    inputs = keras.Input((4,), name="x")
    x = shared(shared(inside(inputs)))
    x = layers.Activation("relu6", name="six")(x)
    x = layers.ReLU(max_value=3.0, name="three")(x)
    x = relu6(keras.activations.relu(relu(x)))
    x = layers.Dense(4, layers.ReLU(), name="layer_as_function")(x)
    x = maximum(Own(name="own")(x), 0.0)
    x = layers.Dense(4, _rectified, name="function")(x)
    x = layers.Activation("leaky_relu", name="leaky_activation")(x)
    x = layers.ReLU(threshold=1.0, name="from_1")(x)
    x = layers.LeakyReLU(name="leaky")(layers.ReLU(negative_slope=0.1, name="sloped")(x))
    x = layers.Dense(4, "elu", name="elu")(Opaque(name="opaque")(x))
    y = layers.Dense(4, "tanh", name="tanh")(x)
    return keras.Model(inputs, [layers.Dense(3, name="head")(y), layers.ReLU(name="out")(x)])


@pytest.mark.long
def test_every_relu_is_found_and_comes_back(lines, of):
    plain = every_relu(of)
    tweak = lt.SoftActivation(share=0.0)
    model = tweak.prepare(lt.wrap(plain, random_masks(plain)))
    function = "maximum (Maximum)" if is_keras3(plain) else "tf.math.maximum (TFOpLambda)"
    assert lines[-1].endswith(
        f"11 ReLUs made soft; left as they are: {function}, function (_rectified), "
        "leaky_activation (leaky_relu), from_1 (ReLU), sloped (ReLU), leaky (LeakyReLU) and 2 more"
    )
    assert len(tweak.layers(model)) == 11
    assert type(model.get_layer("inside")) is of.Sequential
    x, y = examples(8)
    model.compile("sgd", ["sparse_categorical_crossentropy", None], run_eagerly=True)
    model.fit(x, [y, y], callbacks=tweak.callbacks(), verbose=0)
    final = lt.strip(tweak.finish(model))
    theirs, ours = named_layers(plain), named_layers(final)
    assert list(theirs) == list(ours)
    for path, layer in theirs.items():
        assert type(ours[path]) is type(layer)
        assert ours[path].get_config() == layer.get_config()
    assert final.count_params() == plain.count_params()
    assert type(final.get_layer("inside")) is of.Sequential
    assert output_names(final) == output_names(plain)
    if is_keras3(plain):  # with the functions that are no layers
        assert final.get_config() == plain.get_config()
    for one, other in zip(final(x), model(x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_soft_model_computes_swish(of):
    """The prepared model beside one that is written with swish."""
    layers = of.layers

    def stack(activation):
        of.utils.set_random_seed(1)
        return chain(layers.Dense(6, activation), layers.Dense(5, activation), layers.Dense(3))

    x, _ = examples(8)
    soft = lt.SoftActivation(keep_signal=False).prepare(stack("relu"))
    np.testing.assert_allclose(soft(x), stack("swish")(x), atol=1e-6)
    assert np.abs(soft(x) - stack("relu")(x)).max() > 0.01


@pytest.mark.long
def test_the_model_that_was_given_stays(of):
    plain = every_relu(of)
    before = values(plain)
    model = lt.SoftActivation().prepare(plain)
    assert model is not plain
    assert not any(isinstance(each, SoftUnit) for each in parts_of(plain))
    assert before.keys() < values(model).keys()


def test_what_is_looked_into(lines):
    """No rectifier among them, and no more than one ReLU."""
    functions = ("linear", "tanh", tf.nn.softmax, "gelu", "silu", tf.nn.sigmoid, "mish", "relu")
    stack = [layers.Dense(4, function) for function in functions]
    model = chain(layers.Conv1D(4, 3), *stack, shape=(4, 4))
    settings = {"ghost_skips_convolutions": ("all",)}
    lt.Recipe("ghost_skips,soft_activation", settings).prepare(model)
    assert [line.partition(": ")[2] for line in lines] == [
        "1 ghost skip; spatial convolutions without one: none",
        "1 ReLU made soft",
    ]


def test_a_model_without_relu_is_as_it_was(lines, of):
    tweak = lt.SoftActivation()
    model = tweak.prepare(chain(of.layers.Dense(3, "tanh")))
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
    settings = {"ghost_skips_alpha": 1.0, "ghost_skips_convolutions": ("all",)}
    recipe = lt.Recipe(first, settings)
    model = recipe.prepare(network())
    assert [layer.name for layer in model.layers[1:6]] == [
        *("fused", "fused_ghost", "linear", "linear_ghost", "relu"),
    ]
    assert model.get_layer("fused").activation is keras.activations.linear
    n = (2 + 1 / np.pi) ** -0.5  # by which a ghost of α = 1 keeps the signal
    a = (model.get_layer("fused")(x) + x) * n
    a = _gain(_swish) * a * tf.sigmoid(a)
    b = (model.get_layer("linear")(a) + a) * n
    b = _gain(_swish) * b * tf.sigmoid(b)
    np.testing.assert_allclose(model(x), tf.reduce_mean(b, (1, 2)), atol=1e-5)
    model.compile("sgd", recipe.loss(CrossEntropy()), run_eagerly=eager)
    model.fit(x, y, batch_size=4, callbacks=recipe.callbacks(), verbose=0)
    final = recipe.finish(model)
    assert final.get_layer("fused").get_config()["activation"] == "relu"
    np.testing.assert_allclose(final(x), model(x), atol=1e-6)
