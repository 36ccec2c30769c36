"""scikit-learn's digits: 1,797 handwritten digits of 8×8 pixels, 0 .. 16, with no download.

The test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49.
"""

import numpy as np

from lottery_tf.data.source import Source, Split

TEST_SHARE = 0.2


def read(data_dir: str | None = None) -> Source:
    """1,438 training and 359 test images, uint8 ``[N, 8, 8, 1]``; ``data_dir`` is not used.

    The digits come without a test split, so a fifth of each class is drawn as one. The draw has a
    seed of its own, so that it is the same for every ``data_seed``.
    """
    from sklearn.datasets import load_digits  # takes a second, so other datasets do without

    raw = load_digits()
    digits = Split(raw.images.astype(np.uint8)[..., None], raw.target.astype(np.int32))
    rng = np.random.default_rng(0)
    held_out = np.zeros(len(digits), bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(digits.labels == label))
        held_out[members[: round(TEST_SHARE * len(members))]] = True
    return Source(
        train=digits.take(np.flatnonzero(~held_out)),
        test=digits.take(np.flatnonzero(held_out)),
        num_classes=10,
        names=[str(digit) for digit in range(10)],
    )
