"""Copies of a model in which some layers are other ones."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES
from networks import (
    Opaque,
    assert_same,
    both_kerases,
    chain,
    examples,
    functions,
    layers,
    mlp,
    opaque_of,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.copies import copy_layer, copy_with_paths, rebuild
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import layer_paths, named_layers, named_variables
from lottery_tf.graph.own_classes import set_on


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


@functools.cache
def own_classes(of):
    """A chain, a graph, and a graph that its own ``__init__`` builds, of a Keras."""

    class OwnChain(OwnStep, of.Sequential):
        pass

    class OwnGraph(OwnStep, of.Model):
        pass

    class OwnBuilt(OwnGraph):
        def __init__(self, width, factor=1.0):
            inputs = of.Input((4,))
            super().__init__(inputs, of.layers.Dense(width, name="one")(inputs), name="built")
            self.factor, self.parts = factor, {"one": [self.get_layer("one")]}

    return OwnChain, OwnGraph, OwnBuilt


def chained(of=keras):
    return own_classes(of)[0]([of.Input((4,)), of.layers.Dense(2)], name="chained")


def graph(of=keras):
    inputs = of.Input((4,))
    return own_classes(of)[1](inputs, of.layers.Dense(2)(inputs))


def built(of=keras):
    return own_classes(of)[2](2, 3.0)


@both_kerases
@pytest.mark.parametrize("make", [chained, graph, built])
def test_a_class_of_the_users_own_and_what_was_set_on_it_come_along(make, its_keras):
    model = make(its_keras)
    model.scale, model._shift, model.names = 0.5, -1, ("a", ["b"])
    for copy in (
        rebuild(model, copy_layer),
        lt.wrap(model, random_masks(model)),
        lt.strip(lt.wrap(model, random_masks(model))),
        lt.SoftActivation().prepare(model),
        lt.Ticket.of(model, random_masks(model)).build(),
    ):
        assert type(copy) is type(model)
        assert (copy.scale, copy._shift, tuple(copy.names)) == (0.5, -1, ("a", ["b"]))
        copy.compile("sgd", "mse")
        x, y = examples(3, classes=2)
        assert copy.train_step((tf.constant(x), tf.one_hot(y, 2)))
        assert copy.helper() == 0
        if make is built:
            (one,) = copy.parts["one"]
            assert copy.factor == 3 and one is copy.get_layer("one")
            assert copy is model or one is not model.get_layer("one")


class Holds:
    def __init__(self, thing):
        self.thing = {"one": [thing]}


STATE = {
    "variable": lambda model: tf.Variable(0) if keras_of(model) is keras else keras3.Variable(0),
    "layer": lambda model: keras_of(model).layers.Dense(2),
    "model": lambda model: {"one": [mlp(keras_of(model).layers)]},
    "optimizer": lambda model: keras_of(model).optimizers.SGD(),
    "function of it": lambda model: lambda: model.layers[-1],
    "partial of a weight": lambda model: functools.partial(print, model.layers[-1].kernel),
    "object with it": Holds,
    "method of such": lambda model: Holds(model).__init__,
}


@both_kerases
@pytest.mark.parametrize("what", STATE)
@pytest.mark.parametrize("make", [chained, graph, None], ids=["chained", "graph", "plain"])
def test_state_that_copies_would_share_is_refused(make, what, its_keras):
    """Where the class can read it; a plain model is one that something was hung on."""
    model = mlp(its_keras.layers) if make is None else make(its_keras)
    model.note = STATE[what](model)
    if make is None:
        assert not hasattr(rebuild(model, copy_layer), "note")
        return
    with pytest.raises(UsageError, match="are in the layers of its graph; .* also has note"):
        rebuild(model, copy_layer)


@both_kerases
@pytest.mark.parametrize("make", [chained, graph, None], ids=["chained", "graph", "plain"])
def test_a_step_that_was_set_on_the_model_itself_is_refused(make, its_keras):
    model = mlp(its_keras.layers) if make is None else make(its_keras)
    model.train_step = lambda data: {}
    with pytest.raises(UsageError, match="with the train_step of its class"):
        rebuild(model, copy_layer)


@both_kerases
def test_methods_become_the_copys_and_metrics_new_ones(its_keras):
    model = graph(its_keras)
    model.help, model.table = model.helper, {"a": "b", "c": ("d", 1)}
    model.tracker = [its_keras.metrics.Mean(name="mean")]
    model.tracker[0].update_state(3.0)
    copy = rebuild(model, copy_layer)
    assert copy.help.__self__ is copy and copy.table == {"a": "b", "c": ("d", 1)}
    assert copy.tracker[0].name == "mean" and float(copy.tracker[0].result()) == 0


def test_what_tweaks_and_trainings_leave_on_a_model_is_no_state_of_it():
    model = mlp()
    recipe = lt.Recipe([lt.LabelSmoothing(), lt.Distillation(mlp())])
    model = recipe.prepare(model)
    model.compile("adam", recipe.loss(), metrics=["accuracy"], run_eagerly=True)
    model.fit(*examples(), validation_data=examples(), callbacks=recipe.callbacks(), verbose=0)
    assert_same(values(rebuild(model, copy_layer)), values(model))


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
@pytest.mark.parametrize("make", [graph, mlp], ids=["own", "plain"])
def test_what_loading_leaves_on_a_model_is_no_state_of_it(tmp_path, make, suffix):
    model = make()
    model.compile("sgd", "mse", metrics=["mae"])
    model.save(tmp_path / f"model{suffix}", save_format=None if suffix else "tf")
    with keras.saving.custom_object_scope({"OwnGraph": own_classes(keras)[1]}):
        loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    assert set_on(loaded) == {}
    assert_same(values(rebuild(loaded, copy_layer)), values(model))


def test_connections_are_not_added_to_a_sequential_of_the_users_own():
    stack = layers.Conv2D(2, 3, padding="same"), layers.ReLU(), layers.Flatten(), layers.Dense(3)
    model = own_classes(keras)[0]([keras.Input((4, 4, 1)), *stack])
    with pytest.raises(UsageError, match="a Sequential of a class of its own, OwnChain"):
        lt.GhostSkips(convolutions=("all",)).prepare(model)


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
        (lambda: Opaque(object()), r"cannot make the layer 'opaque' \(Opaque\) \(Layer Opaque was"),
        (lambda: opaque_of(keras3)(object()), "the layer 'opaque' .*get_config"),
        (lambda: layers.Dense(2, lambda x: x, name="it"), "the layer 'it' .*named functions"),
        (lambda: layers.LSTM(2, times(1), times(2), name="it"), "the layer 'it' .*Give it"),
    ],
)
def test_layers_that_cannot_be_copied_get_one_sentence(layer, words):
    with pytest.raises(UsageError, match=words) as error:
        rebuild(chain(layer(), shape=(4, 3)), copy_layer)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_renaming():
    model = CASES["nested"].build()
    paths = [p if "input" in p else f"{p}_new" for p in layer_paths(model)]
    copy = copy_with_paths(model, paths)
    assert layer_paths(copy) == paths
    assert layer_paths(keras.models.model_from_json(copy.to_json())) == paths


def adapted(layer, seen, **kwargs):
    layer.adapt(seen, **kwargs)
    return layer


NUMBERS = np.random.default_rng(0).normal(5, 3, (64, 4)).astype(np.float32)
WORDS = np.array([["a b"], ["b"], ["c b a"], ["b a"]])


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda k: adapted(k.Normalization(), NUMBERS), NUMBERS),
        (lambda k: adapted(k.Discretization(num_bins=5), NUMBERS), NUMBERS),
        (lambda k: adapted(k.StringLookup(), WORDS), WORDS),
        (lambda k: adapted(k.IntegerLookup(), NUMBERS.astype(int)), NUMBERS.astype(int)),
        (lambda k: adapted(k.TextVectorization(output_sequence_length=4), WORDS), WORDS),
        (lambda k: adapted(k.TextVectorization(output_mode="tf_idf"), WORDS), WORDS),
    ],
    ids=["normalization", "discretization", "strings", "integers", "text", "tf_idf"],
)
def test_what_a_layer_was_adapted_to_is_in_every_copy(make, x, its_keras, tmp_path):
    """In variables from which Keras makes constants, or in a table that the config lacks."""
    layers = its_keras.layers
    inputs = its_keras.Input(x.shape[1:], dtype=x.dtype.name if x.dtype.kind != "U" else "string")
    seen = make(layers)(inputs)
    hidden = functions(its_keras).cast(seen, "float32")
    model = its_keras.Model(inputs, layers.Dense(3)(layers.Dense(5, name="first")(hidden)))
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


@both_kerases
def test_words_that_were_set_later_are_those_of_every_copy(its_keras):
    """The config has the first ones still."""
    lookup = its_keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    lookup.set_vocabulary(["x", "y"])
    inputs = its_keras.Input((), dtype="string")
    model = its_keras.Model(inputs, its_keras.layers.Dense(2)(lookup(inputs)))
    words = tf.constant(["x", "y", "a"])
    np.testing.assert_array_equal(rebuild(model, copy_layer)(words), model(words))


@both_kerases
@pytest.mark.parametrize(
    "make",
    [
        lambda k, on: k.Activation("relu", activity_regularizer=on),
        lambda k, on: k.ReLU(activity_regularizer=on),
        lambda k, on: k.BatchNormalization(activity_regularizer=on),
        lambda k, on: k.LayerNormalization(activity_regularizer=on),
        lambda k, on: k.Dense(3, activity_regularizer=on),
    ],
)
def test_a_copy_has_the_regularizer_of_the_activity(make, its_keras):
    model = chain(make(its_keras.layers, "l2"), its_keras.layers.Dense(2))
    x, _ = examples(6)
    for copy in (rebuild(model, copy_layer), lt.strip(lt.wrap(model))):
        found = []
        for each in (model, copy):
            each(x, training=True)
            found.append(float(sum(each.losses)))
        assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0] > 0


def test_a_frozen_part_of_a_layer_changes_no_names():
    """Keras lists trainable variables first, and a copy may not know what is frozen."""
    model = chain(layers.Bidirectional(layers.LSTM(3), name="both"), shape=(5, 2))
    x, _ = examples(4, (5, 2))
    names = list(named_variables(model))
    model.get_layer("both").forward_layer.trainable = False
    assert list(named_variables(model)) == names
    np.testing.assert_array_equal(lt.strip(model)(x), model(x))
