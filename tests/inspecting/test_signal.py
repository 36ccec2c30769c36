"""How far signal and gradient reach, in numbers that a person can check."""

import math

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES, CASES3
from networks import (
    assert_same,
    both_kerases,
    chain,
    eagerly,
    every_variable,
    examples,
    layers,
    mlp,
    random_masks,
    two_devices,
    values,
)
from twins import BUILD, batch, twins

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.layers import assign
from lottery_tf.inspecting import LayerSignal, Signal, blocked, sentence_of, side_by_side


def batches(shape=(4,), size=6, classes=3, count=12):
    return tf.data.Dataset.from_tensor_slices(examples(count, shape, classes)).batch(size)


# By hand


def two_layers(layers=layers):
    """2 → 2 → 1: x = (1, 2) gives (1, −3), then 1; of the first kernel one weight is pruned."""
    model = chain(
        layers.Dense(2, "relu", use_bias=False, name="one"),
        layers.Dense(1, use_bias=False, name="head"),
        shape=(2,),
    )
    model.get_layer("one").kernel.assign([[1.0, -1.0], [5.0, -1.0]])
    model.get_layer("head").kernel.assign([[1.0], [2.0]])
    return lt.wrap(model, lt.Masks({"one/kernel": [[1, 1], [0, 1]]}))


@both_kerases
def test_a_net_of_five_weights(its_keras):
    data = tf.data.Dataset.from_tensors(([[1.0, 2.0]], [[0.0]]))
    # L = 1, dL/dy = 2: of the head (2, 0), of one ((2, 0), (4, 0)) ⊙ mask.
    assert lt.signal(two_layers(its_keras.layers), data, loss="mse") == Signal(
        [LayerSignal("one", 5.0, 2.0, kept=3), LayerSignal("head", 1.0, 2.0, kept=2)],
        loss=1.0,
        inputs=2.5,
    )


@both_kerases
def test_several_batches_count_by_their_examples(its_keras):
    """The second one is all 0 but for a label of 2: no gradient, and a loss of 4."""
    x, y = np.array([[1.0, 2], [0, 0], [0, 0]], np.float32), np.array([[0], [2], [2]], np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    found = lt.signal(two_layers(its_keras.layers), data, loss="mse", batches=9)
    one, head = found.layers
    assert (one.activations, head.activations) == (pytest.approx(10 / 6), pytest.approx(1 / 3))
    assert (one.gradient, head.gradient) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found.loss, found.inputs) == (3.0, pytest.approx(5 / 6))


@pytest.mark.long
@pytest.mark.parametrize("cases", [CASES, CASES3], ids=["tf_keras", "keras"])
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_layer(cases, name):
    """Each kernel's gradient is that of the scores; a layer's own are taken together."""
    case = cases[name]
    model = case.build()
    outputs = tf.nest.map_structure(tf.ones_like, model(case.x))
    # What is a list tf.data packs into a tensor.
    pair = tuple(tuple(each) if isinstance(each, list) else each for each in (case.x, outputs))
    data = tf.data.Dataset.from_tensors(pair)
    wrapped = lt.wrap(model, random_masks(model))
    found = lt.signal(wrapped, data, loss="mse")
    with eagerly():
        scored = Network(wrapped, data, "mse").gradient()
    squares = {}
    for weight, gradient in scored.items():
        path = weight.rpartition("/")[0]
        squares[path] = squares.get(path, 0) + float(np.sum(gradient**2))
    assert {row.layer for row in found.layers} == set(squares)
    for row in found.layers:
        assert row.gradient == pytest.approx(math.sqrt(squares[row.layer]), rel=1e-4), row.layer
        assert row.activations is not None and row.activations >= 0
    assert [each.layer for each in lt.signal(model, data, loss="mse").layers] == [
        row.layer for row in found.layers
    ]


# Of the same weights the same


@pytest.mark.parametrize("name", BUILD)
def test_in_both_kerases(name):
    theirs, ours = twins(name)
    masks = random_masks(theirs, 0.6)
    data = tf.data.Dataset.from_tensors(batch(name))
    expected, found = (
        lt.signal(lt.wrap(theirs, masks), data),
        lt.signal(lt.wrap(ours, masks), data),
    )
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.inputs == (expected.inputs and pytest.approx(expected.inputs, rel=1e-5))
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert (one.layer, one.kept) == (other.layer, other.kept)
        assert one.activations == pytest.approx(other.activations, rel=1e-5)
        assert one.gradient == pytest.approx(other.gradient, rel=1e-5)


def test_wrapped_or_plain():
    model = mlp()
    plain = lt.signal(model, batches())
    assert lt.signal(lt.wrap(model), batches()) == plain
    assert lt.signal(lt.Recipe("label_smoothing").prepare(model), batches()) == plain
    ticket = lt.Ticket.of(model, random_masks(model)).build()
    masked = lt.signal(ticket, batches())
    stripped = lt.signal(lt.strip(ticket), batches())
    # Without its masks a weight of 0 is one like any other.
    for one, other in zip(masked.layers, stripped.layers, strict=True):
        assert one.activations == pytest.approx(other.activations, rel=1e-5)
        assert one.gradient < other.gradient and one.kept < other.kept


def convolutions():
    return chain(
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1"),
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, name="head"),
        shape=(6, 6, 2),
    )


def test_with_a_recipe_on():
    """A skip takes a convolution's activation over: what comes before that is the same."""
    model, data = convolutions(), batches((6, 6, 2))
    plain = lt.signal(model, data)
    recipe = lt.Recipe([lt.GhostSkips(convolutions=("all",)), lt.SoftActivation()])
    prepared = recipe.prepare(lt.wrap(model))
    before = every_variable(prepared)
    found = lt.signal(prepared, data)
    assert_same(every_variable(prepared), before)
    assert [row.layer for row in found.layers] == ["conv1", "conv2", "head"]
    assert found.layers[0].activations == plain.layers[0].activations
    assert found.layers[1].activations != plain.layers[1].activations


@both_kerases
def test_the_batch_s_statistics_and_no_dropout(its_keras):
    """The moving ones are far off, and stay; what is dropped would be another time by time."""
    layers = its_keras.layers
    norm = layers.BatchNormalization(name="norm")
    model = chain(
        layers.Dense(5, name="one"),
        norm,
        layers.Dropout(0.5),
        layers.Dense(3, name="head"),
    )
    norm.moving_variance.assign([1e6] * 5)
    model.compile("sgd", "mse")
    before = every_variable(model)
    one, other = lt.signal(model, batches()), lt.signal(model, batches())
    assert one == other and one.layers[1].activations > 0.01
    assert_same(every_variable(model), before)


@both_kerases
def test_no_random_number_is_another(its_keras):
    layers = its_keras.layers
    model = chain(layers.Dense(5), layers.Dropout(0.5), layers.Dense(3))

    def drawn(look):
        keras3.utils.clear_session(free_memory=False)  # or older releases go on in one row
        its_keras.utils.set_random_seed(3)
        if look:
            lt.signal(model, batches())
        new = chain(layers.Dense(2), layers.Dropout(0.5))
        numbers = [np.random.random(3), tf.random.normal((3,)).numpy()]
        numbers += [keras3.random.normal((3,)).numpy()] if its_keras is keras3 else []
        return [*numbers, *new.get_weights(), new(np.ones((2, 4)), training=True).numpy()]

    assert_same(drawn(True), drawn(False))


# Blocked


def digits():
    return lt.data.load(lt.data.DataSettings()).stream()


def deep(depth):
    stack = [
        layers.Conv2D(
            16,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"conv{i}",
        )
        for i in range(depth)
    ]
    return chain(*stack, layers.GlobalAveragePooling2D(), layers.Dense(10), shape=(8, 8, 1))


@pytest.mark.parametrize(("depth", "sparsity"), [(12, 0.95), (8, 0.9)])
def test_a_ticket_that_does_not_train_and_its_cure(depth, sparsity):
    """These stay at chance, scaled they train. Two seconds and more: up to twelve convolutions."""
    model, data = deep(depth), digits()
    ticket, dense = lt.prune(model, "erk", sparsity), lt.signal(model, data)
    found = lt.signal(ticket.build(), data)
    scaled = lt.signal(lt.SignalScaling().prepare(ticket.build()), data)
    assert blocked(found, dense) == [row.layer for row in found.layers]
    assert blocked(found)[-1] == found.layers[-1].layer
    for told in (sentence_of(found, dense), sentence_of(found)):
        assert told.startswith("No gradient reaches conv")
        assert told.endswith("this ticket will not train as it is; signal_scaling would help.")
    for reference in (dense, None):
        assert blocked(scaled, reference) == blocked(dense, reference) == []
        assert sentence_of(scaled, reference) is None


@pytest.mark.parametrize(
    "name",
    ["resnet8_half", *(pytest.param(f"resnet{n}", marks=pytest.mark.e2e) for n in (20, 18))],
)
def test_with_batchnorm_nothing_is_blocked(name):
    """Some seconds: the smallest network of the zoo with BatchNorm and shortcuts."""
    model, data = lt.models.create(name, (8, 8, 1), 10, 8), digits()
    found = lt.signal(lt.prune(model, "erk", 0.95).build(), data)
    assert blocked(found, lt.signal(model, data)) == blocked(found) == []


def of(*rows, loss=1.0, inputs=1.0):
    """(activations, gradient, kept=1) of each layer a, b, …"""
    named = zip("abcdefghij", rows, strict=False)
    return Signal(
        [LayerSignal(name, *row, *(() if row[2:] else (1,))) for name, row in named], loss, inputs
    )


def test_the_thresholds():
    dense = of((1, 1), (1, 1), (1, 1))
    assert blocked(of((1, 9e-4), (1, 2e-3), (1, 1)), dense) == ["a"]
    assert blocked(of((9e-5, 1), (2e-4, 1), (None, 1)), dense) == ["a"]
    # What the dense network has not either, what is not known, and what has no weight left.
    assert blocked(of((0, 0), (math.nan, math.nan)), of((0, 0), (1, 1))) == []
    assert blocked(of((0, 0, 0), (1, 1)), dense) == []
    # Without it both have to be small, beside the inputs and the loss.
    small = (9e-6 * 4, 9e-4 * 2)
    assert blocked(of(small, (small[0], 1), (1, small[1]), loss=2, inputs=4)) == ["a"]
    assert blocked(of(small, loss=2, inputs=None)) == []
    assert blocked(of((None, 0))) == []


def test_the_sentence():
    assert sentence_of(of((1, 1))) is None
    none = [(0, 0)] * 8
    told = "No gradient reaches a, b, c, d, e, f and 2 more: this ticket will not train as it is"
    assert sentence_of(of(*none)) == f"{told}; signal_scaling would help."
    assert sentence_of(of(*none), tried=["signal_scaling"]) == f"{told}."
    # Scaling nothing is of no use.
    assert sentence_of(of(*none, (0, 0, 0))) == f"{told}."
    # In the middle of a network that gives something all the same.
    assert sentence_of(of((1, 1), (0, 0), (1, 1))) == (
        "No gradient reaches b: these layers will not train as they are; signal_scaling would help."
    )


def test_side_by_side():
    ticket, dense = of((1, 2), (3, 4)), of((5, 6))
    first, second = side_by_side(ticket=ticket, dense=dense)
    assert (first.layer, second.layer) == ("a", "b")
    assert first.activations == {"ticket": 1, "dense": 5}
    assert first.gradient == {"ticket": 2, "dense": 6}
    assert second.gradient == {"ticket": 4, "dense": None}


# What does not fit


@both_kerases
def test_mistakes(its_keras):
    model = mlp(its_keras.layers)
    with pytest.raises(UsageError, match="`batches` to be at least 1, not 0"):
        lt.signal(model, batches(), batches=0)
    with pytest.raises(UsageError, match="training data for the signal"):
        lt.signal(model, None)
    with pytest.raises(UsageError, match="classes of the model, whole numbers from 0 to 2"):
        lt.signal(model, batches(classes=9))
    with pytest.raises(UsageError, match="whose inputs fit the model"):
        lt.signal(model, batches((5,)))
    with pytest.raises(UsageError, match="whose inputs fit the model"):
        lt.signal(model, batches((5,)), batches=2)
    with pytest.raises(UsageError, match="Expected a Keras model"):
        lt.signal("model", batches())


@pytest.mark.e2e
@both_kerases
def test_on_two_devices_as_on_one(its_keras):
    model = mlp(its_keras.layers)
    masks = random_masks(model)
    with two_devices().scope():
        other = mlp(its_keras.layers)
        assign(other, values(model))
        other = lt.wrap(other, masks)
    for count in (1, 2):
        assert lt.signal(other, batches(), batches=count) == lt.signal(
            lt.wrap(model, masks), batches(), batches=count
        )
