"""Problems of a training: it diverges, it does not learn, or its masks have changed."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lottery_tf.common.errors import WorkFailed
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import Callback, keras
from lottery_tf.graph.layers import values
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import get_masks

# After so many epochs a training should be better than guessing.
EPOCHS_TO_LEARN = 3


class Diverged(WorkFailed):
    """A training has made weights NaN or infinite.

    Attributes:
      epoch: the epoch in which it happened, from 1 on; 0 if not known.
    """

    epoch = 0


class Guard(Callback):
    """A callback that ends a diverged training after the epoch, and warns of one that guesses.

    The weights decide. A loss that is not finite does not end the training: with a scaled loss such
    steps are skipped, and on some devices ReLU turns NaN into numbers. The warning comes once, for
    a model with a single output of two or more classes whose accuracy is measured.

    Args:
      which: the training, in messages: "of round 3".
      epochs: how many epochs of the training are done already.

    Raises:
      Diverged: if weights are NaN or infinite at the end of an epoch.
    """

    def __init__(self, which: str = "", epochs: int = 0):
        super().__init__()
        self.which, self.epochs = which, epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epochs += 1
        logs = logs or {}
        loss = f"the loss is {float(logs['loss'])} and " if "loss" in logs else ""
        try:
            weights = values(self.model).values()
            check_finite(weights, self.which, f" in epoch {self.epochs}: {loss}".rstrip())
        except Diverged as error:
            error.epoch = self.epochs
            raise
        classes = _classes(self.model)
        if self.epochs != EPOCHS_TO_LEARN or classes < 2 or "accuracy" not in logs:
            return
        if (accuracy := float(logs["accuracy"])) <= 1.1 / classes:
            log.warning(
                "%s: the training%s guesses: after %d epochs its accuracy is %.1f %%, with %d "
                "classes. Is the learning rate too high, or does no signal pass?",
                *(self.model.name, _after_space(self.which), self.epochs, 100 * accuracy, classes),
            )


def check_finite(weights: Iterable[np.ndarray], which: str, when: str = ":") -> None:
    """Raises Diverged if weights are NaN or infinite.

    Args:
      weights: the weights after training.
      which: the training, in the message: "of round 3".
      when: the text between that and "weights are NaN or infinite".
    """
    if not are_finite(weights):
        raise Diverged(
            f"The training{_after_space(which)} diverged{when} weights are NaN or infinite. A "
            "lower learning rate or a warm-up may help."
        )


def check_masks_stay(model: keras.Model, masks: Masks, which: str) -> None:
    """Raises WorkFailed if the masks of a model have changed in its training.

    Args:
      model: the wrapped model after training.
      masks: its masks from before.
      which: the training, in the message: "of round 3".
    """
    there = get_masks(model)
    if odd := [name for name, mask in masks.items() if not _same(there.get(name), mask)]:
        raise WorkFailed(
            f"Expected the masks that the training{_after_space(which)} began with; {some(odd)} "
            "has another one now: do not change masks, not in callbacks either. Files that were "
            "saved before are still there."
        )


def _same(one: np.ndarray | None, other: np.ndarray) -> bool:
    return one is not None and np.array_equal(one, other)


def are_finite(arrays: Iterable[np.ndarray]) -> bool:
    """Whether no number is NaN or infinite; texts do not count."""
    numbers = (array for array in arrays if array.dtype.kind not in "OSU")
    return all(bool(np.isfinite(array).all()) for array in numbers)


def _after_space(text: str) -> str:
    return text and f" {text}"


def _classes(model: keras.Model) -> int:
    shape = model.output_shape
    single = isinstance(shape, tuple) and len(shape) == 2
    return shape[-1] if single and isinstance(shape[-1], int) else 0
