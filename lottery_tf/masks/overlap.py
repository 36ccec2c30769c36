"""The overlap of the masks of two tickets of one network."""

from typing import NamedTuple

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.masks.masks import Masks


class Overlap(NamedTuple):
    """The overlap of two sets of kept weights A and B; None where both are empty.

    Attributes:
      jaccard: |A ∩ B| / |A ∪ B|, in [0, 1].
      random: the same for two random masks that keep as many weights in each layer. Then |A ∩ B|
        is its expectation, the sum of |A|·|B| / n over the layers of n weights.
    """

    jaccard: float | None
    random: float | None


def overlap(one: Masks, other: Masks) -> tuple[dict[str, Overlap], Overlap]:
    """The overlap of the two masks of each name, and the overlap of all together.

    >>> one, other = Masks({"d/kernel": [[1, 1], [0, 0]]}), Masks({"d/kernel": [[1, 0], [1, 0]]})
    >>> overlap(one, other)[1]  # 1 of 3; at random 2 · 2 / 4 = 1 would be in both as well
    Overlap(jaccard=0.3333333333333333, random=0.3333333333333333)

    Raises:
      UsageError: if the masks are not of the same weights, or of other shapes.
    """
    if one.keys() != other.keys():
        raise UsageError(
            f"Expected masks of the same weights; not in both: "
            f"{some(sorted(one.keys() ^ other.keys()))}. Compare tickets of one network."
        )
    # Rows of |A|, |B|, |A ∩ B| and its expectation.
    counts = []
    for name, a in one.items():
        b = other[name]
        if a.shape != b.shape:
            raise UsageError(
                f"Expected masks of the same shape, got {a.shape} and {b.shape} for {name}: "
                "compare tickets of one network."
            )
        kept_a, kept_b, both = (int(np.count_nonzero(mask)) for mask in (a, b, a & b))
        counts.append((kept_a, kept_b, both, kept_a * kept_b / max(a.size, 1)))
    by_name = {name: _overlap(*row) for name, row in zip(one, counts, strict=True)}
    return by_name, _overlap(*map(sum, zip(*counts, strict=True))) if counts else Overlap(
        None, None
    )


def _overlap(a: int, b: int, both: int, expected: float) -> Overlap:
    if not a + b:
        return Overlap(None, None)
    return Overlap(both / (a + b - both), expected / (a + b - expected))
