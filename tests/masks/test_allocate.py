import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lottery_tf.common.errors import UsageError
from lottery_tf.masks.allocate import SCOPES, erk_budgets, prune_fraction, prune_to, target_of
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.structure import parse


def not_all_zero(scores):
    scores.flat[0] = 4.0
    return scores


# Few distinct scores, so that ties are the rule; some are 0, not all.
few = st.integers(0, 3).map(float)
scores_of_two = st.fixed_dictionaries(
    {
        "a": arrays(np.float32, st.integers(1, 30), elements=few).map(not_all_zero),
        "b": arrays(np.float32, (3, 4), elements=few).map(not_all_zero),
    }
)
scopes = pytest.mark.parametrize("scope", SCOPES)


def ones(scores):
    return Masks.ones({name: array.shape for name, array in scores.items()})


def kept(masks):
    return {name: mask.astype(int).tolist() for name, mask in masks.items()}


def test_global_and_layerwise_on_four_weights():
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    assert kept(prune_to(scores, ones(scores), 0.5)) == {"a": [0, 0], "b": [1, 1]}
    assert kept(prune_to(scores, ones(scores), 0.5, "layerwise")) == {"a": [0, 1], "b": [0, 1]}


def test_of_equal_scores_the_earlier_survives():
    scores = {"a": np.array([1.0, 1.0, 1.0]), "b": np.array([1.0, 2.0])}
    assert kept(prune_to(scores, ones(scores), 0.4)) == {"a": [1, 1, 0], "b": [0, 1]}


def test_a_layer_full_of_zeros_keeps_its_exact_count():
    """A threshold of 0 and ``>=`` would keep all (tfmot), ``>`` none."""
    scores = {"a": np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 5, 6])}
    assert prune_to(scores, ones(scores), 0.5)["a"].sum() == 5


@pytest.mark.parametrize(
    ("a", "refused"), [([0.0, 0.0, 0.0], {"layerwise", "erk"}), ([9.0, 0.0, 0.0], SCOPES)]
)
@scopes
def test_scores_that_are_all_0_are_refused_where_they_are_ranked(scope, a, refused):
    """The mask would be one by index. A pruned weight's score, 9, has no part in it."""
    b = [0.0, 0.0, 0.0] if a[0] else [1.0, 0.0, 0.0]
    scores = {"a": np.array(a), "b": np.array(b)}
    masks = Masks({"a": [not a[0], True, True], "b": [True, True, True]})
    if scope in refused:
        with pytest.raises(UsageError, match="those of [ab].* are all 0"):
            prune_to(scores, masks, 0.5, scope)
    else:
        assert prune_to(scores, masks, 0.5, scope).kept == 3
    everything = prune_to(scores, masks, 1 - masks.kept / 6, "global")
    assert everything == masks  # nothing is ranked


def test_the_sparsity_of_a_structure_is_its_own():
    """Of 2:3 a third, as near as it can be written out; of others that which is asked for."""
    own, other = parse("2:3"), parse("unstructured")
    assert target_of(other, 0.3) == 0.3 and target_of(other, None) is None
    assert target_of(own, None) == target_of(own, 0.3333333) == own.sparsity == 1 - 2 / 3
    assert target_of(own, own.sparsity + 9e-7) == target_of(own, own.sparsity - 9e-7) == 1 - 2 / 3
    for wrong in (0.333, 0.33334):
        said = f"with `structure=2:3`, which has the sparsity 0.333333, not {wrong}"
        with pytest.raises(UsageError, match=said):
            target_of(own, wrong)


def test_already_pruned_weights_stay_pruned_whatever_their_score():
    scores = {"a": np.array([9.0, 1.0, 2.0, 3.0])}
    masks = Masks({"a": [0, 1, 1, 1]})
    assert kept(prune_fraction(scores, masks, 1 / 3)) == {"a": [0, 0, 1, 1]}
    assert kept(prune_to(scores, masks, 0.75)) == {"a": [0, 0, 0, 1]}


def test_weights_without_a_mask_do_not_count_in_the_quota():
    scores = {"a": np.array([1.0, 2.0, 3.0, 4.0]), "head": np.array([0.0, 0.0, 0.0, 0.0])}
    assert kept(prune_to(scores, Masks.ones({"a": (4,)}), 0.5)) == {"a": [0, 0, 1, 1]}


def test_the_ladder_of_twenty_percent():
    scores = {"a": np.random.default_rng(0).permutation(100_000).astype(float)}
    masks, ladder = ones(scores), []
    for _ in range(18):
        masks = prune_fraction(scores, masks, 0.2)
        ladder.append(round(100 * masks.sparsity, 2))
    published = [20, 36, 48.8, 59.04, 67.23, 73.79, 79.03, 83.22, 86.58]
    published += [89.26, 91.41, 93.13, 94.50, 95.60, 96.48, 97.19, 97.75, 98.20]
    assert ladder == pytest.approx(published, abs=0.006)


@scopes
@given(scores=scores_of_two, fraction=st.floats(0, 1))
def test_fractions_are_exact_and_nested(scope, scores, fraction):
    masks = ones(scores)
    for _ in range(3):
        before, masks = masks, prune_fraction(scores, masks, fraction, scope)
        assert masks.nested_in(before)
        parts = masks if scope == "layerwise" else [None]
        for part in parts:
            had, has = (
                (before[part].sum(), masks[part].sum()) if part else (before.kept, masks.kept)
            )
            assert has == had - round(fraction * had)


@scopes
@given(scores=scores_of_two, low=st.floats(0, 0.99), high=st.floats(0, 0.99))
def test_targets_are_exact_and_nested(scope, scores, low, high):
    low, high = sorted((low, high))
    first = prune_to(scores, ones(scores), low, scope)
    second = prune_to(scores, first, high, scope)
    assert second.nested_in(first)
    if scope != "layerwise":
        assert second.kept == second.total - round(high * second.total)
    else:
        for mask in second.values():
            assert mask.sum() == mask.size - round(high * mask.size)


def erk_densities(shapes, density):
    """The probabilities as Evci et al.'s released code finds them: ε, dense layers one by one."""
    raw = {name: sum(shape) / np.prod(shape) for name, shape in shapes.items()}
    dense = set()
    while True:
        target = density * sum(np.prod(shape) for shape in shapes.values())
        target -= sum(np.prod(shapes[name]) for name in dense)
        epsilon = target / sum(raw[n] * np.prod(shapes[n]) for n in shapes if n not in dense)
        highest = max(epsilon * raw[name] for name in shapes if name not in dense)
        if highest <= 1:
            return {n: 1.0 if n in dense else epsilon * raw[n] for n in shapes}
        dense |= {n for n in shapes if n not in dense and epsilon * raw[n] == highest}


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_erk_is_the_formula_of_the_paper(density):
    convolutions = {f"conv{i}": (3, 3, 2**i, 2**i) for i in range(2, 7)}
    shapes = {"stem": (3, 3, 3, 4), **convolutions, "dense": (64, 10), "shortcut": (1, 1, 16, 8)}
    masks = Masks.ones(shapes)
    number = round(density * masks.total)
    budgets, densities = erk_budgets(masks, number), erk_densities(shapes, density)
    assert sum(budgets.values()) == number
    for name, mask in masks.items():
        assert abs(budgets[name] - densities[name] * mask.size) < 1


def test_erk_prunes_within_each_layer():
    scores = {"a": np.arange(4.0), "b": np.arange(60.0).reshape(6, 10)}
    masks = prune_to(scores, ones(scores), 0.75, "erk")
    # A shape's sum is 4 of 20: 3.2 of the 16 weights, the other's 12.8.
    assert kept(masks)["a"] == [0, 1, 1, 1]
    assert masks["b"].ravel().nonzero()[0].tolist() == list(range(47, 60))


def test_erk_shares_what_survives():
    """Equal shapes have equal shares: of 5 weights 2.5, of 4 two, where each has so many left."""
    assert erk_budgets(Masks({"a": [1] * 4, "b": [1] * 4}), 5) == {"a": 3, "b": 2}
    assert erk_budgets(Masks({"a": [1, 0, 0, 0], "b": [1] * 4}), 4) == {"a": 1, "b": 3}


def test_erk_of_a_layer_of_one_weight():
    """Its share of 2 weights is 0.18, or 0.5, as is the other's rest; then the earlier gains."""
    assert erk_budgets(Masks.ones({"a": (1, 1), "b": (10, 10)}), 2) == {"a": 0, "b": 2}
    assert erk_budgets(Masks.ones({"a": (1, 1), "b": (3, 3)}), 2) == {"a": 1, "b": 1}


def test_layerwise_what_is_sparser_stays():
    scores, masks = {"a": np.ones(6), "b": np.arange(2.0)}, Masks({"a": [1] + [0] * 5, "b": [1, 1]})
    found = kept(prune_to(scores, masks, 0.5, "layerwise"))
    assert found == {"a": [1, 0, 0, 0, 0, 0], "b": [0, 1]}


@given(scores=scores_of_two, sparsity=st.floats(0, 0.99))
def test_no_pruned_weight_has_a_higher_score_than_a_survivor(scores, sparsity):
    masks = prune_to(scores, ones(scores), sparsity)
    pruned = np.concatenate([scores[n][~m].ravel() for n, m in masks.items()])
    survivors = np.concatenate([scores[n][m].ravel() for n, m in masks.items()])
    if pruned.size and survivors.size:
        assert pruned.max() <= survivors.min()


def test_infinite_scores_rank():
    scores = {"a": np.array([np.inf, -np.inf, 0.0, 1.0])}
    assert kept(prune_to(scores, ones(scores), 0.5)) == {"a": [1, 0, 0, 1]}


def test_scores_are_ranked_in_their_own_precision():
    """float32 ends at 3e38, and 1 + 1e-9 is 1 in it."""
    for scores in ([1e60, 1e63, 1e61, 1e62], [1, 1 + 3e-9, 1 + 1e-9, 1 + 2e-9]):
        scores = {"a": np.array(scores)}
        assert kept(prune_to(scores, ones(scores), 0.5)) == {"a": [0, 1, 0, 1]}


def test_the_score_of_a_pruned_weight_may_be_no_number():
    scores, masks = {"a": np.array([np.nan, 1.0, 2.0, 3.0])}, Masks({"a": [0, 1, 1, 1]})
    assert kept(prune_to(scores, masks, 0.5)) == {"a": [0, 0, 1, 1]}


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan")])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity):
    scores = {"a": np.ones(4)}
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        prune_to(scores, ones(scores), sparsity)


def test_other_mistakes():
    scores = {"a": np.ones(4)}
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        prune_fraction(scores, ones(scores), 1.1)
    with pytest.raises(UsageError, match="global, layerwise or erk"):
        prune_to(scores, ones(scores), 0.5, "local")
    with pytest.raises(UsageError, match="at least 0.5"):
        prune_to(scores, Masks({"a": [1, 1, 0, 0]}), 0.25)
    with pytest.raises(UsageError, match="NaN came for a"):
        prune_to({"a": np.array([1.0, np.nan])}, Masks.ones({"a": (2,)}), 0.5)
    with pytest.raises(UsageError, match="got none"):
        prune_to({}, Masks.ones({"a": (2,)}), 0.5)
    with pytest.raises(UsageError, match=r"shape \(2,\) for a; got \(3,\)"):
        prune_to({"a": np.ones(3)}, Masks.ones({"a": (2,)}), 0.5)
