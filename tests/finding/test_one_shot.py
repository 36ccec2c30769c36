"""Masks without training: what holds for every method, the user's mistakes, and collapse."""

import dataclasses
import re
from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    KERASES,
    assert_same,
    assert_zeros,
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
from lottery_tf.finding.one_shot import draw_masks
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.layers import assign
from lottery_tf.masks.allocate import erk_budgets, prune_to
from lottery_tf.masks.wrapper import set_masks

every_method = pytest.mark.parametrize("method", METHODS)


def data(size=6, **kwargs):
    return tf.data.Dataset.from_tensor_slices(examples(**kwargs)).batch(size)


def prune(model, method, sparsity, batches=1, **options):
    return lt.prune(model, method, sparsity, data(), batches=batches, **options)


# What holds for every method


# Each method, and each scope and sparsity by methods of every kind: what draws the masks is given
# arrays, and knows no method.
COUNTED = [
    *((method, 0.99, "global") for method in METHODS),
    *((method, 0.5, "layerwise") for method in ("omp", "random", "erk")),
    *((method, 0.9, "erk") for method in ("omp", "grasp", "random")),
    *((method, 0, "global") for method in ("omp", "erk")),
]


@pytest.mark.long
@pytest.mark.parametrize(("method", "sparsity", "scope"), COUNTED)
@both_kerases
def test_counts_are_exact_and_weights_the_models_own(method, sparsity, scope, its_keras):
    model = mlp(its_keras.layers)
    before, whole = every_variable(model), values(model)
    with eagerly(METHODS[method].rounds == 1):  # a hundred rounds take less when they are traced
        ticket = prune(model, method, sparsity, scope=scope)
    assert_same(every_variable(model), before)
    masks, shapes = ticket.masks, {"first/kernel": (4, 6), "second/kernel": (6, 5)}
    assert {name: mask.shape for name, mask in masks.items()} == shapes
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    if "erk" in (method, scope):
        assert kept == erk_budgets(lt.Masks.ones(shapes), 54 - round(54 * sparsity))
    elif scope == "layerwise":
        assert kept == {"first/kernel": 12, "second/kernel": 15}
    else:
        assert masks.kept == 54 - round(54 * sparsity)
    for name, value in ticket.weights.items():
        np.testing.assert_array_equal(value, whole[name] * masks.get(name, 1))
    assert ticket.info["method"] == method
    assert_zeros(ticket.build(), masks)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "eager"),
    [
        *((method, True) for method in METHODS),
        *(
            pytest.param(method, False, marks=pytest.mark.e2e)
            for method in ("snip", "iterative_snip", "grasp", "synflow")  # the others trace nothing
        ),
    ],
)
@both_kerases
def test_a_masked_model_is_pruned_further(method, its_keras, eager):
    """TRAP 21: what is pruned stays so, whatever its score; the masks cover what they covered.

    The same seed and data give the same masks again.
    """
    plain = mlp(its_keras.layers)
    masks = random_masks(plain, 0.6)  # the head too
    model = lt.wrap(plain, masks)
    before = every_variable(model)
    rounds = 5 if eager and METHODS[method].rounds > 1 else None
    with eagerly(eager):
        ticket, again = (prune(model, method, 0.8, rounds=rounds) for _ in range(2))
    assert ticket.masks.nested_in(masks)
    assert ticket.masks.kept == masks.total - round(0.8 * masks.total)
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(ticket.weights[name], values(plain)[name] * mask)
    assert again.masks == ticket.masks
    assert_same(every_variable(model), before)


@pytest.mark.usefixtures("all_eager")
def test_layerwise_rounds_prune_no_layer_further_than_the_last():
    """One layer is empty, so that less is left of all than each is to keep."""
    masks = lt.Masks({"first/kernel": np.zeros((4, 6)), "second/kernel": np.ones((6, 5))})
    ticket = prune(lt.wrap(mlp(), masks), "omp", 0.2, rounds=3, scope="layerwise")
    assert ticket.masks["second/kernel"].sum() == 24


@every_method
@pytest.mark.usefixtures("all_eager")
def test_what_is_kept_dense(method):
    ticket = prune(mlp(), method, 0.5, rounds=2, keep_dense=("first",))
    assert {name: each.shape for name, each in ticket.masks.items()} == {
        "second/kernel": (6, 5),
        "head/kernel": (5, 3),
    }
    assert ticket.weights["first/kernel"].all()


@pytest.mark.parametrize(
    ("name", "method", "eager"),
    [
        *((name, each, True) for name in BUILD for each in ("omp", "snip", "grasp", "synflow")),
        *(  # of the layers that differ most in a graph
            pytest.param(name, method, False, marks=pytest.mark.e2e)
            for name in ("images", "attention", "tokens")
            for method in ("grasp", "synflow")
        ),
    ],
)
def test_both_kerases_have_the_same_scores(name, method, eager):
    """Of the same weights, for every score that is not drawn."""
    theirs, ours = twins(name)
    masks = random_masks(theirs, 0.8)
    few = tf.data.Dataset.from_tensors(batch(name))
    score = METHODS[method].score
    with eagerly(eager):
        expected = score(Network(lt.wrap(theirs, masks), few))
        found = score(Network(lt.wrap(ours, masks), few))
    assert found.keys() == masks.keys()
    for each, value in expected.items():
        atol = 1e-5 * np.abs(value).max()
        assert atol > 0
        np.testing.assert_allclose(found[each], value, rtol=1e-5, atol=atol, err_msg=each)


def test_the_random_methods_hang_on_the_seed():
    model = mlp()
    for method in ("random", "erk"):
        found = [prune(model, method, 0.5, seed=seed).masks for seed in (0, 1, 0)]
        assert found[0] == found[2] != found[1]


def test_random_is_uniform():
    """Of 10,000 equal weights 2,500 ± 43 survive in each half; five times that is allowed."""
    model = chain(layers.Dense(100, name="one"), layers.Dense(2), shape=(100,))
    mask = lt.prune(model, "random", 0.5).masks["one/kernel"]
    assert abs(int(mask[:50].sum()) - 2500) < 180 and abs(int(mask[:, :50].sum()) - 2500) < 180


@every_method
@both_kerases
@pytest.mark.usefixtures("all_eager")
def test_data_are_for_what_looks_at_them(method, its_keras):
    needed = method in ("snip", "iterative_snip", "grasp")
    assert METHODS[method].looks_at_data == needed
    with pytest.raises(UsageError, match="training data") if needed else nullcontext():
        lt.prune(mlp(its_keras.layers), method, 0.5, rounds=1)


@every_method
def test_how_often_weights_are_scored_by_default(method, monkeypatch):
    scored, magnitude = [], METHODS["omp"].score

    def score(network):
        scored.append(network)
        return magnitude(network)

    monkeypatch.setitem(METHODS, method, dataclasses.replace(METHODS[method], score=score))
    prune(mlp(), method, 0.5)
    assert len(scored) == (100 if method in ("iterative_snip", "synflow") else 1)


def test_omp_keeps_the_largest_magnitudes():
    model = mlp()
    ticket = lt.prune(model, "omp", 0.5)
    whole = {name: np.abs(values(model)[name]) for name in ticket.masks}
    threshold = np.median(np.concatenate([each.ravel() for each in whole.values()]))
    assert ticket.masks == lt.Masks({name: each > threshold for name, each in whole.items()})


@pytest.mark.e2e
@both_kerases
def test_on_two_devices(its_keras):
    found = []
    for strategy in (tf.distribute.get_strategy(), two_devices()):
        its_keras.utils.set_random_seed(0)
        with strategy.scope():
            model = mlp(its_keras.layers)
        found.append([lt.prune(model, each, 0.5, data()).masks for each in ("grasp", "synflow")])
    assert found[0] == found[1]


# The user's mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snp", 0.5), "A method is one of omp, .* or erk, not 'snp'; nearest: snip"),
        (("imp", 0.5), "needs no training, .* not imp: lt.find_tickets.*method='imp'"),
        (("gmp", 0.5), "needs no training, .* not gmp: lt.find_tickets.*method='gmp'"),
        (("omp", "0.5"), r"sparsity in \[0, 1\).* not '0.5'"),
        (("SNIP", 0.5), "not 'SNIP'; nearest: snip"),
        (("omp", 1), r"sparsity in \[0, 1\).* not 1"),
        (("synflow", -0.1), r"sparsity in \[0, 1\).* not -0.1"),
        (("random", float("nan")), r"sparsity in \[0, 1\).* not nan"),
        (("snip", 0.5), "training data for the scores of the weights, .* not None"),
        (("grasp", 0.5, "images"), "data of arrays of numbers or texts; got a str"),
        (("snip", 0.5, data().take(0)), "not an empty one"),
        (
            ("snip", 0.5, data(shape=(5,))),
            r"whose inputs fit the model .*\(None, 4\) float32; theirs are \(None, 5\) float32",
        ),
        (("grasp", 0.5, data(classes=9)), "whole numbers from 0 to 2; .*labels from 0 to [3-8]"),
        (("snip", 0.5, data().map(lambda x, y: (x, {"tail": y}))), "that fit the model .*head"),
    ],
)
@both_kerases
def test_mistakes(arguments, message, its_keras):
    with pytest.raises(UsageError, match=message) as error:
        lt.prune(mlp(its_keras.layers), *arguments)
    assert "\n" not in str(error.value)


def test_operations_without_a_derivative():
    up = layers.UpSampling2D(interpolation="area")
    model = chain(layers.Reshape((2, 2, 1)), layers.Conv2D(2, 1), up, layers.Flatten())
    model = chain(model, layers.Dense(3))
    for run in (
        lambda: lt.prune(model, "snip", 0.5, data()),
        lambda: lt.prune(model, "grasp", 0.5, data()),
        lambda: lt.signal(model, data()),
    ):
        with pytest.raises(UsageError, match="can be differentiated .* ResizeArea"):
            run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "`rounds` of 1 or more, not 0"),
        ({"batches": 0}, "`batches` of 1 or more, not 0"),
        ({"scope": "layer"}, "scope to be global, layerwise or erk, not 'layer'"),
        ({"loss": "mena_squared_error"}, "mean_squared_error, not 'mena_squared_error'"),
        ({"keep_dense": ("frist",)}, "not 'frist'; nearest: first"),
        ({"keep_dense": ("first", "second", "last")}, "Expected weights to prune"),
    ],
)
@both_kerases
def test_options_out_of_range(options, message, its_keras):
    with pytest.raises(UsageError, match=message):
        prune(mlp(its_keras.layers), "snip", 0.5, **options)


@pytest.mark.parametrize("method", ["omp", "synflow"])
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_sparsity_below_the_models_own(method, share):
    """The sentence has the sparsity that was asked for, of several rounds too."""
    ones = {name: np.zeros(shape, bool) for name, shape in
            {"first/kernel": (4, 6), "second/kernel": (6, 5)}.items()}  # fmt: skip
    for mask in ones.values():
        mask.flat[: round(share * mask.size)] = True
    model = lt.wrap(mlp(), lt.Masks(ones))
    with pytest.raises(UsageError, match=rf"at least {1 - share:.4f}, .* not 0\.25"):
        lt.prune(model, method, 0.25)


@every_method
@pytest.mark.usefixtures("all_eager")
def test_weights_that_are_no_numbers(method):
    model = mlp()
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.eye(4, 6), np.nan, kernel))
    with pytest.raises(RuntimeError, match=f"scores of {method} are not finite for first/kernel"):
        prune(model, method, 0.5)


def test_data_that_are_no_numbers():
    broken = data().map(lambda x, y: (x / 0, y))
    with pytest.raises(RuntimeError, match="scores of grasp are not finite for first/kernel, sec"):
        lt.prune(mlp(), "grasp", 0.5, broken)


@both_kerases
def test_a_loss_of_the_other_keras(its_keras):
    (other,) = set(KERASES.values()) - {its_keras}
    model, loss = mlp(its_keras.layers), other.losses.MeanSquaredError()
    for look in (
        lambda: lt.prune(model, "snip", 0.5, data(), loss=loss),
        lambda: lt.signal(model, data(), loss=loss),
    ):
        with pytest.raises(
            UsageError, match=f"Expected the loss of {its_keras.__name__}, like the"
        ):
            look()


@both_kerases
def test_a_subclassed_model(its_keras):
    class Own(its_keras.Model):
        pass

    with pytest.raises(UsageError, match="subclassed model"):
        lt.prune(Own(), "omp", 0.5)


# Collapse


def uneven():
    """8 → 3 → 100 → 2, where the first kernel's 24 weights are smaller than all others."""
    model = chain(
        layers.Dense(3, name="narrow"),
        layers.Dense(100, name="wide"),
        layers.Dense(2, name="head"),
        shape=(8,),
    )
    whole = values(model)
    small = np.linspace(0.001, 0.01, 24, dtype=np.float32).reshape(8, 3)
    assign(model, {**whole, "narrow/kernel": small, "wide/kernel": 0.1 + np.abs(
        whole["wide/kernel"])})  # fmt: skip
    return model


def warnings(lines):
    return [line for line in lines if line.startswith("Nothing is left of ")]


def figure(line):
    """The sparsity that a warning says would do."""
    return float(re.search(r"Up to ([\d.]+) % each layer keeps a weight\.$", line)[1]) / 100


@pytest.mark.parametrize(
    ("method", "scope", "sparsity", "layers_", "highest"),
    [
        ("omp", "global", 0.9, "narrow/kernel", 23.5 / 324),
        ("omp", "layerwise", 0.99, "narrow/kernel", 23.5 / 24),
        # A kernel keeps a share of 11 of 114 of what survives, and less than one of 5 or so.
        ("erk", "global", 0.995, "narrow/kernel", None),
        ("random", "layerwise", 0.999, "narrow/kernel, wide/kernel", 23.5 / 24),
    ],
)
def test_the_warning_names_the_layers_and_a_sparsity_that_does(
    method, scope, sparsity, layers_, highest, lines
):
    model = uneven()
    ticket = lt.prune(model, method, sparsity, scope=scope)
    (line,) = warnings(lines)
    shown = 100 * ticket.sparsity
    assert line.startswith(f"Nothing is left of {layers_} at a sparsity of {shown:.2f} %: ")
    safe = figure(line)
    if highest:
        assert highest - 2e-4 < safe <= highest
    del lines[:]
    assert not lt.prune(model, method, safe, scope=scope).masks.collapsed
    assert not warnings(lines)
    assert lt.prune(model, method, safe + 2e-4, scope=scope).masks.collapsed
    assert len(warnings(lines)) == 1


@pytest.mark.parametrize("method", ["iterative_snip", "synflow"])
def test_of_several_rounds_it_is_by_the_scores_of_the_round_that_empties_a_layer(method, lines):
    """One weight leads on, so that two thirds of the others have no score; at last one is left."""
    model, rounds, sparsity = uneven(), 3, 323 / 324
    wide = np.zeros((3, 100), bool)
    wide[0, 0] = True
    masks = lt.Masks({"narrow/kernel": np.ones((8, 3)), "wide/kernel": wide})
    few = data(shape=(8,), classes=2)
    found = draw_masks(model, masks, method, sparsity, few, rounds=rounds, batches=1)
    (line,) = warnings(lines)
    network, density = Network(lt.wrap(model, masks), few), 1 - masks.sparsity
    for i in range(1, rounds + 1):
        target = 1 - density * ((1 - sparsity) / density) ** (i / rounds)
        scores = METHODS[method].score(network)
        after = prune_to(scores, masks, target)
        if after.collapsed:
            break
        masks = after
        set_masks(network.model, masks)
    assert set(after.collapsed) <= set(found.collapsed)
    safe = figure(line)
    assert i == rounds and masks.sparsity - 2e-4 < safe < after.sparsity
    assert not prune_to(scores, masks, max(safe, masks.sparsity)).collapsed
    assert prune_to(scores, masks, safe + 2e-4).collapsed


def test_no_warning_where_nothing_collapses(lines):
    lt.prune(uneven(), "synflow", 0.9)
    lt.prune(uneven(), "omp", 0.07)
    assert lines and not warnings(lines)


def test_no_figure_where_a_layer_was_empty_before(lines):
    masks = lt.Masks({"narrow/kernel": np.zeros((8, 3)), "wide/kernel": np.ones((3, 100))})
    lt.prune(lt.wrap(uneven(), masks), "omp", 0.9)
    (line,) = warnings(lines)
    assert line.endswith("Nothing is left of narrow/kernel at a sparsity of 90.12 %: no signal "
                         "passes there.")  # fmt: skip


# Scores of 0


def zero_head():
    """As in many recipes of transfer: no gradient comes through the last layer."""
    return chain(
        layers.Dense(6, "relu", name="first"),
        layers.Dense(3, name="head", kernel_initializer="zeros"),
    )


def zeros():
    return chain(layers.Dense(6, kernel_initializer="zeros", name="first"), layers.Dense(3))


@pytest.mark.parametrize(
    ("method", "model"),
    [
        *((method, zero_head) for method in ("snip", "iterative_snip", "grasp", "synflow")),
        *((method, zeros) for method in ("omp", "snip", "grasp", "synflow")),
    ],
)
@pytest.mark.usefixtures("all_eager")
def test_scores_that_are_all_0_make_no_mask(method, model):
    # Of 24 weights the first rounds of a hundred prune none.
    at = f"{method}, round 4 of 100" if METHODS[method].rounds > 1 else method
    with pytest.raises(UsageError, match=f"^{at}: .*scores .*those of first/kernel are all 0"):
        prune(model(), method, 0.5)
    assert prune(model(), "random", 0.5).masks.kept == 12


def test_weights_that_stay_with_a_score_of_0_are_counted(lines):
    model = zeros()
    model.layers[1].kernel.assign(np.eye(4, 6))
    assert prune(model, "omp", 0.5).masks.kept == 12
    assert "omp: 8 of the 12 weights that stay have a score of 0" in "".join(lines)
    del lines[:]
    prune(model, "omp", 0.9)
    assert "score of 0" not in "".join(lines)
