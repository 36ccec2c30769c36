"""Checkpoints of wrapped models, tfmot's tools on them, and training on several devices."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from layer_cases import CASES_OF
from networks import (
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    each_batch,
    every_variable,
    examples,
    layers,
    mlp,
    random_masks,
    replicas,
    two_devices,
    values,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

import lottery_tf as lt
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.masks.dense_norms import get_dense_norms
from lottery_tf.masks.prunable import prunable_weights

sparsity = tfmot.sparsity.keras


def compiled(seed=0, eager=False, k=keras):
    """A wrapped model, compiled; masks and weights by the seed."""
    k.utils.set_random_seed(seed)
    model = mlp(k.layers)
    masks = random_masks(model, seed=seed)
    model = lt.wrap(model, masks)
    how = {"run_eagerly": True} if eager else {"jit_compile": False}
    model.compile(k.optimizers.SGD(0.1, momentum=0.9), cross_entropy(k), **how)
    return model, masks


def with_zeros_after_each_batch(model, masks):
    check = functools.partial(zeros, masks=masks)
    return each_batch(check, keras_of(model))


def zeros(model, masks):
    assert_zeros(model, masks, model.optimizer, slots=1)


@pytest.mark.long
@pytest.mark.parametrize("name", ["images", "functions", "nested", "several", "of_ones_own"])
@both_kerases
def test_a_saved_model_computes_the_same(tmp_path, name, its_keras):
    case = CASES_OF[its_keras][name]
    model = case.build()
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    wrapped.save(tmp_path / "model.keras")
    loaded = its_keras.models.load_model(tmp_path / "model.keras")
    assert lt.get_masks(loaded) == masks
    assert get_dense_norms(loaded) == get_dense_norms(wrapped)
    assert_same(values(loaded), values(wrapped))
    for each in (loaded, lt.strip(loaded)):
        outputs = zip(*(tf.nest.flatten(m(case.x)) for m in (each, wrapped)), strict=True)
        for one, other in outputs:
            np.testing.assert_array_equal(one, other)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize(
    ("kind", "its_keras"),
    [
        ("saved_model", keras),
        ("model.keras", keras),
        ("model.keras", keras3),
        pytest.param("model.h5", keras, marks=pytest.mark.e2e),
    ],
)
def test_a_saved_model_is_sparse_and_goes_on_training(tmp_path, kind, its_keras):
    """TRAPS 2 and 14: no prune_scope, exact zeros, the masks come back."""
    x, y = examples()
    model, masks = compiled(k=its_keras)
    model.fit(x, y, batch_size=6, verbose=0)
    path = tmp_path / kind
    model.save(path)
    loaded = its_keras.models.load_model(path)
    assert kind == "saved_model" or int(loaded.optimizer.iterations) == 2
    assert lt.get_masks(loaded) == masks
    assert_same(values(loaded), values(model))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    before = values(loaded)
    watch = with_zeros_after_each_batch(loaded, masks)
    loaded.fit(x, y, batch_size=6, callbacks=[watch], verbose=0)
    assert watch.calls == 2
    assert_finite_and_moved(loaded, before)
    assert_same(values(lt.strip(loaded)), values(loaded))


@pytest.mark.parametrize(
    ("kind", "its_keras"),
    [("model.weights.h5", keras), ("checkpoint", keras), ("model.weights.h5", keras3)],
)
def test_saved_weights_bring_their_masks(tmp_path, kind, its_keras):
    model, masks = compiled(k=its_keras)
    model.save_weights(tmp_path / kind)
    other, others = compiled(seed=1, k=its_keras)
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
    model.compile(keras.optimizers.SGD(0.1), cross_entropy(keras))
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
    left = [line for line in lines if "left dense" in line]
    assert not any("kernel" in line for line in left)
    wrapped = ticket.build()
    assert_zeros(wrapped, ticket.masks)
    x = np.ones((2, *shape), np.float32)
    np.testing.assert_array_equal(wrapped(x), lt.strip(model)(x))


# tf.distribute


@pytest.mark.e2e
@both_kerases
def test_training_on_two_devices(its_keras):
    loss = cross_entropy(its_keras)
    data = tf.data.Dataset.from_tensor_slices(examples()).batch(6)
    found = []
    for strategy in (tf.distribute.get_strategy(), two_devices()):
        its_keras.utils.set_random_seed(0)
        with strategy.scope():
            model = chain(its_keras.layers.Dense(6, "relu"), its_keras.layers.Dense(3))
            masks = random_masks(model, 0.8)
            model = lt.wrap(model, masks)
            optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
            model.compile(optimizer, loss, jit_compile=False)
        watch = each_batch(lambda model: zeros(model, lt.get_masks(model)), its_keras)
        model.fit(data, epochs=2, callbacks=[watch], verbose=0)
        masks = lt.Masks({n: mask & random_masks(model, seed=1)[n] for n, mask in masks.items()})
        lt.set_masks(model, masks)
        assert lt.get_masks(model) == masks
        model.fit(data, callbacks=[watch], verbose=0)
        assert watch.calls == 6
        for variable in model.variables:
            copies = replicas(variable)
            assert len(copies) == strategy.num_replicas_in_sync
            np.testing.assert_array_equal(copies[0], copies[-1])
        found.append(list(values(lt.strip(model)).values()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
