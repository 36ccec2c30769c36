"""Tickets: whole on disk, never run, never shared with what is built from them."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
from layer_cases import CASES, CASES_OF
from networks import (
    KERASES,
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    each_batch,
    examples,
    layers,
    mlp,
    random_masks,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_layers, named_variables
from lottery_tf.tickets.origin import described
from lottery_tf.tickets.ticket import FORMAT_VERSION
from lottery_tf.training.retraining import nonzero_parameters

PARTS = ("masks.npz", "weights.npz", "model.json")


def drawn(model=None, **info):
    """A ticket of a model with random masks."""
    model = model or mlp()
    return lt.Ticket.of(model, random_masks(model), {"method": "by hand", **info})


def train(model, steps=3):
    x, y = examples()
    its_keras = keras_of(model)
    optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
    for _ in range(steps):
        tape_step(model, x, y, cross_entropy(its_keras), optimizer)


@both_kerases
def test_four_weights(tmp_path, its_keras):
    layers = its_keras.layers
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
    record = json.loads((tmp_path / "t" / "ticket.json").read_text())
    assert (record["sparsity"], record["sparsity_total"], record["seed"]) == (0.75, 3 / 9, 0)
    assert record["format_version"] == FORMAT_VERSION
    sums = {part: sha256(tmp_path / "t" / part) for part in PARTS}
    assert record["sha256"] == {**sums, "ticket.json": record["sha256"]["ticket.json"]}


@pytest.mark.parametrize("frozen", ["model", "layer"])
@both_kerases
def test_frozen_layers_count_among_all_parameters(tmp_path, frozen, its_keras):
    """4 of the 6 + 3 are masked; an older release wrote that none of the 9 were trainable."""
    layers = its_keras.layers
    model = chain(layers.Dense(2, name="d"), layers.Dense(1, name="head"), shape=(2,))
    named_variables(model)["head/bias"].assign([1])
    (model if frozen == "model" else model.layers[-1]).trainable = False
    ticket = lt.Ticket.of(model, lt.Masks({"d/kernel": [[1, 0], [0, 0]]}))
    assert ticket.info["trainable_parameters"] == 9 and ticket.sparsity_total == 3 / 9
    assert len(ticket.build().trainable_variables) == len(model.trainable_variables)
    assert nonzero_parameters(lt.strip(ticket.build())) == 1 + 2 + 1  # of the kernels, the bias
    for written, share in ((0, 3 / 4), (5, 3 / 5)):
        old = dataclasses.replace(ticket, info={"trainable_parameters": written})
        old.save(tmp_path / "t")
        assert lt.Ticket.load(tmp_path / "t").sparsity_total == share


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
@both_kerases
def test_saved_loaded_and_built_it_is_the_same_to_the_bit(tmp_path, name, its_keras):
    case = CASES_OF[its_keras][name]
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
        assert isinstance(each, its_keras.Model)
        assert_same(values(each), dict(ticket.weights))
        assert lt.get_masks(each) == ticket.masks
        assert_zeros(each, ticket.masks)
        assert list(named_layers(each)) == list(named_layers(model))
    one, *others = (np.concatenate([np.ravel(o) for o in _outputs(m, case.x)]) for m in built)
    for other in others:
        np.testing.assert_array_equal(one, other)


def _outputs(model, x):
    outputs = model(x)
    return outputs if isinstance(outputs, list) else [outputs]


@both_kerases
def test_the_rewind_point_has_the_statistics_of_batch_norm(tmp_path, its_keras):
    """TRAP 16: they move in training, and building rewinds them with everything else."""
    model = mlp(its_keras.layers)
    train(model)
    drawn(model).save(tmp_path / "t")
    ticket = lt.Ticket.load(tmp_path / "t")
    names = [name for name in ticket.weights if "moving" in name]
    assert len(names) == 2
    built = ticket.build()
    assert_same(values(built), values(drawn(model).build()))
    train(built)
    for name in names:
        assert (values(built)[name] != ticket.weights[name]).all()
        assert (values(mlp(its_keras.layers))[name] != ticket.weights[name]).all()
    assert_same(values(ticket.build()), dict(ticket.weights))


@both_kerases
def test_training_a_built_model_leaves_the_ticket_alone(tmp_path, its_keras):
    """TRAP 17. Widths at which TensorFlow could share memory with NumPy (64-byte alignment)."""
    layers = its_keras.layers
    model = chain(layers.Dense(64, name="a"), layers.Dense(3, name="b"))
    source = drawn(model)
    source.save(tmp_path / "t")
    loaded = lt.Ticket.load(tmp_path / "t")
    for ticket in (source, loaded, source.with_weights(dict(source.weights))):
        before = {name: np.array(value) for name, value in ticket.weights.items()}
        built = ticket.build()
        train(built)
        assert (values(built)["a/bias"] != before["a/bias"]).any()
        named_variables(built)["a/kernel"].assign_add(np.ones((4, 64)))
        assert_same(dict(ticket.weights), before)
        assert_same(values(ticket.build()), before)
    named_variables(model)["a/kernel"].assign_add(np.ones((4, 64)))
    assert_same(values(source.build()), before)


@pytest.mark.long
@both_kerases
def test_a_built_ticket_trains_in_fit_with_zeros(tmp_path, its_keras):
    drawn(mlp(its_keras.layers)).save(tmp_path / "t")
    ticket = lt.Ticket.load(tmp_path / "t")
    model, (x, y) = ticket.build(), examples()
    model.compile(its_keras.optimizers.Adam(0.01), cross_entropy(its_keras), jit_compile=False)
    watch = each_batch(
        lambda model: assert_zeros(model, ticket.masks, model.optimizer, slots=2), its_keras
    )
    model.fit(x, y, batch_size=4, callbacks=[watch], verbose=0)
    assert watch.calls == 3
    assert_finite_and_moved(model, ticket.weights)


@both_kerases
def test_tickets_of_tickets(its_keras):
    model = mlp(its_keras.layers)
    ticket = drawn(model)
    inner = lt.Masks({n: m & random_masks(model, seed=1)[n] for n, m in ticket.masks.items()})
    fewer = ticket.with_masks(inner, round=2)
    assert (fewer.masks, fewer.info["round"], "round" in ticket.info) == (inner, 2, False)
    assert_zeros(fewer.build(), inner)
    with pytest.raises(UsageError, match="nested in the ticket's"):
        fewer.with_masks(ticket.masks)
    other = ticket.with_weights(values(mlp(its_keras.layers)))
    assert other.masks == ticket.masks
    assert_zeros(other.build(), ticket.masks)


def test_a_ticket_needs_masks_of_its_model():
    with pytest.raises(UsageError, match="not in both: other/kernel. The masks are of another"):
        lt.Ticket.of(mlp(), lt.Masks({"other/kernel": [[1, 0]]}))
    with pytest.raises(UsageError, match=r"shape \(4, 6\) for first/kernel .* got \(1, 2\)"):
        lt.Ticket.of(mlp(), lt.Masks({"first/kernel": [[1, 0]]}))


# From the zeros of a model


def sparse_mlp(layers=layers):
    model = mlp(layers)
    masks = random_masks(model)
    for name, mask in masks.items():
        variable = named_variables(model)[name]
        variable.assign(np.where(mask, variable, 0))
    return model, masks


@both_kerases
def test_from_the_zeros_of_a_model(its_keras, lines):
    """Its head has zeros, so it is masked too; a dense head is left out."""
    model, masks = sparse_mlp(its_keras.layers)
    ticket = lt.Ticket.from_pruned(model)
    assert ticket.masks == masks and "head/kernel" in masks
    assert_same(dict(ticket.weights), values(model))
    assert "keeps the trained weights" in lines[-1] and "give rewind_to=" in lines[-1]
    named_variables(model)["head/kernel"].assign(np.ones((5, 3)))
    assert set(lt.Ticket.from_pruned(model).masks) == {"first/kernel", "second/kernel"}


@both_kerases
def test_from_the_masks_of_a_wrapped_model(its_keras):
    """A live weight that is 0 by chance stays live (TRAP 18)."""
    model, masks = sparse_mlp(its_keras.layers)
    wrapped = lt.wrap(model, masks)
    live = np.argwhere(masks["first/kernel"])[0]
    kernel = values(wrapped)["first/kernel"]
    kernel[tuple(live)] = 0
    named_variables(wrapped)["first/kernel"].assign(kernel)
    assert lt.Ticket.from_pruned(wrapped).masks == masks
    stripped = lt.Ticket.from_pruned(lt.strip(wrapped)).masks
    assert stripped.kept == masks.kept - 1


def test_of_a_model_that_is_wrapped_in_part_the_rest_stays_dense(lines):
    """Zeros elsewhere may be chance. A line names it."""
    model, masks = sparse_mlp()
    masks = lt.Masks({"first/kernel": masks["first/kernel"]})
    wrapped = lt.wrap(model, masks)
    assert lt.Ticket.from_pruned(wrapped).masks == masks
    pruned = lt.prune(wrapped, "omp", 0.75).masks
    assert pruned.keys() == masks.keys() and pruned.kept == 6 and pruned.nested_in(masks)
    left = [line for line in lines if "left dense" in line]
    assert left == 2 * [f"{wrapped.name}: left dense: second/kernel, head/kernel"]


@both_kerases
def test_the_weights_to_rewind_to_may_be_others(its_keras):
    model, masks = sparse_mlp(its_keras.layers)
    start = mlp(its_keras.layers)
    ticket = lt.Ticket.from_pruned(model, rewind_to=start)
    assert ticket.masks == masks
    assert f"rewound to the weights of {start.name}" in str(ticket)
    expected = {n: np.where(masks[n], v, 0) if n in masks else v for n, v in values(start).items()}
    assert_same(dict(ticket.weights), expected)


@both_kerases
def test_weights_that_were_trained_already_are_told(its_keras, lines):
    """tfmot's prune_low_magnitude trains the layers of the model that it is given."""
    model, _ = sparse_mlp(its_keras.layers)
    shared = its_keras.Model(model.inputs, model.outputs)
    lt.Ticket.from_pruned(model, rewind_to=shared)
    assert "rewind_to has the same weights" in lines[-1]
    told = len(lines)
    lt.Ticket.from_pruned(model, rewind_to=mlp(its_keras.layers))
    assert len(lines) == told


@pytest.mark.parametrize(
    ("other", "odd"),
    [
        (lambda: mlp(use_bias=False), "head/bias"),
        (
            lambda: chain(*mlp().layers[1:], layers.Dense(3, name="more")),
            "more/kernel, m",
        ),
        (lambda: chain(layers.Dense(2, name="first")), "first/kernel, first/bias, norm/gamma, n"),
    ],
)
def test_the_weights_to_rewind_to_are_of_the_same_model(other, odd):
    """Even where its masks would fit the other."""
    model, _ = sparse_mlp()
    with pytest.raises(UsageError, match=rf"with other variables or shapes \({odd}.*same model"):
        lt.Ticket.from_pruned(model, rewind_to=other())


def test_of_the_model_to_rewind_to_the_weights_alone_count():
    """It may be masked, and its activations are not looked at."""
    model, masks = sparse_mlp()
    start = mlp(activation="tanh")
    few = random_masks(start, 0.2, seed=1)
    ticket = lt.Ticket.from_pruned(model, rewind_to=lt.wrap(start, few))
    assert ticket.masks == masks
    assert ticket.architecture == lt.Ticket.from_pruned(model).architecture
    both = masks["head/kernel"] & few["head/kernel"]
    expected = np.where(both, values(start)["head/kernel"], 0)
    np.testing.assert_array_equal(ticket.weights["head/kernel"], expected)


@both_kerases
def test_from_a_dense_model(its_keras):
    plain = mlp(its_keras.layers)
    for model in (plain, lt.wrap(plain)):
        with pytest.raises(UsageError, match="none of its .* weights is 0: prune it first"):
            lt.Ticket.from_pruned(model)


# The control experiment


@pytest.mark.long
@pytest.mark.parametrize("name", ["images", "shared", "of_ones_own", "nested"])
@both_kerases
def test_new_initial_weights_under_the_same_mask(name, its_keras):
    """TRAP 24: 0 is a seed."""
    ticket = drawn(CASES_OF[its_keras][name].build())
    zero, again, one = (ticket.reinitialised(seed) for seed in (0, 0, 1))
    assert_same(dict(zero.weights), dict(again.weights))
    for mask_name, mask in ticket.masks.items():
        for left, right in ((ticket, zero), (zero, one)):
            different = left.weights[mask_name] != right.weights[mask_name]
            np.testing.assert_array_equal(different, mask, err_msg=mask_name)
    assert zero.masks == ticket.masks
    assert (zero.info["reinitialised_with_seed"], one.info["reinitialised_with_seed"]) == (0, 1)
    assert_zeros(zero.build(), ticket.masks)


def test_what_tfmot_has_wrapped_counts_an_embedding_too():
    prune = tfmot.sparsity.keras
    model = chain(layers.Embedding(5, 3, name="e"), layers.Flatten(), layers.Dense(4, name="d"))
    model = prune.prune_low_magnitude(model, prune.ConstantSparsity(0.5, 0))
    kernel = model.layers[-1].layer.kernel
    kernel.assign(kernel * (np.arange(48).reshape(12, 4) % 2))
    (pruned,) = model.layers[-1].pruning_vars
    pruned[1].assign(np.arange(48).reshape(12, 4) % 2)
    ticket = lt.Ticket.from_pruned(model)
    assert {name: mask.mean() for name, mask in ticket.masks.items()} == {
        "e/embeddings": 1,
        "d/kernel": 0.5,
    }


@both_kerases
def test_initial_weights_are_new_where_the_initializers_have_seeds(its_keras):
    layers = its_keras.layers

    def dense(units, **kwargs):
        drawn_by = its_keras.initializers.HeNormal(3)
        return layers.Dense(units, kernel_initializer=drawn_by, **kwargs)

    model = chain(layers.Reshape((2, 2)), layers.TimeDistributed(dense(4)), dense(5), dense(2))
    ticket = drawn(model)
    zero, again, one = (ticket.reinitialised(seed) for seed in (0, 0, 1))
    assert_same(dict(zero.weights), dict(again.weights))
    for name, value in ticket.weights.items():
        if "kernel" in name:
            for left, right in (
                (value, zero.weights[name]),
                (zero.weights[name], one.weights[name]),
            ):
                assert ((left != right) == (left != 0)).all(), name


def test_what_was_adapted_to_data_is_no_initial_weight():
    norm = keras3.layers.Normalization(name="norm")
    norm.adapt(np.arange(8, dtype=np.float32).reshape(2, 4))
    model = chain(norm, keras3.layers.Dense(6, name="a"), keras3.layers.Dense(3))
    ticket = lt.Ticket.of(model, lt.Masks.ones({"a/kernel": (4, 6)}))
    fresh = ticket.reinitialised(0)
    assert (fresh.weights["a/kernel"] != ticket.weights["a/kernel"]).all()
    for name in ("norm/mean", "norm/variance"):
        np.testing.assert_array_equal(fresh.weights[name], ticket.weights[name])
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(ticket.build()(x), model(x))


def test_what_is_not_finite_is_null_in_its_file(tmp_path):
    model = chain(layers.Dense(3, name="d"), layers.Dense(2))
    lt.Ticket.of(model, lt.Masks({"d/kernel": np.ones((4, 3))}), {"dev_loss": np.nan}).save(
        tmp_path / "t"
    )
    assert "NaN" not in (tmp_path / "t" / "ticket.json").read_text()
    assert lt.Ticket.load(tmp_path / "t").info["dev_loss"] is None


# Models that a file cannot describe


@both_kerases
def test_a_lambda_layer_is_built_only_where_the_model_is_at_hand(tmp_path, its_keras):
    layers = its_keras.layers
    model = chain(layers.Dense(3, name="d"), layers.Lambda(lambda x: 2 * x))
    ticket = drawn(model)
    assert_zeros(ticket.build(), ticket.masks)
    ticket.save(tmp_path / "t")
    loaded = lt.Ticket.load(tmp_path / "t")
    with pytest.raises(UsageError, match=r"ticket.build\(model=…\)"):
        loaded.build()
    x, _ = examples()
    np.testing.assert_array_equal(loaded.build(model)(x), ticket.build()(x))


def test_which_keras_a_ticket_is_of_is_in_its_architecture(tmp_path):
    """And the masks and weights of one fit a model of the other."""
    for name, kind in KERASES.items():
        drawn(mlp(kind.layers)).save(tmp_path / name)
        assert isinstance(lt.Ticket.load(tmp_path / name).build(), kind.Model)
    ticket = lt.Ticket.load(tmp_path / "keras")
    other = ticket.build(mlp())
    assert isinstance(other, keras.Model) and lt.get_masks(other) == ticket.masks
    x, _ = examples()
    np.testing.assert_allclose(other(x), ticket.build()(x), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_not_registered(tmp_path):
    class Shift(layers.Layer):
        def call(self, x):
            return x + 1

    model = chain(layers.Dense(3, name="d"), Shift())
    drawn(model).save(tmp_path / "t")
    loaded = lt.Ticket.load(tmp_path / "t")
    with pytest.raises(UsageError, match=r"'Shift' .* custom_objects=\{'Shift': Shift\}"):
        loaded.build()
    x, _ = examples()
    built = loaded.build(custom_objects={"Shift": Shift})
    np.testing.assert_array_equal(built(x), loaded.build(model)(x))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: chain(layers.Dense(6, name="first")), "second/kernel. The masks are of another"),
        (lambda: mlp(use_bias=False), "not in both: head/bias. They belong to another model"),
        (lambda: chain(layers.Dense(6, name="first"), shape=(5,)), "another model"),
    ],
)
def test_building_upon_another_model(other, words):
    model = other()
    before = values(model)
    with pytest.raises(UsageError, match=words):
        drawn().build(model)
    assert_same(values(model), before)


def test_a_ticket_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawn().masks = lt.Masks({})


def test_pruned_weights_are_0_however_it_is_made():
    """In a ticket made of dense weights by hand, too, and in its files."""
    dense = {"a/kernel": np.array([1.0, np.nan, 3.0, 4.0], np.float32), "a/bias": np.ones(1)}
    masks = lt.Masks({"a/kernel": [1, 0, 0, 1]})
    ticket = lt.Ticket(masks, dense, "{}", {"trainable_parameters": 5})
    np.testing.assert_array_equal(ticket.weights["a/kernel"], [1, 0, 0, 4])
    assert ticket.weights["a/kernel"].dtype == np.float32 and ticket.weights["a/bias"] == 1
    np.testing.assert_array_equal(dense["a/kernel"][2], 3)


@both_kerases
def test_a_ticket_made_by_hand_counts_its_parameters(its_keras, tmp_path):
    """Those of a frozen layer too, and no moving statistics."""
    model = chain(
        *(its_keras.layers.Dense(n, trainable=n != 3) for n in (4, 3, 2)),
        its_keras.layers.BatchNormalization(),
    )
    of = lt.Ticket.of(model, random_masks(model))
    by_hand = lt.Ticket(of.masks, of.weights, of.architecture)
    assert by_hand.trainable_parameters == of.trainable_parameters == 20 + 15 + 8 + 4
    assert by_hand.sparsity_total == of.sparsity_total
    assert str(by_hand.summary()).count(f"{100 * of.sparsity_total:.2f} %") == 1
    by_hand.save(tmp_path / "t")
    assert lt.Ticket.load(tmp_path / "t").trainable_parameters == of.trainable_parameters


@pytest.mark.parametrize("masks", [{"b/kernel": [1, 0]}, {"a/kernel": [1, 0, 1]}])
def test_a_mask_without_its_weight_is_refused(masks):
    with pytest.raises(UsageError, match=f"shape; {next(iter(masks))} is not"):
        lt.Ticket(lt.Masks(masks), {"a/kernel": np.ones(2)}, "{}")


def test_arguments_are_described_whatever_they_hold():
    class Own:
        def __init__(self, config):
            self.config = config

        def get_config(self):
            return self.config

    endless = {"rate": np.float32(0.5)}
    endless["of"] = Own(endless)
    found = described({"none": Own(None), "list": Own([1]), "endless": Own(endless), "left": None})
    assert found.keys() == {"none", "list", "endless"}
    assert found["endless"]["class_name"] == "Own" and found["endless"]["rate"] == 0.5
    json.dumps(found)
