"""What is left of a ticket, in numbers that a person can check."""

import dataclasses

import keras as keras3
import numpy as np
import pytest
from layer_cases import CASES, CASES3
from networks import EVERYTHING, both_kerases, chain, layers, mlp, random_masks
from twins import BUILD, twins

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prunable import prunable_weights


def ticket_of(model, **masks):
    """A ticket with these masks of kernels by their layers' names."""
    return lt.Ticket.of(model, lt.Masks({f"{n}/kernel": mask for n, mask in masks.items()}))


def two_layers(layers=layers):
    """2 → 2 → 1 on two places: 9 parameters, 16 and 8 FLOPs."""
    return chain(layers.Dense(2, name="d"), layers.Dense(1, name="head"), shape=(2, 2))


@both_kerases
def test_four_weights(its_keras):
    facts = lt.inspect(ticket_of(two_layers(its_keras.layers), d=[[1, 0], [1, 0]]))
    (row,) = facts.weights
    assert dataclasses.asdict(row) == {
        "name": "d/kernel",
        "shape": (2, 2),
        "kept": 2,
        "sparsity": 0.5,
        "outputs": 2,
        "dead_outputs": 1,
        "flops_dense": 16,
        "flops_sparse": 8,
        "other_sparsity": None,
        "jaccard": None,
        "random": None,
    }
    assert (facts.kept, facts.prunable, facts.sparsity) == (2, 4, 0.5)
    assert (facts.trainable_parameters, facts.sparsity_total) == (9, 2 / 9)
    # The head is left dense: 8 of the FLOPs.
    assert (facts.flops_dense, facts.flops_sparse) == (24, 16)
    assert (facts.unknown, facts.not_counted, facts.jaccard) == (None, [], None)


def test_tickets_of_both_kerases_are_compared():
    """Of the same masks, whichever Keras they were drawn in."""
    one = ticket_of(two_layers(), d=[[1, 0], [1, 0]])
    other = ticket_of(two_layers(keras3.layers), d=[[1, 0], [1, 0]])
    assert lt.inspect(one, other) == lt.inspect(other, one)
    assert lt.inspect(one, other).jaccard == 1


@pytest.mark.parametrize("name", BUILD)
def test_both_kerases_have_the_same_facts(name):
    theirs, ours = twins(name)
    masks = random_masks(theirs)
    expected = lt.inspect(lt.Ticket.of(theirs, masks))
    found = lt.inspect(lt.Ticket.of(ours, masks))
    by_name = {row.name: row for row in found.weights}
    assert by_name == {row.name: row for row in expected.weights}
    assert dataclasses.replace(found, weights=[]) == dataclasses.replace(expected, weights=[])


@both_kerases
def test_a_pruned_model_is_a_ticket(its_keras):
    model = mlp(its_keras.layers)
    ticket = lt.prune(model, "omp", 0.5)
    assert lt.inspect(lt.strip(ticket.build())).kept == ticket.masks.kept
    with pytest.raises(UsageError, match="none of its"):
        lt.inspect(model)
    with pytest.raises(UsageError, match="a ticket or a pruned Keras model, got 'path'"):
        lt.inspect("path")


def test_two_tickets():
    one = ticket_of(two_layers(), d=[[1, 0], [1, 0]])
    other = ticket_of(two_layers(), d=[[1, 0], [0, 0]])
    facts = lt.inspect(one, other)
    (row,) = facts.weights
    # 1 of 2; at random 2 · 1 / 4 of them in both, so 0.5 of 2.5.
    assert (row.other_sparsity, row.jaccard, row.random) == (0.75, 1 / 2, 0.2)
    assert (facts.other_sparsity, facts.jaccard, facts.random) == (0.75, 1 / 2, 0.2)
    with pytest.raises(UsageError, match="not in both: d/kernel, first/kernel, head/kernel, sec"):
        lt.inspect(one, lt.Ticket.of(mlp(), random_masks(mlp())))


def test_two_tickets_with_masks_of_other_layers():
    """Of d alone: both keep 1 of 4, another one; the head of each counts for nothing."""
    one = ticket_of(two_layers(), d=[[1, 0], [0, 0]], head=[[1], [1]])
    other = ticket_of(two_layers(), d=[[0, 1], [0, 0]])
    for first, second, own in ((one, other, 0.5), (other, one, 0.75)):
        facts = lt.inspect(first, second)
        assert (facts.sparsity, facts.compared_sparsity, facts.other_sparsity) == (own, 0.75, 0.75)
        assert (facts.jaccard, facts.random) == (0, 0.25 / 1.75)
        assert facts.not_compared == ["head/kernel"]
        row, *rest = facts.weights
        assert (row.other_sparsity, row.jaccard) == (0.75, 0)
        assert [(each.other_sparsity, each.jaccard, each.random) for each in rest] in (
            [],
            [(None, None, None)],
        )


def dead_in(layer, shape, **pruned):
    """(outputs, dead) of each kernel; ``pruned`` gives the index of what each mask lacks."""
    model = chain(layer, shape=shape)
    masks = {}
    for name, size in prunable_weights(model, EVERYTHING).items():
        masks[name] = np.ones(size, bool)
        own = name.rpartition("/")[2]
        for index in pruned.get(own, []):
            masks[name][index] = False
    facts = lt.inspect(lt.Ticket.of(model, lt.Masks(masks)))
    return [(row.outputs, row.dead_outputs) for row in facts.weights]


@both_kerases
@pytest.mark.parametrize(
    ("layer", "shape", "pruned", "expected"),
    [
        # kernel [4 inputs, 3 units]: a unit without inputs, an input that no unit reads
        (lambda layers: layers.Dense(3), (4,), {"kernel": [np.s_[:, 1], np.s_[0]]}, [(3, 1)]),
        (lambda layers: layers.Conv2D(3, 2), (4, 4, 2), {"kernel": [np.s_[..., 2]]}, [(3, 1)]),
        (
            lambda layers: layers.Conv2D(4, 2, groups=2),
            (4, 4, 2),
            {"kernel": [np.s_[..., :3]]},
            [(4, 3)],
        ),
        # kernel [2, 2, 3 outputs, 2 inputs]
        (
            lambda layers: layers.Conv2DTranspose(3, 2),
            (4, 4, 2),
            {"kernel": [np.s_[:, :, 1], np.s_[..., 0]]},
            [(3, 1)],
        ),
        (
            lambda layers: layers.DepthwiseConv2D(2, depth_multiplier=2),
            (4, 4, 3),
            {"depthwise_kernel": [np.s_[:, :, 0, 1], np.s_[0]]},
            [(6, 1)],
        ),
        # the depthwise kernel makes the 4 channels in between, the pointwise one the 3 outputs
        (
            lambda layers: layers.SeparableConv2D(3, 2, depth_multiplier=2),
            (4, 4, 2),
            {"depthwise_kernel": [np.s_[:, :, 1]], "pointwise_kernel": [np.s_[..., 0]]},
            [(4, 2), (3, 1)],
        ),
        # kernel [4 inputs, 3 heads, 2]
        (
            lambda layers: layers.EinsumDense("abc,cde->abde", (5, 3, 2)),
            (5, 4),
            {"kernel": [np.s_[:, 1], np.s_[:, 0, 0]]},
            [(6, 3)],
        ),
        # weights of each of the 5 places of their own
        (
            lambda layers: layers.EinsumDense("abc,bcd->abd", (5, 3)),
            (5, 4),
            {"kernel": [np.s_[0]]},
            [(15, 3)],
        ),
    ],
)
def test_dead_outputs(layer, shape, pruned, expected, its_keras):
    assert sorted(dead_in(layer(its_keras.layers), shape, **pruned)) == sorted(expected)


@pytest.mark.parametrize("cases", [CASES, CASES3], ids=["tf_keras", "keras"])
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_model(cases, name):
    model = cases[name].build()
    masks = random_masks(model)
    facts = lt.inspect(lt.Ticket.of(model, masks))
    assert [row.name for row in facts.weights] == list(masks)
    assert sum(row.kept for row in facts.weights) == facts.kept == masks.kept
    assert facts.sparsity == masks.sparsity and facts.unknown is None
    for row in facts.weights:
        assert row.shape == masks[row.name].shape
        if row.name == "embedding/embeddings":
            assert (row.outputs, row.flops_dense) == (4, 0)
        elif row.name not in ("gate/w", "named/w"):  # a user's own layer
            share = row.flops_sparse / row.flops_dense
            assert share == pytest.approx(1 - row.sparsity) and row.dead_outputs <= row.outputs
        else:
            assert (row.outputs, row.dead_outputs, row.flops_dense) == (None, None, None)
            assert row.name in facts.not_counted
    assert {*cases[name].never} <= {*facts.not_counted}


class Shift(layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return x + 1


class Shift3(keras3.layers.Layer):
    def call(self, x):
        return x + 1


@both_kerases
def test_an_architecture_that_cannot_be_read(tmp_path, its_keras):
    shift = Shift3() if its_keras is keras3 else Shift()
    model = chain(its_keras.layers.Dense(2, name="d"), shift, shape=(2,))
    ticket_of(model, d=[[1, 0], [0, 0]]).save(tmp_path / "t")
    ticket = lt.Ticket.load(tmp_path / "t")
    facts = lt.inspect(ticket, ticket)
    (row,) = facts.weights
    assert (row.kept, row.sparsity, row.jaccard, facts.sparsity_total) == (1, 0.75, 1, 0.5)
    assert (row.outputs, row.flops_dense, facts.flops_dense) == (None, None, None)
    assert "the model has 'Shift" in facts.unknown
    facts = lt.inspect(ticket, model=model)
    assert (facts.flops_dense, facts.flops_sparse, facts.unknown) == (8, 2, None)
    assert facts.weights[0].dead_outputs == 1
    with pytest.raises(UsageError, match="masks are of another model"):
        lt.inspect(ticket, model=mlp(its_keras.layers))


@both_kerases
def test_images_of_any_size(its_keras):
    model = chain(its_keras.layers.Conv2D(2, 1, name="conv"), shape=(None, None, 1))
    facts = lt.inspect(ticket_of(model, conv=np.reshape([1, 0], (1, 1, 1, 2))))
    assert (facts.weights[0].dead_outputs, facts.unknown) == (1, None)
    assert (facts.flops_dense, facts.flops_sparse) == (2 * 2 * 224**2, 2 * 224**2)


def test_a_ticket_without_masks():
    facts = lt.inspect(ticket_of(two_layers()), ticket_of(two_layers()))
    assert (facts.weights, facts.sparsity, facts.jaccard) == ([], 0.0, None)
    assert facts.flops_sparse == facts.flops_dense == 24


def test_the_model_is_left_as_it_is():
    model = two_layers()
    before = [variable.numpy() for variable in model.variables]
    lt.inspect(ticket_of(two_layers(), d=[[1, 0], [1, 0]]), model=model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert isinstance(model.layers[1], keras.layers.Dense)
