"""Tickets of Keras 3 models: drawn, saved, loaded and built by their own Keras."""

import json

import keras
import networks
import numpy as np
import pytest
import tf_keras
from keras import layers
from layer_cases3 import CASES, EachBatch, mlp
from networks import (
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    chain,
    examples,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.layers import named_layers, named_variables

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def drawn(model=None, **info):
    """A ticket of a model with random masks."""
    model = model or mlp()
    return lt.Ticket.of(model, random_masks(model), {"method": "by hand", **info})


def train(model, steps=3):
    x, y = examples()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, run_eagerly=True)
    for _ in range(steps):
        model.train_on_batch(x, y)


def test_four_weights(tmp_path):
    model = chain(layers.Dense(2, name="d"), layers.Dense(1, name="head"), shape=(2,))
    named_variables(model)["d/kernel"].assign([[1, 2], [3, 4]])
    ticket = lt.Ticket.of(model, lt.Masks({"d/kernel": [[1, 0], [0, 0]]}), {"seed": 0})
    ticket.save(tmp_path / "t")
    for each in (ticket, lt.Ticket.load(tmp_path / "t")):
        np.testing.assert_array_equal(each.weights["d/kernel"], [[1, 0], [0, 0]])
        assert each.sparsity == 0.75
        assert each.sparsity_total == 3 / 9  # 6 of Dense(2), 3 of the head
        norms = {"d/kernel": pytest.approx(30**0.5)}  # √(1 + 4 + 9 + 16)
        assert each.info == {"seed": 0, "trainable_parameters": 9, "dense_norms": norms}
    assert json.loads((tmp_path / "t" / "ticket.json").read_text())["format_version"] == 1


def test_frozen_layers_count_among_all_parameters():
    """4 of the 6 + 3 are masked."""
    for freeze in ("model", "layer"):
        model = chain(layers.Dense(2, name="d"), layers.Dense(1, name="head"), shape=(2,))
        (model if freeze == "model" else model.layers[-1]).trainable = False
        ticket = lt.Ticket.of(model, lt.Masks({"d/kernel": [[1, 0], [0, 0]]}))
        assert ticket.info["trainable_parameters"] == 9 and ticket.sparsity_total == 3 / 9
        assert len(ticket.build().trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("name", CASES)
def test_saved_loaded_and_built_it_is_the_same_to_the_bit(tmp_path, name):
    case = CASES[name]
    model = case.build()
    ticket = drawn(model, rewind_step=3, nothing=None, settings={"a": [1, 2]})
    ticket.save(tmp_path / "t")
    loaded = lt.Ticket.load(tmp_path / "t")
    assert loaded.masks == ticket.masks
    assert loaded.info == ticket.info
    assert loaded.architecture == ticket.architecture
    assert_same(dict(loaded.weights), dict(ticket.weights))
    built = [ticket.build(), loaded.build(), loaded.build(model)]
    for each in built:
        assert isinstance(each, keras.Model)
        assert_same(values(each), dict(ticket.weights))
        assert lt.get_masks(each) == ticket.masks
        assert_zeros(each, ticket.masks)
        assert list(named_layers(each)) == list(named_layers(model))
    one, *others = ([np.array(o) for o in keras.tree.flatten(m(case.x))] for m in built)
    for other in others:
        assert_same(one, other)


def test_a_built_ticket_trains_with_zeros_and_leaves_the_ticket_alone(tmp_path):
    drawn().save(tmp_path / "t")
    ticket = lt.Ticket.load(tmp_path / "t")
    model, before = ticket.build(), {n: np.array(w) for n, w in ticket.weights.items()}
    x, y = examples()
    model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY, jit_compile=False)
    watch = EachBatch(lambda model: assert_zeros(model, ticket.masks, model.optimizer, slots=2))
    model.fit(x, y, batch_size=4, callbacks=[watch], verbose=0)
    assert watch.calls == 3
    assert_finite_and_moved(model, before)
    assert_same(dict(ticket.weights), before)
    assert_same(values(ticket.build()), before)


def test_tickets_of_tickets():
    ticket = drawn()
    inner = lt.Masks({n: m & random_masks(mlp(), seed=1)[n] for n, m in ticket.masks.items()})
    fewer = ticket.with_masks(inner, round=2)
    assert (fewer.masks, fewer.info["round"], "round" in ticket.info) == (inner, 2, False)
    assert_zeros(fewer.build(), inner)
    other = ticket.with_weights(values(mlp()))
    assert other.masks == ticket.masks
    assert_zeros(other.build(), ticket.masks)


def test_reinitialised_it_has_the_same_masks_and_other_weights():
    keras.utils.set_random_seed(3)
    ticket = drawn(chain(layers.Dense(6, name="a"), layers.Dense(3, name="b")))
    one, again, other = (ticket.reinitialised(seed) for seed in (3, 3, 4))
    assert one.masks == ticket.masks and one.info["reinitialised_with_seed"] == 3
    assert_same(dict(one.weights), dict(again.weights))
    live = ticket.masks["a/kernel"]
    for first, second in ((one, ticket), (one, other)):
        assert (first.weights["a/kernel"][live] != second.weights["a/kernel"][live]).all()
    assert_zeros(one.build(), ticket.masks)


def test_new_weights_are_drawn_in_spite_of_seeds_but_not_of_what_was_adapted():
    norm = layers.Normalization(name="norm")
    norm.adapt(np.arange(8, dtype=np.float32).reshape(2, 4))
    initial = keras.initializers.GlorotUniform(seed=1)
    model = chain(norm, layers.Dense(6, kernel_initializer=initial, name="a"), layers.Dense(3))
    ticket = lt.Ticket.of(model, lt.Masks.ones({"a/kernel": (4, 6)}))
    fresh = ticket.reinitialised(0)
    assert (fresh.weights["a/kernel"] != ticket.weights["a/kernel"]).all()
    for name in ("norm/mean", "norm/variance"):
        np.testing.assert_array_equal(fresh.weights[name], ticket.weights[name])
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(ticket.build()(x), model(x))


def test_from_pruned_takes_the_zeros_of_a_model():
    model, start = mlp(), mlp()
    kernel = named_variables(model)["first/kernel"]
    kernel.assign(np.where(random_masks(model)["first/kernel"], kernel, 0))
    for each in (model, lt.wrap(model, lt.Masks({"first/kernel": kernel.numpy() != 0}))):
        ticket = lt.Ticket.from_pruned(each, start)
        np.testing.assert_array_equal(ticket.masks["first/kernel"], kernel.numpy() != 0)
        masked = ticket.masks["first/kernel"] * values(start)["first/kernel"]
        np.testing.assert_array_equal(ticket.weights["first/kernel"], masked)
        assert_zeros(ticket.build(), ticket.masks)
    with pytest.raises(UsageError, match="Expected zeros in the kernels"):
        lt.Ticket.from_pruned(start)


def test_layers_in_no_file_are_built_in_the_process_that_made_them(tmp_path):
    model = chain(layers.Dense(5, name="d"), layers.Lambda(lambda x: x * 2), layers.Dense(3))
    ticket = drawn(model)
    x, _ = examples()
    assert ticket.build()(x).shape == (12, 3)
    ticket.save(tmp_path / "t")
    loaded = lt.Ticket.load(tmp_path / "t")
    with pytest.raises(UsageError, match="Lambda layer"):
        loaded.build()
    np.testing.assert_array_equal(loaded.build(model)(x), ticket.build()(x))


def test_which_keras_a_ticket_is_of_is_in_its_architecture(tmp_path):
    """And the masks and weights of one fit a model of the other."""
    for model, kind in ((mlp(), keras), (networks.mlp(), tf_keras)):
        drawn(model).save(tmp_path / kind.__name__)
        assert isinstance(lt.Ticket.load(tmp_path / kind.__name__).build(), kind.Model)
    ticket = lt.Ticket.load(tmp_path / "keras")
    other = ticket.build(networks.mlp())
    assert isinstance(other, tf_keras.Model) and lt.get_masks(other) == ticket.masks
    x, _ = examples()
    np.testing.assert_allclose(other(x), ticket.build()(x), rtol=1e-5, atol=1e-6)
