"""The training of some runs, epoch by epoch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json_lines
from lottery_tf.runs.records import check_result_part

# A value in metrics.jsonl → its name in a figure, and the factor for its unit there.
CURVES = {
    "dev_accuracy": ("dev accuracy, %", 100),
    "accuracy": ("train accuracy, %", 100),
    "soft_activation_beta": ("β of soft activations", 1),
    "soft_activation_blend": ("blend of soft activations", 1),
    "ghost_skips_alpha": ("α of ghost skips", 1),
}


def mean_epochs(runs: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """The means of ``CURVES`` by epoch, and the folders of the runs whose epochs cannot be read.

    Curves that no run has are left out.
    """
    found, missing = [], []
    for run in runs:
        try:
            epochs = _epochs(Path(run))
        except UsageError:
            epochs = []
        found += epochs
        missing += [] if epochs else [run]
    frame = pd.DataFrame(found, columns=["epoch", *CURVES]).astype(float)
    means = frame.groupby("epoch").mean().dropna(axis="columns", how="all")
    return means * [CURVES[name][1] for name in means], missing


def _epochs(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; raises UsageError if the file has been changed."""
    epochs = read_json_lines(check_result_part(run, "metrics.jsonl"))
    for name in ("epoch", *CURVES):
        if not all(isinstance(epoch.get(name), int | float | None) for epoch in epochs):
            raise UsageError(f"Expected {name} in {run}/metrics.jsonl to be a number.")
    return epochs
