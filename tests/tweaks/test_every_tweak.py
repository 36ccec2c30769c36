"""What every tweak of the table must pass, alone and all together."""

import dataclasses
import functools
import json

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import (
    assert_same,
    assert_zeros,
    eagerly,
    examples,
    functions,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import settings_of
from lottery_tf.graph.compat import is_keras3, keras, parts_of
from lottery_tf.graph.layers import assign, named_layers, named_variables
from lottery_tf.masks.prune_by_mask import OURS
from lottery_tf.models import create
from lottery_tf.tweaks.settings import tweak_settings
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak

BATCH, EPOCHS = 8, 2  # two steps an epoch, of which the first two fade


def network(softmax=False, of=keras):
    """A residual block with fused, separate and functional ReLUs, BatchNorm and a shortcut."""
    keras, layers = of, of.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="one")(x)
    y = layers.ReLU(name="one_relu")(layers.BatchNormalization(momentum=0.5, name="one_norm")(y))
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="two")(y)
    y = layers.BatchNormalization(momentum=0.5, name="two_norm")(y)
    x = layers.Conv2D(6, 1, strides=2, name="shortcut")(x)
    x = functions(of).relu(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Activation("relu", name="hidden_relu")(layers.Dense(8, name="hidden")(x))
    return keras.Model(inputs, layers.Dense(3, "softmax" if softmax else None, name="head")(x))


def drawn(seed, of=keras):
    """The network with the weights that tf_keras draws from a seed, in either Keras."""
    keras.utils.set_random_seed(seed)
    first = network()
    if of is keras:
        return first
    of.utils.set_random_seed(seed)
    other = network(of=of)
    assign(other, values(first))
    return other


ALL = ",".join(TWEAKS)
RECIPES = [*TWEAKS, ALL]
every_recipe = pytest.mark.parametrize("name", dict.fromkeys(RECIPES))
# All at once in graphs, each alone eagerly: its own tests have it in graphs.
TRAININGS = [(ALL, False), *((name, True) for name in TWEAKS)]
every_training = pytest.mark.parametrize(
    ("name", "eager", "of"), [(*each, of) for of in (keras, keras3) for each in TRAININGS]
)


def settings(of=keras):
    """What the tweaks need: a teacher, and no more of a search than shows that it works."""
    return {"rescaled_init_iterations": 2, "distillation_teacher": drawn(1, of)}


@pytest.fixture(scope="module")
def trained():
    """(Recipe's name, whether eagerly, Keras) → what comes of a masked model trained with it."""

    @functools.cache
    def get(name, eager, of):
        with eagerly(eager):
            return _train(name, of)

    return get


def _train(name, of):
    recipe = lt.Recipe(name, settings(of))
    x, y = examples(16, (8, 8, 1))
    plain = drawn(0, of)
    masks = random_masks(plain)
    before = values(plain)
    model = lt.wrap(plain, masks)
    start = values(model)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    model = recipe.prepare(model, data.repeat())
    model.compile(of.optimizers.SGD(0.05, momentum=0.9), recipe.loss(), metrics=["accuracy"])
    seen = []

    def check(batch, logs):
        """Every kernel that a mask prunes, wherever the tweak has put its layer."""
        seen.append(batch)
        assert lt.get_masks(model).kept == masks.kept
        assert_zeros(model, lt.get_masks(model), model.optimizer)
        assert len([each for each in parts_of(model) if isinstance(each, OURS)]) >= len(masks)

    watch = of.callbacks.LambdaCallback(on_train_batch_end=check)
    history = model.fit(
        *(data,),
        epochs=EPOCHS,
        validation_data=data,
        callbacks=[*recipe.callbacks(), watch],
        verbose=0,
    ).history
    assert len(seen) == EPOCHS * 2
    assert_same(values(plain), before)
    return recipe, model, recipe.finish(model), masks, start, history, (x, y)


@pytest.mark.long
@every_training
def test_the_finished_model_shows_no_trace(trained, name, eager, of):
    """The architecture that went into ``prepare``: plain layers, same names, exact zeros."""
    _, _, final, masks, start, _, _ = trained(name, eager, of)
    original = network(of=of)
    described = {path: type(layer) for path, layer in named_layers(final).items()}
    expected = {path: type(layer) for path, layer in named_layers(original).items()}
    plain = {path for path in expected if not path.startswith(("input", "tf."))}
    assert {path: described.get(path) for path in plain} == {p: expected[p] for p in plain}
    assert len(described) == len(expected)
    assert all(kind.__module__.startswith(f"{of.__name__}.") for kind in described.values())
    if is_keras3(final):  # the functions too, which are no layers there
        assert list(map(type, final.operations)) == list(map(type, original.operations))
    assert final.count_params() == original.count_params()
    for path in plain:
        ours, theirs = (named_layers(each)[path].get_config() for each in (final, original))
        assert ours == theirs, path
    assert_zeros(final, masks)
    after = values(final)
    assert after.keys() == start.keys()
    for weight, mask in masks.items():
        assert np.isfinite(after[weight]).all()
        assert (after[weight] != start[weight]).any(), f"{weight} was not trained"
        assert np.count_nonzero(after[weight]) <= mask.sum()


@pytest.mark.long
@every_training
def test_the_finished_model_computes_what_the_trained_one_computes(trained, name, eager, of):
    _, model, final, _, _, _, (x, _) = trained(name, eager, of)
    np.testing.assert_allclose(final(x), model(x, training=False), atol=1e-5)
    assert np.abs(final(x)).max() > 0.01


@every_training
def test_the_evaluation_loss_is_the_plain_one(trained, name, eager, of):
    """That of ``fit``'s validation, of ``evaluate`` and of the finished model."""
    _, model, final, _, _, history, (x, y) = trained(name, eager, of)
    loss = of.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain = loss(y, model(x, training=False))
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], plain, rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"][-1], plain, rtol=1e-5)
    np.testing.assert_allclose(loss(y, final(x)), plain, rtol=1e-4)


@every_training
def test_finishing_changes_nothing_in_the_trained_model(trained, name, eager, of):
    recipe, model, final, *_ = trained(name, eager, of)
    before = [variable.numpy() for variable in model.variables]
    again = recipe.finish(model)
    assert_same(values(again), values(final))
    assert_same([variable.numpy() for variable in model.variables], before)
    named_variables(again)["head/bias"].assign_add(np.ones(3))
    assert_same([variable.numpy() for variable in model.variables], before)


@pytest.mark.parametrize(("name", "eager"), TRAININGS)
def test_both_kerases_train_the_same(trained, name, eager):
    """Losses, what fades, what was learned and the finished weights.

    Not BatchNorm's moving variance, of which tf_keras makes n/(n − 1) of the batch's for images.
    """
    recipe, model, final, _, start, history, _ = trained(name, eager, keras)
    _, other, its_final, _, its_start, its_history, _ = trained(name, eager, keras3)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    assert_same(its_start, start)
    assert its_history.keys() == history.keys()
    for key in history.keys() - {"val_loss", "val_accuracy"}:
        near(its_history[key], history[key], err_msg=key)
    learned, its_learned = recipe.learned(model), recipe.learned(other)
    assert learned.keys() == its_learned.keys()
    for tweak, found in learned.items():
        near(list(its_learned[tweak]["scales"].values()), list(found["scales"].values()))
    for key, value in values(final).items():
        if not key.endswith("moving_variance"):
            near(values(its_final)[key], value, err_msg=key)


@every_recipe
def test_a_recipe_goes_through_json(name):
    recipe = lt.Recipe(name)
    description = json.loads(json.dumps(recipe.describe()))
    assert list(description) == name.split(",")
    assert lt.Recipe.restore(description).tweaks == recipe.tweaks
    assert lt.Recipe(recipe.name).tweaks == recipe.tweaks


@pytest.mark.parametrize("name", TWEAKS)
def test_a_tweak_is_a_frozen_dataclass_with_documented_fields(name):
    kind = TWEAKS[name]
    tweak = kind()
    assert isinstance(tweak, Tweak) and tweak == kind() and hash(tweak) == hash(kind())
    assert kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(")
    settings = {field.name: field for field in dataclasses.fields(tweak_settings())}
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(tweak, field.name, field.default)
    for field in settings_of(kind):
        assert field.metadata["help"]
        assert settings[f"{name}_{field.name}"].metadata == field.metadata


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "eager"),
    [
        (ALL, True),
        *(pytest.param(*each, marks=pytest.mark.e2e) for each in TRAININGS),
    ],
)
def test_on_a_dense_model_of_probabilities(name, eager, of):
    """A tweak works on any model: dense, and ending in a softmax."""
    recipe, (x, y) = lt.Recipe(name, settings(of)), examples(8, (8, 8, 1))
    plain = network(softmax=True, of=of)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    before = [dict(vars(tweak)) for tweak in recipe.tweaks]
    with eagerly(eager):
        model = recipe.prepare(plain, data)
        model.compile("sgd", recipe.loss())
        model.fit(data, callbacks=recipe.callbacks(), verbose=0)
    assert [
        dict(vars(tweak)) for tweak in recipe.tweaks
    ] == before  # the model keeps what is learned
    final = recipe.finish(model)
    np.testing.assert_allclose(final(x), model(x, training=False), atol=1e-5)
    assert final.count_params() == plain.count_params()


# The others leave what the network computes as it is, or search for a lower loss.
@pytest.mark.parametrize(
    ("name", "network"), [("ghost_skips", "resnet20"), ("soft_activation", "resnet8_half")]
)
def test_a_residual_network_begins_no_worse(name, network):
    """With the tweak's defaults the first training batch costs no more than plain, but for noise.

    Ghost skips of α = 1 around every convolution of a residual network double its signal a block,
    so that it takes a deep one to show.
    """
    keras.utils.set_random_seed(0)
    ticket = lt.prune(create(network, (8, 8, 1), 3, width=4), "erk", 0.95).build()
    x, y = examples(32, (8, 8, 1))
    model = lt.Recipe(name, settings()).prepare(
        ticket, tf.data.Dataset.from_tensors((x, y)).repeat()
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain, ours = (loss(y, each(x, training=True)).numpy() for each in (ticket, model))
    assert ours < 1.1 * plain


# Labels are looked at by the loss, which is the same for all tweaks but one.
@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["vanilla", ALL, pytest.param("distillation", marks=pytest.mark.e2e)]
)
def test_labels_that_are_no_classes_are_one_sentence(name, of):
    """Before the first step: nothing has moved."""
    few = {**settings(of), "rescaled_init_iterations": 1}
    recipe, (x, y) = lt.Recipe(name, few), examples(6, (8, 8, 1))
    good = tf.data.Dataset.from_tensors((x, y)).repeat()
    with eagerly():
        model = recipe.prepare(network(of=of), good)
    model.compile(of.optimizers.SGD(0.1), recipe.loss(), run_eagerly=True)
    before = values(model)
    for wrong in (y + 1, y - 3, y + 0.5):
        with pytest.raises(UsageError, match="whole numbers from 0 to 2; .* has labels from"):
            model.train_on_batch(x, wrong)
    trainable = {name: v for name, v in values(model).items() if "moving" not in name}
    assert_same(trainable, {name: before[name] for name in trainable})


@pytest.mark.parametrize("name", TWEAKS)
def test_its_parameters_alone_say_what_it_is(name):
    """What else it holds, such as the loss that it was prepared for, does not."""
    settings = settings_of(TWEAKS[name])
    for field in dataclasses.fields(TWEAKS[name]):
        assert field.compare == field.repr == (field in settings)
