"""Weights that several places use: a copy would tear them apart, so the model is refused."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES
from networks import chain, layers, mlp, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.sharing import check_untied


def check_untied_of(model):
    check_untied(model, copy_layer)


class Head(layers.Layer):
    """x · Wᵀ with the weights of another layer, which it holds, or does not."""

    def __init__(self, other, held=True, **kwargs):
        super().__init__(**kwargs)
        self.other = other if held else (lambda: other)
        self.held, self.given = held, lambda: other

    def call(self, x):
        other = self.other if self.held else self.other()
        return tf.matmul(x, other.kernel, transpose_b=True)

    def get_config(self):
        return {**super().get_config(), "other": self.given(), "held": self.held}


def autoencoder(last):
    """4 → 3 → 4, whose last step is ``last(code, hidden layer)``."""
    inputs, hidden = keras.Input((4,)), layers.Dense(3, name="hidden")
    return keras.Model(inputs, layers.Dense(2)(last(hidden(inputs), hidden)))


def transposed(hidden):
    return lambda code: tf.matmul(code, hidden.kernel, transpose_b=True)


def default_argument(code, hidden):
    return layers.Lambda(lambda x, w=hidden.kernel: tf.matmul(x, w, transpose_b=True))(code)


def one_weight(code, hidden):
    """A layer that has taken the other's variable for its own."""
    other = layers.Dense(3, name="other")
    other(tf.ones((1, 4)))
    other.kernel = hidden.kernel
    return layers.Dense(4)(other(layers.Dense(4)(code)))


def in_activation(code, hidden):
    def scaled(x):
        return x * tf.reduce_sum(hidden.kernel)

    return layers.Dense(4, activation=scaled)(code)


def free_variable(code, hidden):
    free = tf.Variable(2.0, name="free")
    return layers.Lambda(lambda x: x * free)(code)


class InTraining(layers.Dense):
    """Uses another layer's weights while it trains."""

    def __init__(self, other, **kwargs):
        super().__init__(4, **kwargs)
        self.other = lambda: other

    def call(self, x, training=None):
        outputs = super().call(x)
        return outputs * tf.reduce_sum(self.other().kernel) if training else outputs

    def get_config(self):
        return {"other": self.other()}


def regularized(code, hidden):
    def distance(kernel):
        return tf.reduce_sum((kernel - tf.transpose(hidden.kernel)) ** 2)

    return layers.Dense(4, kernel_regularizer=distance)(code)


TIED = {
    "in training": lambda code, hidden: InTraining(hidden)(code),
    "regularizer": regularized,
    "held by a layer": lambda code, hidden: Head(hidden)(code),
    "used by a layer": lambda code, hidden: Head(hidden, held=False)(code),
    "Lambda": lambda code, hidden: layers.Lambda(transposed(hidden))(code),
    "Lambda's argument": default_argument,
    "operation": lambda code, hidden: transposed(hidden)(code),
    "activation": in_activation,
    "one variable": one_weight,
    "no layer's": free_variable,
}
WAYS = {
    "wrap": lt.wrap,
    "strip": lt.strip,
    "prepare": lambda model: lt.Recipe("vanilla").prepare(model),
    "prune": lambda model: lt.prune(model, "omp", 0.5),
}


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_are_refused(name):
    model = autoencoder(TIED[name])
    words = (
        "which no layer of it holds"
        if name == "no layer's"
        else "kernel, which '(model.*/)?hidden' holds"
    )
    with pytest.raises(UsageError, match=words):
        check_untied_of(model)
    with pytest.raises(UsageError, match=words):
        check_untied_of(keras.Sequential([keras.Input((4,)), model]))


@pytest.mark.parametrize("way", WAYS)
def test_every_copy_refuses_them_and_leaves_the_model(way):
    model = autoencoder(TIED["Lambda"])
    before = model.get_weights()
    with pytest.raises(UsageError, match="Expected layers with weights of their own"):
        WAYS[way](model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_layers_that_share_nothing_pass(name):
    model = CASES[name].build()
    check_untied_of(model)
    check_untied_of(lt.wrap(model))


class Leaves(layers.Layer):
    """Leaves things on itself, and has state that nothing trains."""

    def __init__(self):
        super().__init__(name="leaves")
        self.flip = layers.RandomFlip(seed=1)
        self.generator = tf.random.Generator.from_seed(1)
        self.mean = keras.metrics.Mean()

    def call(self, x, training=None):
        self.last = x
        self.add_loss(0.1 * tf.reduce_mean(x**2))
        self.mean.update_state(x)
        return x + 0 * self.generator.normal(tf.shape(x))


class Python(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(dynamic=True, **kwargs)

    def call(self, x):
        return x + float(tf.reduce_sum(x).numpy())

    def compute_output_shape(self, shape):
        return shape


def test_looking_leaves_the_model_as_it_is_and_lets_state_pass():
    model = chain(Leaves(), layers.Dense(3))
    x = np.ones((2, 4), np.float32)
    model(x)
    last, losses = model.layers[1].last, [float(each) for each in model.losses]
    assert losses == [pytest.approx(0.1)]
    wrapped = lt.wrap(model, random_masks(model, 1.0))
    assert model.layers[1].last is last and [float(each) for each in model.losses] == losses
    wrapped(x)
    assert [float(each) for each in wrapped.losses] == losses
    lt.strip(lt.wrap(chain(layers.Dense(4), Python(), layers.Dense(3))))


def test_a_tied_function_that_cannot_be_copied_is_refused_for_that():
    """Keras describes a function inside a wrapper with what it refers to."""
    model = autoencoder(
        lambda code, hidden: layers.TimeDistributed(layers.Lambda(transposed(hidden)))(
            layers.Reshape((1, 3))(code)
        )
    )
    with pytest.raises(UsageError, match="Keras can make anew .* the layer 'time_distributed'"):
        lt.wrap(model)


def doubled(x):
    return 2 * x


def test_a_layer_that_is_called_twice_is_one():
    inputs, shared = keras.Input((4,)), layers.Dense(4, activation=doubled)
    check_untied_of(keras.Model(inputs, shared(shared(inputs))))


def test_functions_that_read_their_own_layer_pass():
    class Own(layers.Layer):
        def build(self, shape):
            self.inner = layers.Dense(4)
            self.gain = self.add_weight("gain", ())

        def call(self, x):
            return self.gain * self.inner(x)

    model = chain(Own(), layers.Lambda(lambda x: x + 1), layers.Dense(3))
    check_untied_of(model)
    check_untied_of(keras.Model(model.input, mlp_on(model.output)))


def mlp_on(x):
    return mlp()(layers.Dense(4)(x))


class Own(layers.Dense):
    def call(self, x):
        return super().call(x)


def test_in_16_bits_and_on_a_mirrored_device():
    """The variables that are read there are others than the layer's own."""
    check_untied_of(chain(Own(3, dtype="mixed_bfloat16")))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = chain(Own(3))
    check_untied_of(model)
