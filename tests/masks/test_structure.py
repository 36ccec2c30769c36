"""Structures of masks: on few weights by hand, against tfmot, and what holds for any."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_utils

from lottery_tf.common.errors import UsageError
from lottery_tf.masks.allocate import SCOPES, erk_budgets, prune_fraction, prune_to
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.structure import STRUCTURES, Axes, parse


def axes(rank):
    """Those of Dense and of convolutions."""
    return Axes(rank - 2, (rank - 1,))


def of(text, masks):
    shapes = {name: mask.shape for name, mask in masks.items()}
    return parse(text).on({name: axes(len(shape)) for name, shape in shapes.items()}, shapes)


def ones(scores):
    return Masks.ones({name: array.shape for name, array in scores.items()})


def pruned(scores, sparsity, text, scope="global", masks=None, **options):
    scores = {name: np.array(each, float) for name, each in scores.items()}
    masks = masks or ones(scores)
    found = prune_to(scores, masks, sparsity, scope, of(text, masks), **options)
    return {name: mask.astype(int).tolist() for name, mask in found.items()}


# By hand


def test_two_of_four_along_the_inputs():
    scores = {"a": [[1, 8], [2, 7], [3, 6], [4, 5]]}
    assert pruned(scores, 0.5, "2:4") == {"a": [[0, 1], [0, 1], [1, 0], [1, 0]]}


def test_of_many_equal_blocks_the_earlier_ones_are_kept():
    """More of them than a sort that is not stable leaves in their order; but for these `b` would
    have all that stays."""
    blocks = np.arange(300) % 3
    scores = {"a": np.repeat(blocks, 2)[:, None], "b": np.full((600, 1), 9.0)}
    found = pruned(scores, 0.5, "block:2x1", min_kept=240)["a"]
    largest, middle = (np.flatnonzero(blocks == each) for each in (2, 1))
    first = np.sort(np.concatenate([largest, middle[:20]]))  # of 100 and 20, two weights each
    assert np.flatnonzero(np.array(found).reshape(300, 2).all(axis=1)).tolist() == first.tolist()
    assert np.sum(found) == 240


@pytest.mark.parametrize(
    ("text", "shapes", "remarks"),
    [
        ("unstructured", {"a": (5, 3)}, []),
        ("channel", {"a": (5, 3)}, []),
        ("block:2x3", {"a": (4, 3), "b": (8, 6)}, []),
        (
            "block:2x3",
            {"a": (4, 3), "b": (5, 3), "c": (4, 4)},
            ["block:2x3: the last blocks of b, c are smaller."],
        ),
        ("2:4", {"a": (4, 3), "b": (8, 1)}, []),
        (
            "2:4",
            {"a": (3, 3), "b": (6, 1), "c": (4, 8)},
            ["2:4: the last groups of a, b are smaller."],
        ),
        (
            "2:4",
            {"a": (1, 3), "b": (2, 3), "c": (9, 3)},
            [
                "2:4 prunes nothing of a, b: 2 inputs or fewer.",
                "2:4: the last groups of c are smaller.",
            ],
        ),
    ],
)
def test_what_is_said_of_kernels_that_no_whole_groups_fit(text, shapes, remarks):
    """By hand: 5 inputs are two blocks of 2 and one of 1; 6 are a group of 4 and one of 2."""
    found = parse(text).on({name: axes(2) for name in shapes}, shapes)
    assert found.remarks(shapes) == remarks


@pytest.mark.parametrize(
    ("sparsity", "mask"),
    [
        (0, [[1, 1], [1, 1], [1, 1], [1, 1]]),
        (0.125, [[0, 1], [1, 1], [1, 1], [1, 1]]),  # 1 of 8: the smallest
        (0.25, [[0, 1], [0, 1], [1, 1], [1, 1]]),
        (0.375, [[0, 1], [0, 1], [1, 1], [1, 0]]),  # 3 and 4 are held: the two largest there
        (0.5, [[0, 1], [0, 1], [1, 0], [1, 0]]),
    ],
)
def test_on_the_way_the_smallest_go_that_no_group_holds(sparsity, mask):
    assert pruned({"a": [[1, 8], [2, 7], [3, 6], [4, 5]]}, sparsity, "2:4") == {"a": mask}


def test_a_last_group_of_fewer_keeps_as_many_at_most():
    """Of 5 inputs 2 of the first four stay, and the fifth; of 3 two; of 2 both."""
    scores = {"five": [[1], [4], [3], [2], [0.5]], "three": [[3], [1], [2]], "two": [[1], [2]]}
    assert pruned(scores, 0.5, "2:4") == {
        "five": [[0], [1], [1], [0], [1]],
        "three": [[1], [0], [1]],
        "two": [[1], [1]],
    }


def test_of_equal_scores_in_a_group_the_earlier_stay():
    assert pruned({"a": [[1.0]] * 4 + [[0.0]] * 4}, 0.75, "1:4")["a"] == [
        *([[1], [0], [0], [0]] * 2)
    ]


def test_a_group_that_has_fewer_already_keeps_what_it_has():
    """Whatever the others have: 4 of 12 are left, less than a half, 3 of them in one group."""
    scores, alive = {"a": np.arange(12.0)[:, None]}, np.zeros((12, 1))
    alive[[0, 4, 5, 6]] = 1
    found = pruned(scores, 0.5, "2:4", masks=Masks({"a": alive}))
    assert np.flatnonzero(found["a"]).tolist() == [0, 5, 6]


def test_blocks_go_by_their_mean_or_their_largest():
    """[0, 6] and [4, 4]: means of 3 and 4, largest 6 and 4."""
    scores = {"a": [[0, 4], [6, 4]]}
    assert pruned(scores, 0.5, "block:2x1") == {"a": [[0, 1], [0, 1]]}
    assert pruned(scores, 0.5, "block:2x1:max") == {"a": [[1, 0], [1, 0]]}
    assert pruned(scores, 0.5, "block:1x2") == {"a": [[0, 0], [1, 1]]}


def test_a_block_at_the_edge_is_smaller():
    scores = {"a": [[1, 1, 3], [1, 1, 3], [2, 2, 2.5]]}  # means of 2x2: 1, 3, 2, 2.5
    assert pruned(scores, 0.5, "block:2x2") == {"a": [[0, 0, 1], [0, 0, 1], [0, 0, 1]]}
    assert pruned(scores, 0.25, "block:2x2") == {"a": [[0, 0, 1], [0, 0, 1], [1, 1, 1]]}


def test_blocks_of_a_convolution_lie_at_one_place_of_it():
    """1x2 places, 2 inputs, 1 output: no block of two weights spans both places."""
    scores = {"a": [[[[1], [2]], [[4], [3]]]]}
    assert pruned(scores, 0.5, "block:2x1") == {"a": [[[[0], [0]], [[1], [1]]]]}
    assert pruned(scores, 0.5, "block:9x9") == {"a": [[[[0], [0]], [[1], [1]]]]}


def test_channels_go_by_the_mean_of_their_weights():
    """Across layers too: [2, 4] and [1, 9] of three weights, 3 and 5 of one."""
    scores = {"a": [[2, 4], [1, 9], [3, 8]], "b": [[3, 5]]}
    assert pruned(scores, 0.25, "channel") == {"a": [[0, 1]] * 3, "b": [[1, 1]]}
    assert pruned(scores, 0.5, "channel") == {"a": [[0, 1]] * 3, "b": [[0, 1]]}
    assert pruned(scores, 0.5, "channel", "layerwise") == {"a": [[0, 1]] * 3, "b": [[0, 1]]}


def test_what_is_pruned_already_counts_as_0_in_a_mean():
    """8 of a block of two is a mean of 4, below 5. Its own score has no part in it."""
    scores, masks = {"a": [[8, 5], [9, 5]]}, Masks({"a": [[1, 1], [0, 1]]})
    assert pruned(scores, 0.5, "block:2x1", masks=masks) == {"a": [[0, 1], [0, 1]]}
    assert pruned(scores, 0.5, "block:2x1:max", masks=masks) == {"a": [[1, 0], [0, 0]]}


def test_negative_scores_of_what_is_left():
    """-3 is the largest of its block; a pruned weight's 0 is none."""
    scores, masks = {"a": [[-3, -2], [0, -4]]}, Masks({"a": [[1, 1], [0, 1]]})
    assert pruned(scores, 0.5, "block:2x1:max", masks=masks) == {"a": [[0, 1], [0, 1]]}


def test_erk_has_the_densities_of_weights():
    """8/16 and 16/64 are as 2 to 1: 6 of the 12 channels are 3 of 4 and 3 of 8."""
    masks = Masks.ones({"a": (4, 4), "b": (8, 8)})
    assert erk_budgets(masks, 6, of("channel", masks)) == {"a": 3, "b": 3}


def test_erk_gives_what_has_to_be_kept_first():
    """By their shares of 12, 4 to 6, the one would be full and the other have too little."""
    masks = Masks.ones({"a": (2, 2), "b": (3, 3)})
    assert erk_budgets(masks, 12, floors={"a": 0, "b": 9}) == {"a": 3, "b": 9}
    assert erk_budgets(masks, 12) == {"a": 4, "b": 8}


def test_each_layer_keeps_a_weight_where_asked():
    scores = {"a": [1, 2], "b": [3, 4]}

    def kept(sparsity, scope="global", least=1):
        scored = {name: np.array(each, float) for name, each in scores.items()}
        masks = prune_to(scored, ones(scored), sparsity, scope, min_kept=least)
        return {name: mask.astype(int).tolist() for name, mask in masks.items()}

    assert kept(0.5, least=0) == {"a": [0, 0], "b": [1, 1]}
    assert kept(0.5) == {"a": [0, 1], "b": [0, 1]}
    assert kept(0.25) == {"a": [0, 1], "b": [1, 1]}
    for scope in SCOPES:
        assert kept(0.9, scope) == {"a": [0, 1], "b": [0, 1]}
        assert kept(0.9, scope, least=5) == {"a": [1, 1], "b": [1, 1]}


def test_whole_units_are_kept_that_have_so_many_weights():
    """Channels of 3 weights and of 1: of the first one is enough, of the others two."""
    scores = {"a": [[2, 1], [2, 1], [2, 1]], "b": [[5, 7, 6]]}
    assert pruned(scores, 0.6, "channel", min_kept=2) == {"a": [[1, 0]] * 3, "b": [[0, 1, 1]]}
    assert pruned(scores, 0.6, "channel", min_kept=4) == {"a": [[1, 1]] * 3, "b": [[1, 1, 1]]}


def test_a_layer_that_is_empty_stays_empty():
    scores, masks = {"a": np.ones(2), "b": np.arange(1.0, 3)}, Masks({"a": [0, 0], "b": [1, 1]})
    assert prune_to(scores, masks, 0.75, min_kept=1).collapsed == ["a"]


# As tfmot


def random_weights(shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("text", ["2:4", "1:2", "1:4", "3:4", "2:3"])
@pytest.mark.parametrize(
    "shape", [(8, 6), (12, 5), (7, 3), (3, 3, 8, 5), (1, 1, 6, 2), (2, 2, 1, 4)]
)
def test_m_by_n_is_tfmots(shape, text):
    """Which counts the zeros."""
    m, n = map(int, text.split(":"))
    weights = random_weights(shape)
    scores = {"a": np.abs(weights)}
    found = prune_to(scores, ones(scores), 1 - m / n, structure=of(text, ones(scores)))["a"]
    theirs = pruning_impl.Pruning(lambda: 1, [], None, (1, 1), "AVG", (n - m, n))
    _, expected = theirs._maybe_update_block_mask(tf.constant(weights))
    np.testing.assert_array_equal(found, expected.numpy().astype(bool))
    assert pruning_utils.is_pruned_m_by_n(tf.constant(weights * found), (n - m, n))


@pytest.mark.parametrize("sparsity", [0.3, 0.75, 0.999])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        *(((12, 12), block) for block in [(4, 1), (1, 4), (2, 3), (3, 2)]),
        ((24, 6), (4, 1)),
        ((11, 12), (4, 1)),
        ((11, 5), (2, 3)),
    ],
)
def test_blocks_are_tfmots(shape, block, pooling, sparsity):
    """One is always left there. Where a size lacks more than one of a multiple, tfmot pools other
    blocks than it prunes."""
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 0)
    weights = random_weights(shape)
    theirs = pruning_impl.Pruning(lambda: 0, [], schedule, block, pooling)
    _, expected = theirs._maybe_update_block_mask(tf.constant(weights))
    text = "block:{}x{}".format(*block) + (":max" if pooling == "MAX" else "")
    scores = {"a": np.abs(weights)}
    structure = of(text, ones(scores))
    found = prune_to(scores, ones(scores), sparsity, "layerwise", structure, min_kept=1)["a"]
    np.testing.assert_array_equal(found, expected.numpy().astype(bool))


@pytest.mark.parametrize("sparsity", [0.5, 0.97, 0.999])
@pytest.mark.parametrize("size", [1, 8, 40])
def test_layerwise_with_a_weight_kept_is_tfmots(size, sparsity):
    """Of a half theirs rounds what stays, ours what goes."""
    weights = random_weights((size, 1))
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 0)
    theirs = pruning_impl.Pruning(lambda: 0, [], schedule, (1, 1), "AVG")
    _, expected = theirs._maybe_update_block_mask(tf.constant(weights))
    scores = {"a": np.abs(weights)}
    found = prune_to(scores, ones(scores), sparsity, "layerwise", min_kept=1)["a"]
    np.testing.assert_array_equal(found, expected.numpy().astype(bool))


# What holds for any scores

few = st.integers(0, 3).map(float)


def not_all_zero(scores):
    scores.flat[0] = 4.0
    return scores


shapes = st.tuples(*[st.integers(1, 7)] * 2) | st.tuples(*[st.integers(1, 3)] * 4)
scores_of_two = st.fixed_dictionaries(
    {name: arrays(np.float32, shapes, elements=few).map(not_all_zero) for name in "ab"}
)
UNITS = ("unstructured", "block:2x1", "block:1x3:max", "block:2x2", "channel")


@pytest.mark.parametrize("text", UNITS)
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=40)
@given(scores=scores_of_two, low=st.floats(0, 0.99), high=st.floats(0, 0.99))
def test_counts_are_exact_in_units_and_units_whole(scope, text, scores, low, high):
    low, high = sorted((low, high))
    structure = of(text, ones(scores))
    masks = ones(scores)
    for sparsity in (low, high):
        before, masks = masks, prune_to(scores, masks, sparsity, scope, structure)
        assert masks.nested_in(before)
        units = structure.units(masks)
        assert structure.weights(units, ones(scores)) == masks  # no unit is left in part
        for part in units.values() if scope == "layerwise" else [None]:
            total, kept = (units.total, units.kept) if part is None else (part.size, part.sum())
            assert kept == total - round(sparsity * total)


@pytest.mark.parametrize("text", UNITS)
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=40)
@given(scores=scores_of_two, fraction=st.floats(0, 1))
def test_fractions_are_exact_in_units(scope, text, scores, fraction):
    structure, masks = of(text, ones(scores)), ones(scores)
    for _ in range(3):
        before, masks = masks, prune_fraction(scores, masks, fraction, scope, structure)
        assert masks.nested_in(before)
        had, has = structure.units(before), structure.units(masks)
        for name in scores if scope == "layerwise" else [None]:
            left = had.kept if name is None else had[name].sum()
            kept = has.kept if name is None else has[name].sum()
            assert kept == left - round(fraction * left)


def most_in_a_group(mask, n):
    """The largest number of survivors in a group of n along the inputs."""
    inputs = np.moveaxis(mask, -2, -1)
    groups = [inputs[..., i : i + n].sum(-1) for i in range(0, inputs.shape[-1], n)]
    return max(int(each.max()) for each in groups)


@pytest.mark.parametrize(("m", "n"), [(1, 2), (2, 4), (1, 3), (3, 5)])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
@settings(max_examples=40)
@given(scores=scores_of_two, sparsity=st.floats(0, 0.5), fraction=st.floats(0, 1))
def test_m_by_n_holds_for_every_group_and_on_the_way_counts_are_exact(
    m, n, scope, scores, sparsity, fraction
):
    structure, own = of(f"{m}:{n}", ones(scores)), 1 - m / n
    end = prune_to(scores, ones(scores), own, scope, structure)
    largest = sum(
        min(m, n_of) * mask.size // mask.shape[-2]
        for mask in end.values()
        for n_of in [min(n, mask.shape[-2] - i) for i in range(0, mask.shape[-2], n)]
    )
    assert end.kept == largest
    assert all(most_in_a_group(mask, n) <= m for mask in end.values())
    sparsity = min(sparsity, own)
    first = prune_to(scores, ones(scores), sparsity, scope, structure)
    if scope == "global":
        assert first.kept == max(first.total - round(sparsity * first.total), end.kept)
    second = prune_fraction(scores, first, fraction, scope, structure)
    last = prune_to(scores, second, own, scope, structure)
    assert last.nested_in(second) and second.nested_in(first)
    assert last == end  # of the same scores
    assert prune_fraction(scores, last, 1, scope, structure) == last


@pytest.mark.parametrize("text", UNITS)
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=40)
@given(
    scores=scores_of_two,
    sparsity=st.floats(0, 0.99),
    least=st.integers(1, 9),
    first=st.floats(0, 0.9),
)
def test_what_each_layer_keeps_at_least(scope, text, scores, sparsity, least, first):
    """As few units as have so many weights, and the count stays exact where that allows it."""
    structure = of(text, ones(scores))
    before = prune_to(scores, ones(scores), first, "layerwise", structure)
    assume(before.kept)
    sparsity = max(sparsity, structure.units(before).sparsity)
    after = prune_to(scores, before, sparsity, scope, structure, least)
    assert after.nested_in(before)
    floors = 0
    for name, mask in after.items():
        counts = np.sort(structure.counts(before)[name][structure.units(before)[name]], axis=None)
        assert mask.sum() >= min(least, before[name].sum())
        floors += int(np.searchsorted(np.cumsum(counts), least) + 1)
    units = structure.units(after)
    if scope != "layerwise":
        exact = units.total - round(sparsity * units.total)
        assert exact <= units.kept <= max(exact, floors)


@given(
    shapes=st.lists(shapes, min_size=1, max_size=4),
    share=st.floats(0, 1),
    floor=st.integers(0, 40),
)
def test_erk_with_floors_is_the_nearest_there_is(shapes, share, floor):
    """The common factor of all densities that gives the number, each kept between its bounds."""
    masks = Masks.ones({str(i): shape for i, shape in enumerate(shapes)})
    floors = {name: min(floor, mask.size) for name, mask in masks.items()}
    kept = max(round(share * masks.total), sum(floors.values()))
    budgets = erk_budgets(masks, kept, floors=floors)
    assert sum(budgets.values()) == kept

    def shares(unit):
        return {n: min(max(unit * sum(m.shape), floors[n]), m.size) for n, m in masks.items()}

    low, high = 0.0, float(masks.total)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle).values()) < kept else (low, middle)
    for name, exact in shares(high).items():
        assert floors[name] <= budgets[name] <= masks[name].size
        assert abs(budgets[name] - exact) < 1 + 1e-6


# Mistakes


@pytest.mark.parametrize(
    "text", ["", "2:", "0:4", "4:4", "5:4", "2:4 ", "block:4", "block:0x1", "block:2x2:avg", "2x2"]
)
def test_what_is_no_structure(text):
    assert text not in STRUCTURES
    with pytest.raises(UsageError, match=r"`structure` takes unstructured, M:N .* or channel, not"):
        parse(text)


def test_a_slip_has_the_nearest_name():
    with pytest.raises(UsageError, match="not 'channels'; nearest: channel"):
        parse("channels")


@pytest.mark.parametrize(
    "text", ["unstructured", "1:2", "17:32", "block:1x1", "block:4x16:max", "channel"]
)
def test_what_is_one(text):
    assert text in STRUCTURES and parse(text).text == text


def test_kernels_that_do_not_fit_are_named_with_the_reason():
    odd = {"list": None, "depthwise": Axes(None, (2, 3)), "gates": Axes(0, (1,), alone=False)}
    odd["one"] = Axes(0, ())
    shapes = {"list": (7,), "depthwise": (3, 3, 2, 1), "gates": (4, 8), "one": (4,)}
    refused = {
        "2:4": "list, depthwise, whose layer sums over no channels",
        "block:2x1": "list, depthwise, whose .* channels; nor one, which make one output",
        "channel": "list, whose layer .*; nor gates, several columns of which make an output",
    }
    for text, message in refused.items():
        with pytest.raises(UsageError, match=f"`structure={text}` fits, not {message}: leave them"):
            parse(text).on(odd, shapes)
    parse("unstructured").on(odd, shapes)
    parse("channel").on(odd, {"depthwise": shapes["depthwise"]})


def test_what_does_not_go_together():
    scores = {"a": np.ones((4, 2))}
    structure = of("2:4", ones(scores))
    with pytest.raises(UsageError, match="not by ERK"):
        prune_to(scores, ones(scores), 0.5, "erk", structure)
    with pytest.raises(UsageError, match="`min_kept` of at most 2 with `structure=2:4`.* not 3"):
        prune_fraction(scores, ones(scores), 0.5, "global", structure, 3)
    with pytest.raises(UsageError, match="at most 0.5, that of 2:4, not 0.6"):
        prune_to(scores, ones(scores), 0.6, "global", structure)
    with pytest.raises(
        UsageError, match="`min_kept` of 0 or more weights a layer, a whole number, not -1"
    ):
        prune_to(scores, ones(scores), 0.5, min_kept=-1)
    with pytest.raises(UsageError, match="at least 0.5000, .* pruned channels do not come back"):
        masks = Masks({"a": [[1, 0]] * 4})
        prune_to(scores, masks, 0.25, structure=of("channel", masks))


@pytest.mark.parametrize("text", ["1:2", "block:2x1", "block:2x1:max", "channel"])
def test_scores_that_are_no_numbers_or_all_0(text):
    scores = {"a": np.array([[np.nan, 1], [1, 1]])}
    with pytest.raises(UsageError, match="NaN came for a"):
        prune_to(scores, ones(scores), 0.5, structure=of(text, ones(scores)))
    masks = Masks({"a": [[0, 1], [1, 1]]})
    prune_to(scores, masks, 0.5, structure=of(text, masks))  # that of a pruned weight may be
    scores = {"a": np.zeros((2, 2))}
    with pytest.raises(UsageError, match="those of a are all 0"):
        prune_to(scores, ones(scores), 0.5, structure=of(text, ones(scores)))


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "block:2x2", "channel"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool])
def test_scores_of_whole_numbers_rank_as_floats_do(structure, dtype):
    scores = np.random.default_rng(0).integers(-128, 127, (8, 8)).astype(dtype)
    masks = Masks.ones({"a": (8, 8)})
    found = [
        prune_to({"a": each}, masks, 0.5, "global", of(structure, masks), min_kept=2)
        for each in (scores, scores.astype(float))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("text", [(2, 4), None, 24, ["2:4"], b"2:4", "1:99999", "block:1x100000"])
def test_what_is_no_structure_is_one_sentence(text):
    with pytest.raises(UsageError, match="^`structure` takes unstructured"):
        parse(text)


@pytest.mark.parametrize("number", [None, "1", 1.5, -1])
def test_min_kept_is_a_whole_number(number):
    with pytest.raises(UsageError, match="`min_kept` of 0 or more weights a layer, a whole number"):
        prune_to({"a": np.ones(3)}, Masks.ones({"a": (3,)}), 0.5, min_kept=number)
