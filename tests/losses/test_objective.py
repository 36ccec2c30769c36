"""What a model is trained by, as one number: as Keras' own fit and evaluate have it."""

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, chain, examples, functions

from lottery_tf.common.errors import UsageError
from lottery_tf.losses.labels import with_class_weight
from lottery_tf.losses.objective import Objective, batches_of, objective_on


def as_trained(model, *batch):
    """The loss of a step of training that changes nothing."""
    data = tf.data.Dataset.from_tensors(batch)
    return model.fit(data, verbose=0).history["loss"][0]


def two_headed(its_keras, by_name=False):
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    x = layers.Dense(5, "relu", name="trunk")(inputs)
    heads = [layers.Dense(3, name="kind")(x), layers.Dense(1, name="size")(x)]
    outputs = dict(zip(("kind", "size"), heads, strict=True)) if by_name else heads
    model = its_keras.Model(inputs, outputs)
    its_keras.utils.set_random_seed(0)
    model.set_weights([np.random.normal(size=each.shape) for each in model.get_weights()])
    return model


@pytest.mark.long
@both_kerases
def test_the_loss_is_of_the_steps_that_are_no_padding(its_keras):
    """As Keras' fit has it: [1, 2, 0, 0] counts twice, [3, 0, 0, 0] once."""
    layers = its_keras.layers
    inputs = its_keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True)(inputs)
    x = layers.LSTM(4, return_sequences=True, unroll=True)(x)
    model = its_keras.Model(inputs, layers.Dense(3)(x))
    tokens, labels = np.array([[1, 2, 0, 0], [3, 0, 0, 0]]), np.array([[1, 2, 0, 0], [1, 0, 0, 0]])
    loss = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(its_keras.optimizers.SGD(0.0), loss)
    found, outputs = Objective(model, loss), model(tokens)
    measured = model.evaluate(tokens, labels, verbose=0)
    assert float(found((tokens, tf.constant(labels)))) == pytest.approx(measured, rel=1e-5)
    every = found.of_computed(tf.identity(outputs), tf.constant(labels))
    assert float(every) != pytest.approx(measured, rel=1e-4)
    weights = np.array([2.0, 0.5], np.float32)
    weighted = as_trained(model, tokens, labels, np.repeat(weights[:, None], 4, 1))
    assert float(found((tokens, tf.constant(labels), weights))) == pytest.approx(weighted, rel=1e-5)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("form", ["by name", "in order"])
def test_losses_and_weights_of_several_outputs(its_keras, form):
    model, (x, y) = two_headed(its_keras, form == "by name"), examples(8)
    sizes = np.linspace(-1, 1, 8, dtype=np.float32)
    of_kinds = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = {"kind": of_kinds, "size": "mean_squared_error"}
    factors, labels = {"kind": 0.25, "size": 3.0}, {"kind": y, "size": sizes}
    weights = {"kind": np.linspace(0, 2, 8), "size": np.linspace(3, 1, 8)}
    if form == "in order":
        loss, factors = ([each["kind"], each["size"]] for each in (loss, factors))
        labels, weights = ((each["kind"], each["size"]) for each in (labels, weights))
    model.compile(its_keras.optimizers.SGD(0.0), loss, loss_weights=factors)
    objective = Objective(model, loss, factors)
    assert float(objective((x, labels))) == pytest.approx(as_trained(model, x, labels), rel=1e-5)
    weighted = as_trained(model, x, labels, weights)
    assert float(objective((x, labels, weights))) == pytest.approx(weighted, rel=1e-5)
    plain = float(Objective(model, loss)((x, labels)))
    kinds = float(Objective(model, {"kind": of_kinds})((x, {"kind": y})))
    alone = float(Objective(model, {"size": "mean_squared_error"})((x, {"size": sizes})))
    assert kinds + alone == pytest.approx(plain, rel=1e-5)
    with pytest.raises(ValueError, match="loss_weights for odd of kind, size"):
        Objective(model, loss, {"odd": 1.0})((x, labels))
    with pytest.raises(ValueError, match="weights of the examples for 3 of 2 outputs"):
        objective((x, labels, [sizes] * 3))


def adding(its_keras):
    """Layers that add losses, one by ``add_loss`` and one by its activity, and a regularizer."""

    class Adds(its_keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_mean(tf.square(inputs)))
            return inputs

    return chain(
        its_keras.layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2"), Adds()
    )


@both_kerases
def test_what_a_call_adds_counts_and_regularizers_of_weights_do_not(its_keras):
    model, (x, y) = adding(its_keras), examples(8)
    model.compile(its_keras.optimizers.SGD(0.0))
    penalty = 0.01 * float(np.sum(np.square(model.get_weights()[0])))
    alone = Objective(model, labelled=False)
    assert float(alone(x)) == pytest.approx(as_trained(model, x) - penalty, rel=1e-5)
    assert float(alone((x,))) == float(alone(x)) > 0
    loss = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with_labels = float(Objective(model, loss)((x, y)))
    assert with_labels == pytest.approx(float(alone(x)) + float(loss(y, model(x))), rel=1e-5)


@both_kerases
def test_nothing_to_train_by(its_keras):
    model, (x, _) = chain(its_keras.layers.Dense(3)), examples(8)
    with pytest.raises(UsageError, match="inputs alone, and '.*' has no losses of its own"):
        Objective(model, labelled=False)(x)
    with pytest.raises(UsageError, match="Expected data with labels for the loss"):
        Objective(model, "mse", labelled=False)
    with pytest.raises(UsageError, match="the name of a Keras loss, .* not 'mes'"):
        Objective(model, "mes")


@both_kerases
def test_weights_of_classes_are_those_of_fit(its_keras):
    model, (x, y) = chain(its_keras.layers.Dense(3)), examples(8)
    loss = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights, of_examples = {0: 1.0, 1: 3.0, 2: 0.5}, np.linspace(1, 2, 8, dtype=np.float32)
    model.compile(its_keras.optimizers.SGD(0.0), loss)
    expected = model.fit(x, y, 8, class_weight=weights, verbose=0).history["loss"][0]
    for labels in (y, y[:, None], np.eye(3, dtype=np.float32)[y]):
        data = tf.data.Dataset.from_tensors((x, labels))
        (batch,) = with_class_weight(data, weights, model)
        found = np.array([weights[n] for n in y], np.float32)
        np.testing.assert_array_equal(batch[2], found)
        (batch,) = with_class_weight(data.map(lambda *xy: (*xy, of_examples)), weights, model)
        np.testing.assert_array_equal(batch[2], found * of_examples)
    found = float(
        Objective(model, loss)(
            next(iter(with_class_weight(tf.data.Dataset.from_tensors((x, y)), weights, model)))
        )
    )
    assert found == pytest.approx(expected, rel=1e-5)


@both_kerases
@pytest.mark.parametrize(
    "layer, weights, match",
    [
        ({"units": 3}, {0: 1.0, 1: 2.0}, r"from 0 to 2; got weights for \[0, 1\]"),
        ({"units": 1}, {0: 1.0, 2: 2.0}, r"from 0 to 1; got weights for \[0, 2\]"),
        ({"units": 3, "activation": "sigmoid"}, {0: 1.0, 1: 2.0, 2: 1.0}, "each label a prob"),
    ],
)
def test_weights_of_classes_that_do_not_fit(its_keras, layer, weights, match):
    data = tf.data.Dataset.from_tensors(examples(8))
    with pytest.raises(UsageError, match=match):
        with_class_weight(data, weights, chain(its_keras.layers.Dense(**layer)))


@both_kerases
def test_weights_of_classes_need_one_output_and_labels(its_keras):
    model, data = two_headed(its_keras), tf.data.Dataset.from_tensors(examples(8))
    assert with_class_weight(data, None, model) is data
    with pytest.raises(UsageError, match="one output for class_weight; '.*' has 2"):
        with_class_weight(data, {0: 1.0}, model)
    model = chain(its_keras.layers.Dense(3))
    with pytest.raises(UsageError, match="data with labels"):
        with_class_weight(data.map(lambda x, y: x), {0: 1.0}, model)


def test_data_of_another_form():
    with pytest.raises(UsageError, match=r"for scores, a tf.data.Dataset .*, not list"):
        objective_on(None, [], None, "scores")
    four = tf.data.Dataset.from_tensors((1.0, 2.0, 3.0, 4.0))
    with pytest.raises(UsageError, match="or \\(inputs, labels, weights"):
        objective_on(None, four, None, "scores")
    with pytest.raises(UsageError, match="not an empty one"):
        batches_of(four.take(0))


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("which", ["sum", "ignored", "own", "array of weights"])
def test_what_a_loss_makes_of_its_values(which, its_keras):
    """Its reduction, the classes that it ignores, and a function of the user's own."""
    model, (x, y) = chain(its_keras.layers.Dense(3)), examples(8)
    kind = its_keras.losses.SparseCategoricalCrossentropy
    weights = None
    if which == "sum":
        loss = kind(from_logits=True, reduction="sum")
    elif which == "ignored":
        loss = kind(from_logits=True, ignore_class=1)
    elif which == "own":
        y = np.eye(3)[y]  # float64

        def loss(labels, outputs):
            return functions(its_keras).sum((labels - outputs) ** 2, -1)

    else:
        model, loss, weights = two_headed(its_keras), ["mean_squared_error"] * 2, [0.25, 3.0]
        y = (np.ones((8, 3), np.float32), np.ones((8, 1), np.float32))
    model.compile(its_keras.optimizers.SGD(0.0), loss, loss_weights=weights)
    given = None if weights is None else np.array(weights)
    found = float(Objective(model, loss, given)((x, y)))
    assert found == pytest.approx(as_trained(model, x, y), rel=1e-5)
