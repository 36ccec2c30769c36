"""Checkpoints of wrapped models, tfmot's tools on them, and training on several devices."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
from networks import (
    EachBatch,
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    chain,
    every_variable,
    examples,
    layers,
    mlp,
    on_two_devices,
    random_masks,
    values,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prunable import prunable_weights

sparsity = tfmot.sparsity.keras
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(seed=0, eager=False):
    """A wrapped model, compiled; masks and weights by the seed."""
    keras.utils.set_random_seed(seed)
    model = mlp()
    masks = random_masks(model, seed=seed)
    model = lt.wrap(model, masks)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, run_eagerly=eager)
    return model, masks


def with_zeros_after_each_batch(model, masks):
    return EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=1))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize(
    "kind", ["saved_model", "model.keras", pytest.param("model.h5", marks=pytest.mark.e2e)]
)
def test_a_saved_model_is_sparse_and_goes_on_training(tmp_path, kind):
    """TRAPS 2 and 14: no prune_scope, exact zeros, the masks come back."""
    x, y = examples()
    model, masks = compiled()
    model.fit(x, y, batch_size=6, verbose=0)
    path = tmp_path / kind
    model.save(path, save_format={"saved_model": "tf", "model.keras": "keras"}.get(kind, "h5"))
    loaded = keras.models.load_model(path)
    assert lt.get_masks(loaded) == masks
    assert_same(values(loaded), values(model))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    before = values(loaded)
    watch = with_zeros_after_each_batch(loaded, masks)
    loaded.fit(x, y, batch_size=6, callbacks=[watch], verbose=0)
    assert watch.calls == 2
    assert_finite_and_moved(loaded, before)
    assert_same(values(lt.strip(loaded)), values(loaded))


@pytest.mark.parametrize("kind", ["weights.h5", "checkpoint"])
def test_saved_weights_bring_their_masks(tmp_path, kind):
    model, masks = compiled()
    model.save_weights(tmp_path / kind)
    other, others = compiled(seed=1)
    assert others != masks
    other.load_weights(tmp_path / kind)
    assert lt.get_masks(other) == masks
    assert_same(values(other), values(model))


def test_checkpoints_in_the_middle_of_training_hold_exact_zeros(tmp_path, eager):
    """TRAP 2, tfmot #206: the callback sees and saves sparse weights after any batch."""
    x, y = examples()
    model, masks = compiled(eager=eager)
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.keras"), save_freq=1)
    model.fit(x, y, batch_size=4, callbacks=[save], verbose=0)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        loaded = keras.models.load_model(file)
        assert_zeros(loaded, masks, loaded.optimizer, slots=1)
        assert np.count_nonzero(values(loaded)["first/kernel"]) == masks["first/kernel"].sum()


# tfmot


def test_tfmot_knows_the_wrapper_and_strips_it_to_exact_zeros():
    model, masks = compiled()
    assert sum(isinstance(layer, PruneLowMagnitude) for layer in model.layers) == len(masks)
    stripped = sparsity.strip_pruning(model)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in mlp().layers]
    assert_zeros(stripped, masks)
    x, _ = examples()
    np.testing.assert_array_equal(stripped(x), model(x))


def test_tfmots_callback_is_harmless(eager):
    x, y = examples()
    (with_it, masks), (without, _) = compiled(eager=eager), compiled(eager=eager)
    callbacks = [sparsity.UpdatePruningStep(), with_zeros_after_each_batch(with_it, masks)]
    keras.utils.set_random_seed(0)
    with_it.fit(x, y, batch_size=6, epochs=2, callbacks=callbacks, verbose=0)
    keras.utils.set_random_seed(0)
    without.fit(x, y, batch_size=6, epochs=2, verbose=0)
    assert_same(every_variable(with_it), every_variable(without))


@pytest.fixture(scope="module")
def stock():
    """A model that stock tfmot has pruned to one half, its weights dense as a step leaves them."""
    model = sparsity.prune_low_magnitude(
        chain(layers.Dense(8, activation="relu", name="one"), layers.Dense(3, name="two")),
        sparsity.ConstantSparsity(0.5, begin_step=1, frequency=1),
    )
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    x, y = examples()
    dense = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: [w.assign_add(0.5 + 0 * w) for w in model.trainable_weights]
    )
    model.fit(x, y, batch_size=3, callbacks=[sparsity.UpdatePruningStep(), dense], verbose=0)
    masks = lt.Masks({f"{w.layer.name}/kernel": w.pruning_vars[0][1] for w in model.layers[1:]})
    assert 0.4 < masks.sparsity < 0.6
    assert all(layer.layer.kernel.numpy().all() for layer in model.layers[1:])
    return model, masks


def test_strip_takes_the_masks_of_a_stock_tfmot_model(stock):
    """TRAP 2: tfmot's own strip_pruning leaves the weights as the last step left them."""
    model, masks = stock
    stripped = lt.strip(model)
    assert [type(layer) for layer in stripped.layers[1:]] == [layers.Dense, layers.Dense]
    for name, mask in masks.items():
        expected = np.where(mask, values(model)[name], 0)
        np.testing.assert_array_equal(values(stripped)[name], expected)


def test_a_ticket_from_a_stock_tfmot_model(stock):
    model, masks = stock
    ticket = lt.Ticket.from_pruned(model)
    assert ticket.masks == masks
    assert_zeros(ticket.build(), masks)
    assert list(prunable_weights(model)) == ["one/kernel"]
    assert lt.get_masks(lt.wrap(model, masks)) == masks


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: layers.LSTM(3, unroll=True, name="it"), (2, 4)),
        (lambda: layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(2)], name="it"), (2, 4)),
        (lambda: layers.LocallyConnected1D(3, 2, name="it"), (3, 4)),
    ],
    ids=["LSTM", "cells", "local"],
)
def test_a_ticket_from_a_stock_tfmot_model_has_the_masks_of_all_its_layers(make, shape, lines):
    model = chain(make(), layers.Dense(4, name="d"), shape=shape)
    model = sparsity.prune_low_magnitude(model)
    random, count = np.random.default_rng(0), 0
    for layer in model.layers[1:]:
        for _, mask, _ in layer.pruning_vars:
            mask.assign(random.random(mask.shape) < 0.5)
            count += 1
    ticket = lt.Ticket.from_pruned(model)
    assert len(ticket.masks) == count and ticket.masks == lt.get_masks(model)
    (line,) = lines
    assert "kernel" not in line
    wrapped = ticket.build()
    assert_zeros(wrapped, ticket.masks)
    x = np.ones((2, *shape), np.float32)
    np.testing.assert_array_equal(wrapped(x), lt.strip(model)(x))


# tf.distribute

MIRRORED = """
from networks import EachBatch, assert_zeros, chain, examples, layers, random_masks, values
import lottery_tf as lt
from lottery_tf.graph.compat import keras

def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = chain(layers.Dense(6, activation="relu", name="a"), layers.Dense(3, name="b"))
        masks = random_masks(model, 0.8)
        model = lt.wrap(model, masks)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=1))
    data = tf.data.Dataset.from_tensor_slices(examples()).batch(6)
    model.fit(data, epochs=2, callbacks=[watch], verbose=0)
    masks = lt.Masks({n: mask & random_masks(model, seed=1)[n] for n, mask in masks.items()})
    lt.set_masks(model, masks)
    model.fit(data, callbacks=[watch], verbose=0)
    assert watch.calls == 6
    for variable in model.variables:
        copies = [copy.numpy() for copy in getattr(variable, "values", [variable])]
        assert len(copies) == strategy.num_replicas_in_sync
        np.testing.assert_array_equal(copies[0], copies[-1])
    return values(lt.strip(model))

one = train(tf.distribute.get_strategy())
two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
for name in one:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-6)
print("trained")
"""


@pytest.mark.e2e
def test_training_on_two_devices():
    run = on_two_devices(MIRRORED)
    assert run.stdout.endswith("trained\n"), run.stderr[-2000:]
