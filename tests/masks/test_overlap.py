"""Overlaps of masks that a person can check."""

import numpy as np
import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.overlap import Overlap, overlap


def test_four_weights():
    """A layer in which one of three is common to both, one in which they are the same."""
    one = Masks({"a": [1, 1, 0, 0], "b": [1, 1, 1, 0]})
    other = Masks({"a": [1, 0, 1, 0], "b": [1, 1, 1, 0]})
    by_name, total = overlap(one, other)
    # At random 2 · 2 / 4 = 1 of a and 3 · 3 / 4 = 2.25 of b would be in both.
    assert by_name == {
        "a": Overlap(1 / 3, 1 / (4 - 1)),
        "b": Overlap(1.0, 2.25 / (6 - 2.25)),
    }
    assert total == Overlap(4 / 6, 3.25 / (10 - 3.25))
    assert overlap(other, one) == (by_name, total)


def test_nothing_kept():
    none, one = Masks({"a": [0, 0]}), Masks({"a": [1, 0]})
    assert overlap(none, none) == ({"a": Overlap(None, None)}, Overlap(None, None))
    assert overlap(none, one)[1] == Overlap(0.0, 0.0)
    assert overlap(Masks({}), Masks({})) == ({}, Overlap(None, None))


def test_a_layer_of_one_weight():
    """At random 1 · 1 / 1 = 1 would be in both."""
    one = Masks({"a": [1]})
    assert overlap(one, one) == ({"a": Overlap(1.0, 1.0)}, Overlap(1.0, 1.0))


def test_a_mask_with_itself():
    masks = Masks({"a": [[1, 0], [1, 1]]})
    assert overlap(masks, masks)[1].jaccard == 1


def test_random_masks_overlap_as_expected():
    random = np.random.default_rng(0)
    one, other = (Masks({"a": random.random(100_000) < share}) for share in (0.1, 0.3))
    found = overlap(one, other)[1]
    assert found.jaccard == pytest.approx(found.random, abs=0.003)
    assert found.random == pytest.approx(0.03 / (0.4 - 0.03), abs=0.003)


def test_masks_of_other_weights():
    with pytest.raises(UsageError, match="same weights; not in both: b, c. Compare tickets of one"):
        overlap(Masks({"a": [1], "b": [1]}), Masks({"a": [1], "c": [1]}))
    with pytest.raises(UsageError, match=r"same shape, got \(1,\) and \(2,\) for a: compare"):
        overlap(Masks({"a": [1]}), Masks({"a": [1, 0]}))
