"""What a reader returns: images in memory, with their labels."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 ``[N, H, W, C]`` and their labels int32 ``[N]``."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Split":
        """The examples at ``index``, in its order."""
        return Split(self.images[index], self.labels[index])


class Source(NamedTuple):
    """What a reader returns.

    Attributes:
      train: all training examples.
      test: the test examples.
      num_classes: labels are 0 .. num_classes - 1.
      order: the indices of the training examples in the order in which they were published. None
        if ``train`` has that order, or if it is not known.
      groups: int ``[N]``: training examples with the same number belong together, and all of them
        are in the dev split or none. None if there are no groups.
      names: of the classes; None where they have none.
      test_is_drawn: whether the test examples were drawn here, from images that may also be used
        for training.
    """

    train: Split
    test: Split
    num_classes: int
    order: np.ndarray | None = None
    groups: np.ndarray | None = None
    names: Sequence[str] | None = None
    test_is_drawn: bool = False

    def published_order(self) -> np.ndarray:
        """``order``, or 0 .. N - 1."""
        return np.arange(len(self.train)) if self.order is None else self.order

    @property
    def sha256(self) -> str:
        """The sum of all that decides the splits and the batches, wherever it lies."""
        digest = hashlib.sha256(str(self.num_classes).encode())
        both = (self.train, self.test)
        arrays = [array for split in both for array in (split.images, split.labels)]
        for array in (*arrays, self.order, self.groups):
            if array is None:
                digest.update(b"none")
                continue
            # Of an order or of groups the numbers count, not this machine's integer type.
            array = array if array.dtype == np.uint8 else array.astype("<i8")
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def channel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 ``[N, H, W, C]``, from exact sums.

    A channel that never changes has standard deviation 1, so that it normalises to 0.
    """
    channels = images.shape[-1]
    count = images.size // channels
    sums = np.zeros((2, math.prod(images.shape[1:])), np.int64)  # of each place, squares beside
    for first in range(0, len(images), 1000):  # the squares of all at once would take gigabytes
        rows = images[first : first + 1000].reshape(-1, sums.shape[1])
        sums += rows.sum(0, np.uint32), np.square(rows, dtype=np.uint16).sum(0, np.uint32)
    means, stds = [], []
    for total, squares in sums.reshape(2, -1, channels).sum(1).T.tolist():
        mean = total / count
        means.append(mean)
        stds.append(float(np.sqrt(max(squares / count - mean**2, 0))) or 1.0)
    return tuple(means), tuple(stds)
