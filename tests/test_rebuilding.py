"""Copies of a model in which some layers are other ones."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES
from networks import Opaque, assert_same, chain, examples, layers, values

import lottery_tf as lt
from lottery_tf.errors import UsageError
from lottery_tf.graph import layer_paths, named_layers, named_variables
from lottery_tf.keras import keras
from lottery_tf.rebuilding import copy_layer, rebuild, with_paths


@pytest.mark.parametrize("name", CASES)
def test_rebuilding_with_the_same_layers_is_a_copy(name):
    case = CASES[name]
    model, changed = case.build(), []

    def change(layer):
        changed.append(layer)
        return type(layer).from_config(layer.get_config())

    copy = rebuild(model, change)
    assert len(changed) == len({id(layer) for layer in changed}), "a shared layer, changed twice"
    assert list(named_layers(copy)) == list(named_layers(model))
    assert_same(values(copy), values(model))
    for one, other in zip(
        tf.nest.flatten(copy(case.x)), tf.nest.flatten(model(case.x)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    ours = {id(variable) for variable in model.variables}
    assert not any(id(variable) in ours for variable in copy.variables)


def test_a_rebuilt_model_has_the_changed_layers():
    def wider(layer):
        if isinstance(layer, layers.Activation):
            return layers.Activation("tanh", name=layer.name)
        return type(layer).from_config(layer.get_config())

    model = chain(layers.Dense(3), layers.Activation("relu", name="a"))
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    expected = np.tanh(model.layers[1](x))
    np.testing.assert_allclose(rebuild(model, wider)(x), expected, rtol=1e-6)


class OwnStep:
    """A training step, as a model's class may have it."""

    def train_step(self, data):
        return super().train_step(data)

    def helper(self):
        return 0


class OwnChain(OwnStep, keras.Sequential):
    pass


class OwnGraph(OwnStep, keras.Model):
    pass


class OwnBuilt(OwnGraph):
    def __init__(self, width):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(width)(inputs), name="built")


def test_what_a_plain_copy_has_not_is_said_once(lines):
    chained = OwnChain([keras.Input((4,)), layers.Dense(2)], name="chained")
    built = OwnBuilt(2)
    for recipe in ("label_smoothing", "soft_activation"):
        for model in (chained, built):
            lt.Recipe(recipe).prepare(model)
    whole = OwnGraph(built.inputs, built.outputs)
    assert type(rebuild(whole, copy_layer)) is OwnGraph
    assert [line for line in lines if "soft" not in line] == [
        "chained: its copies are of class Sequential, without what OwnChain has in train_step",
        "built: its copies are of class Functional, without what OwnBuilt has in train_step",
    ]


def times(factor):
    def scaled(x, *args):
        return factor * x

    return scaled


def test_functions_and_constants_of_a_users_own_are_copied():
    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(4, activation=times(2.0)))(inputs)
    x = layers.LSTM(4, activation=times(0.5))(x)
    x = layers.Add()([tf.maximum(x, tf.constant([0.0, 0.1, 0.2, 0.3])), tf.ones((1, 4))])
    model = keras.Model(inputs, layers.Dense(3, activation=times(3.0))(x))
    x, _ = examples(2, (5, 4))
    np.testing.assert_array_equal(rebuild(model, copy_layer)(x), model(x))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: Opaque(object()), r"the layer 'opaque' \(Opaque\) it cannot \(Layer Opaque was"),
        (lambda: layers.Dense(2, lambda x: x, name="it"), "the layer 'it' .*functions with a name"),
        (lambda: layers.LSTM(2, times(1), times(2), name="it"), "the layer 'it' .*: give it"),
    ],
)
def test_layers_that_cannot_be_copied_get_one_sentence(layer, words):
    with pytest.raises(UsageError, match=words) as error:
        rebuild(chain(layer(), shape=(4, 3)), copy_layer)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_renaming():
    model = CASES["nested"].build()
    paths = [p if "input" in p else f"{p}_new" for p in layer_paths(model)]
    copy = with_paths(model, paths)
    assert layer_paths(copy) == paths
    assert layer_paths(keras.models.model_from_json(copy.to_json())) == paths


def adapted(layer, seen, **kwargs):
    layer.adapt(seen, **kwargs)
    return layer


NUMBERS = np.random.default_rng(0).normal(5, 3, (64, 4)).astype(np.float32)
WORDS = np.array([["a b"], ["b"], ["c b a"], ["b a"]])


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: adapted(layers.Normalization(), NUMBERS), NUMBERS),
        (lambda: adapted(layers.Discretization(num_bins=5), NUMBERS), NUMBERS),
        (lambda: adapted(layers.StringLookup(), WORDS), WORDS),
        (lambda: adapted(layers.IntegerLookup(), NUMBERS.astype(int)), NUMBERS.astype(int)),
        (lambda: adapted(layers.TextVectorization(output_sequence_length=4), WORDS), WORDS),
        (lambda: adapted(layers.TextVectorization(output_mode="tf_idf"), WORDS), WORDS),
    ],
    ids=["normalization", "discretization", "strings", "integers", "text", "tf_idf"],
)
def test_what_a_layer_was_adapted_to_is_in_every_copy(make, x, tmp_path):
    """In variables from which Keras makes constants, or in a table that the config lacks."""
    inputs = keras.Input(x.shape[1:], dtype=x.dtype if x.dtype.kind != "U" else tf.string)
    hidden = layers.Lambda(lambda t: tf.cast(t, tf.float32))(make()(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(5, name="first")(hidden)))
    x = tf.constant(x)
    expected = model(x)
    ticket = lt.Ticket.of(model, lt.Masks({"first/kernel": np.ones(model.layers[-2].kernel.shape)}))
    for copy in (lt.wrap(model), lt.strip(lt.wrap(model)), ticket.build()):
        np.testing.assert_allclose(copy(x), expected, rtol=1e-6)
    fresh = ticket.reinitialised(0).weights
    for name, value in ticket.weights.items():
        assert (fresh[name] == value).all() == ("kernel" not in name), name
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 0 + 1)
    ticket.save(tmp_path / "ticket")
    np.testing.assert_allclose(lt.Ticket.load(tmp_path / "ticket").build(model)(x), expected, 1e-6)


def test_a_frozen_part_of_a_layer_changes_no_names():
    """Keras lists trainable variables first, and a copy may not know what is frozen."""
    model = chain(layers.Bidirectional(layers.LSTM(3), name="both"), shape=(5, 2))
    x, _ = examples(4, (5, 2))
    names = list(named_variables(model))
    model.get_layer("both").forward_layer.trainable = False
    assert list(named_variables(model)) == names
    np.testing.assert_array_equal(lt.strip(model)(x), model(x))
