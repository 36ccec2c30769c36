"""What is frozen in a model is frozen in every copy of it: models within it, single layers, layers
within others; and frozen BatchNorms go by their moving statistics."""

import numpy as np
import pytest
from networks import examples, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.training.precision import in_precision

X, Y = examples(8, (4,), 3)


def backbone(of):
    layers, inputs = of.layers, of.Input((4,))
    x = layers.BatchNormalization(name="norm_1")(layers.Dense(5, name="dense_1")(inputs))
    x = layers.ReLU(name="relu")(x)
    x = layers.BatchNormalization(name="norm_2")(layers.Dense(5, name="dense_2")(x))
    return of.Model(inputs, x, name="backbone")


def nested(of, **call):
    part, inputs = backbone(of), of.Input((4,))
    x = of.layers.Dense(6, "relu", name="middle")(part(inputs, **call))
    return of.Model(inputs, of.layers.Dense(3, name="head")(x)), part


def whole(of):
    model, part = nested(of)
    part.trainable = False
    return model


def in_inference(of):
    model, part = nested(of, training=False)
    part.trainable = False
    return model


def thawed_within(of):
    """tf_keras trains nothing of it, Keras 3 the layer that was thawed."""
    model, part = nested(of)
    part.trainable = False
    part.get_layer("dense_2").trainable = True
    return model


def norms(of):
    model, part = nested(of)
    for name in ("norm_1", "norm_2"):
        part.get_layer(name).trainable = False
    return model


def layer_by_layer(of):
    part = backbone(of)
    x = of.layers.Dense(6, "relu", name="middle")(part.output)
    model = of.Model(part.input, of.layers.Dense(3, name="head")(x))
    for layer in model.layers[:4]:
        layer.trainable = False
    return model


def all_of_it(of):
    model, _ = nested(of)
    model.trainable = False
    model.get_layer("head").trainable = True
    return model


def in_a_sequential(of):
    part = backbone(of)
    part.trainable = False
    middle, head = of.layers.Dense(6, "relu", name="middle"), of.layers.Dense(3, name="head")
    return of.Sequential([of.Input((4,)), part, middle, head])


def within_a_layer(of):
    """Of which the config of the layer around it says nothing."""
    layers, inputs = of.layers, of.Input((4,))
    x = layers.Dense(6, name="middle")(layers.Reshape((2, 2))(inputs))
    both = layers.Bidirectional(layers.LSTM(3, unroll=True), name="both")
    model = of.Model(inputs, layers.Dense(3, name="head")(both(x)))
    both.backward_layer.trainable = False
    return model


# Ten copies of each take seconds: the default suite has those that differ most.
KINDS = [
    *(whole, thawed_within, norms, within_a_layer),
    *(
        pytest.param(kind, marks=pytest.mark.e2e)
        for kind in (in_inference, layer_by_layer, all_of_it, in_a_sequential)
    ),
]


def trained(model):
    names = {id(variable): name for name, variable in named_variables(model).items()}
    return {names[id(each)] for each in model.trainable_weights if id(each) in names}


def moved(model):
    """Names of the variables that a training changes, BatchNorm's statistics among them."""
    before = {name: each.numpy().copy() for name, each in named_variables(model).items()}
    loss = keras_of(model).losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(X, Y, verbose=0)
    return {n for n, each in named_variables(model).items() if (each.numpy() != before[n]).any()}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_copy_trains_what_the_model_trains(kind, of, tmp_path):
    model = kind(of)
    ticket = lt.Ticket.of(model, random_masks(model))
    ticket.save(tmp_path / "ticket")
    loaded = lt.Ticket.load(tmp_path / "ticket")
    of_files, recipe = loaded.build(), lt.Recipe("soft_activation,ghost_skips")
    copies = {
        "wrapped": lt.wrap(model),
        "stripped": lt.strip(of_files),
        "built": ticket.build(),
        "upon a model": ticket.build(model),
        "loaded": of_files,
        "new weights": loaded.reinitialised(1).build(),
        "in 16 bits": in_precision(model, "mixed_bfloat16"),
        "prepared": recipe.prepare(of_files),
        "finished": lt.Recipe("label_smoothing").finish(of_files),
    }
    wanted = trained(model)
    assert "middle/kernel" in wanted or kind is all_of_it
    for name, copy in copies.items():
        assert trained(copy) == wanted, name
    if kind is not all_of_it or of is keras3:  # tf_keras has nothing to train there
        expected = moved(copies["stripped"])
        assert {name for name in expected if "moving" not in name} == wanted
        assert moved(copies["loaded"]) == expected == moved(model)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_other_keras_trains_the_same(kind, of):
    model = kind(of)
    ticket = lt.Ticket.of(model, random_masks(model))
    try:
        other = ticket.in_keras("keras" if of is keras else "tf_keras").build()
    except UsageError:
        assert kind is within_a_layer  # which the other Keras describes otherwise
        return
    assert trained(other) == trained(model)


@pytest.mark.long
def test_a_frozen_backbone_keeps_its_weights_and_its_statistics(of):
    """Found, retrained by a recipe and finished, bit for bit; its kernels are left dense."""
    model = whole(of)
    before = {n: v.numpy() for n, v in named_variables(model).items() if n.startswith("backbone/")}
    ticket = lt.find_ticket(
        model,
        (X, Y),
        optimizer=of.optimizers.SGD(0.1),
        epochs=1,
        rounds=1,
        keep_dense=("backbone", "last"),
        jit_compile=False,
    )
    assert list(ticket.masks) == ["middle/kernel"]
    recipe = lt.Recipe("label_smoothing")
    retrained = recipe.prepare(ticket.build(), (X, Y))
    retrained.compile("sgd", recipe.loss(), run_eagerly=True)
    retrained.fit(X, Y, verbose=0, callbacks=recipe.callbacks())
    after = named_variables(recipe.finish(retrained))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name].numpy(), value, err_msg=name)


def test_what_lora_has_frozen_stays_so():
    layers = keras3.layers
    model = keras3.Sequential(
        [keras3.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="head")]
    )
    model.get_layer("a").enable_lora(2)
    model.get_layer("head").bias.trainable = False
    names = [each.path for each in model.trainable_variables]
    assert "a/kernel" not in names and "head/bias" not in names
    assert [each.path for each in lt.wrap(model).trainable_variables] == names


@pytest.mark.long
@pytest.mark.parametrize("its_keras", [keras, keras3], ids=["tf_keras", "keras"])
def test_a_model_at_two_places_and_a_part_behind_it(its_keras, tmp_path):
    layers = its_keras.layers
    inner = its_keras.Sequential([its_keras.Input((2, 4)), layers.Dense(4)], name="inner")
    nests = [its_keras.Sequential([its_keras.Input((2, 4)), inner], name=n) for n in ("m", "n")]
    inputs = its_keras.Input((2, 4))
    x = layers.Add()([nest(inputs) for nest in nests])
    for name in ("one", "two"):
        one = layers.LSTM(2, return_sequences=True, unroll=True)
        both = layers.Bidirectional(one, name=name)
        x = both(x)
    both.backward_layer.trainable = False
    model = its_keras.Model(inputs, layers.Dense(3, name="head")(x))
    lt.Ticket.of(model, random_masks(model)).save(tmp_path / "ticket")
    built = lt.Ticket.load(tmp_path / "ticket").build()
    assert trained(built) == trained(model)
