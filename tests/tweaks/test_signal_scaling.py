"""Signal scaling: a sparse layer lets through what the dense one did."""

import math

import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, chain, layers, mlp, random_masks, values

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.masks.dense_norms import get_dense_norms


def plain(depth=2, width=4, of=keras):
    layers = of.layers
    hidden = [
        layers.Dense(width, "relu", kernel_initializer="he_normal", name=f"hidden{i}")
        for i in range(depth)
    ]
    return chain(*hidden, layers.Dense(3, name="head"), shape=(width,))


def test_four_weights_by_hand(of):
    layers = of.layers
    model = chain(layers.Dense(2, use_bias=False, name="one"), layers.Dense(1), shape=(2,))
    model.layers[-2].kernel.assign([[3.0, 0.5], [1.0, 4.0]])
    masks = lt.Masks({"one/kernel": np.array([[True, False], [False, True]])})
    norm, left = math.sqrt(9 + 0.25 + 1 + 16), 5.0
    for tweak, scale in (
        (lt.SignalScaling(), norm / left),
        (lt.SignalScaling(by="density"), math.sqrt(2)),
    ):
        for ticket in (lt.wrap(model, masks), lt.Ticket.of(model, masks).build()):
            scaled = tweak.prepare(ticket)
            expected = scale * np.array([[3.0, 0], [0, 4.0]])
            np.testing.assert_allclose(values(scaled)["one/kernel"], expected, rtol=1e-6)
            assert tweak.learned(scaled) == {"scales": {"one/kernel": pytest.approx(scale)}}
            assert lt.get_masks(scaled) == masks
            assert_same(values(tweak.change(ticket)), values(scaled))


def test_where_the_norm_is_not_known_the_density_counts():
    """A ticket of a release before, or of a model that came with its zeros."""
    model = plain()
    masks = random_masks(model)
    pruned = lt.strip(lt.wrap(model, masks))
    ticket = lt.Ticket.from_pruned(pruned)
    assert set(get_dense_norms(ticket.build())) == {
        name for name, mask in ticket.masks.items() if mask.all()
    }
    scaled = lt.SignalScaling().prepare(ticket.build())
    scales = lt.SignalScaling().learned(scaled)["scales"]
    assert scales == {
        name: pytest.approx(1 / math.sqrt(mask.mean()))
        for name, mask in ticket.masks.items()
        if not mask.all()
    }


def test_a_ticket_knows_the_norms_of_its_dense_weights(tmp_path):
    """Through masks that follow each other, the disk, and new initial weights."""
    model = plain()
    dense = {name: np.linalg.norm(value) for name, value in values(model).items()}
    first = lt.Ticket.of(model, lt.Masks.ones({"hidden0/kernel": (4, 4)}))
    ticket = first.with_masks(lt.Masks({"hidden0/kernel": np.eye(4) == 1}))
    ticket.save(tmp_path / "ticket")
    for each in (first, ticket, lt.Ticket.load(tmp_path / "ticket")):
        assert each.info["dense_norms"] == {
            "hidden0/kernel": pytest.approx(dense["hidden0/kernel"])
        }
    assert (
        lt.Ticket.of(ticket.build(), ticket.masks).info["dense_norms"] == first.info["dense_norms"]
    )
    fresh = ticket.reinitialised(1)
    assert fresh.info["dense_norms"] != first.info["dense_norms"]
    assert list(fresh.info["dense_norms"]) == ["hidden0/kernel"]
    # Of trained weights, zeros already, nobody knows what they were.
    assert ticket.with_weights(ticket.weights).info["dense_norms"] == {}


def test_what_is_pruned_further_was_as_before_the_first_mask():
    """The model's weights are no longer dense then, but it remembers that they were."""
    model = chain(layers.Dense(2, use_bias=False, name="one"), layers.Dense(1), shape=(2,))
    model.layers[-2].kernel.assign([[3.0, 0.5], [1.0, 4.0]])
    first, second = (
        lt.Masks({"one/kernel": np.array([[True, False], [late, True]])}) for late in (True, False)
    )
    norm = {"one/kernel": pytest.approx(math.sqrt(9 + 0.25 + 1 + 16))}
    once = lt.wrap(model, first)
    assert get_dense_norms(once) == get_dense_norms(lt.wrap(once, second)) == norm
    assert lt.Ticket.of(once, second).info["dense_norms"] == norm
    assert lt.prune(once, "omp", 0.5).info["dense_norms"] == norm
    # A model whose masks are full may have been trained since: its present weights count.
    dense = lt.wrap(model, lt.Masks.ones({"one/kernel": (2, 2)}))
    dense.get_layer("one").layer.kernel.assign([[0.0, 3.0], [4.0, 0.0]])
    assert lt.Ticket.of(dense, second).info["dense_norms"] == {"one/kernel": 5.0}


def test_weights_that_were_trained_since_are_scaled_by_density():
    """Their norm says nothing of what the mask took; and what was scaled is not scaled again."""
    model = chain(layers.Dense(2, use_bias=False, name="one"), layers.Dense(1), shape=(2,))
    masks = lt.Masks({"one/kernel": np.eye(2) == 1})
    ticket = lt.Ticket.of(model, masks).build()
    scaled = lt.SignalScaling().prepare(ticket)
    assert lt.SignalScaling().prepare(scaled) is scaled
    ticket.get_layer("one").layer.kernel.assign(10 * np.eye(2))
    assert get_dense_norms(ticket) == {}
    found = lt.SignalScaling().prepare(ticket)
    expected = 10 * math.sqrt(2) * np.eye(2)
    np.testing.assert_allclose(values(found)["one/kernel"], expected, rtol=1e-6)


def test_a_deep_ticket_passes_the_signal_again(of):
    """The second moment at the end is the dense network's, to what eight sparse layers of 64 units
    vary; without it is thousandths."""
    of.utils.set_random_seed(1)
    model = plain(depth=8, width=64, of=of)
    ticket = lt.prune(model, "erk", 0.9, seed=1)
    x = np.random.default_rng(0).normal(size=(256, 64)).astype("float32")

    def moment(network):
        hidden = of.Model(network.input, network.layers[-2].output)
        return float(tf.reduce_mean(tf.square(hidden(x))))

    dense, sparse = moment(model), moment(ticket.build())
    scaled = moment(lt.SignalScaling().prepare(ticket.build()))
    assert sparse < 1e-4 * dense and 0.2 * dense < scaled < 5 * dense


def test_behind_a_normalisation_there_is_nothing_to_do(lines, of):
    layers = of.layers
    model = chain(
        layers.Conv2D(4, 2, use_bias=False, name="conv"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3, name="head"),
        shape=(4, 4, 1),
    )
    ticket = lt.wrap(model, lt.Masks({"conv/kernel": np.arange(16).reshape(2, 2, 1, 4) % 2 == 0}))
    assert lt.SignalScaling().prepare(ticket) is ticket
    assert lines[-1].startswith("signal_scaling: nothing to scale")


def test_an_empty_kernel_and_a_dense_model_stay(of):
    """The latter masked or not, and if it was trained since it was."""
    model = mlp(of.layers)
    assert lt.SignalScaling().prepare(model) is model
    masked = lt.wrap(model)
    masked.get_layer("second").layer.kernel.assign_add(1 + masked.get_layer("second").layer.kernel)
    assert lt.SignalScaling().prepare(masked) is masked
    masks = lt.Masks({"second/kernel": np.zeros(values(model)["second/kernel"].shape, bool)})
    ticket = lt.wrap(model, masks)
    assert lt.SignalScaling().prepare(ticket) is ticket


def test_it_comes_before_the_search_for_scales():
    """In whatever order they are named."""
    model = plain()
    ticket = lt.wrap(model, random_masks(model))
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(12) % 3)).batch(6)
    search = lt.RescaledInit(iterations=2)
    both = [lt.SignalScaling(), search]
    found = [values(lt.Recipe(order).prepare(ticket, data)) for order in (both, both[::-1])]
    scaled = lt.SignalScaling().prepare(ticket)
    found.append(values(search.prepare(scaled, data)))
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(value, other[name])
