"""The training of some runs, epoch by epoch."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json_lines

# What an epoch of metrics.jsonl has → what it is called, and by what it is multiplied for that.
CURVES = {
    "dev_accuracy": ("dev accuracy, %", 100),
    "accuracy": ("train accuracy, %", 100),
    "soft_activation_beta": ("β of soft activations", 1),
    "soft_activation_blend": ("blend of soft activations", 1),
    "ghost_skips_alpha": ("α of ghost skips", 1),
}


def mean_epochs(runs: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """The means of ``CURVES`` by epoch, without those that no run has; and the runs' folders that
    have no epochs to read."""
    found, missing = [], []
    for run in runs:
        try:
            epochs = read_json_lines(Path(run) / "metrics.jsonl")
        except UsageError:
            epochs = []
        found += epochs
        missing += [] if epochs else [run]
    frame = pd.DataFrame(found, columns=["epoch", *CURVES]).astype(float)
    means = frame.groupby("epoch").mean().dropna(axis="columns", how="all")
    return means * [CURVES[name][1] for name in means], missing
