"""TensorBoard's view of a run: scalars by step or round, and the settings as hyperparameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.ownership import Kind, check_ours, head_has, remove_ours
from lottery_tf.masks.masks import Masks

FOLDER = "tensorboard"


# TensorFlow's event files begin with their version.
BOARD = Kind("a run's events", {"events.out.tfevents.*.v2": head_has(b"brain.Event:2")})


class Board:
    """Writes a run's rows as they grow.

    Args:
      run: the run's folder.
      step: the key of the step in a row.
      anew: whether old events are removed, as an interrupted run writes all of them again.

    Raises:
      UsageError: if anything other than events would be removed.
    """

    def __init__(self, run: Path, step: str, anew: bool = True):
        if anew:
            check_ours(run / FOLDER, BOARD)
            remove_ours(run / FOLDER, BOARD)
        self._writer = tf.summary.create_file_writer(str(run / FOLDER))
        self._run, self._step, self._written = str(run.resolve()), step, 0

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Writes the numbers of rows that are new since the last call; returns their steps."""
        new = rows[self._written :]
        for row in new:
            values = {name: value for name, value in row.items() if isinstance(value, int | float)}
            self.scalars({n: v for n, v in values.items() if n != self._step}, row[self._step])
        self._written = len(rows)
        return [row[self._step] for row in new]

    def sparsity(self, masks: Masks, step: int) -> None:
        """Writes the pruned share of each weight."""
        shares = {f"sparsity/{name}": 1 - float(np.mean(mask)) for name, mask in masks.items()}
        self.scalars(shares, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers by their names."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step)
        self._writer.flush()

    def result(self, values: Mapping[str, Any], step: int) -> None:
        """Writes the measurements of the finished model."""
        names = ("sparsity", "sparsity_total", "test_accuracy", "best_dev_test_accuracy")
        self.scalars({f"result/{name}": values[name] for name in names if name in values}, step)

    def hyperparameters(self, settings: Mapping[str, Any]) -> None:
        """Writes the run's settings for the dashboard of hyperparameters.

        The run is named there by its folder."""
        from tensorboard.plugins.hparams import api

        known = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
            if value is not None
        }
        with self._writer.as_default():
            api.hparams(known, trial_id=self._run)
        self._writer.flush()
