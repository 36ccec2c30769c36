"""Reading the records that a run has written into its folder. Needs no TensorFlow."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import SUMS, check_part, read_json
from lottery_tf.data.settings import data_as_in_older_release
from lottery_tf.runs import Row

RESULT = "result.json"
_NUMBERS = (
    *("sparsity", "sparsity_total", "nonzero_parameters", "epochs", "seed", "seconds"),
    *("train_accuracy", "train_loss", "dev_accuracy", "dev_loss", "test_accuracy", "test_loss"),
    *("best_dev_accuracy", "best_dev_test_accuracy"),
)


def read_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
      UsageError: if it is not a run's folder, or if its ``config.json`` is damaged.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise UsageError(f"Expected a run's folder (with config.json) at {run}; there is none.")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("tweaks", {}), dict):
        raise UsageError(f"Expected a run's settings in {path}; it holds something else.")
    if not all(isinstance(each, dict) for each in config.get("tweaks", {}).values()):
        raise UsageError(f"Expected the parameters of each tweak in {path}; it holds others.")
    return data_as_in_older_release(config)


def read_result(run: str | os.PathLike[str], needed: Collection[str] = ()) -> Row:
    """The content of a run's ``result.json``, without its sums.

    Raises:
      UsageError: if it is damaged, was changed since it was written, is not a result, or lacks a
        name in ``needed``.
    """
    path = Path(run) / RESULT
    result = read_json(path)
    if not isinstance(result, dict):
        raise UsageError(f"Expected a run's result in {path}; it holds something else.")
    # A loss that is not finite is null.
    odd = [name for name in needed if result.get(name) is None]
    odd += [name for name in _NUMBERS if not _is_number(result.get(name))]
    odd += [] if isinstance(result.get("recipe", ""), str) else ["recipe"]
    if odd:
        raise UsageError(
            f"Expected a run's result in {path}; its {odd[0]} is "
            f"{str(result.get(odd[0]))[:40]!r}: it is damaged, copy it again."
        )
    return {name: value for name, value in result.items() if name != SUMS}


def check_result_part(run: str | os.PathLike[str], name: str) -> Path:
    """The path of a finished run's file or folder that has a sum in ``result.json``.

    Raises:
      UsageError: if it was changed since the run has written it.
    """
    record, part = read_json(Path(run) / RESULT), Path(run) / name
    check_part(record if isinstance(record, dict) else {}, part)
    return part


def finished_model(run: str | os.PathLike[str]) -> Path:
    """The folder of a finished run's model; UsageError if it was changed since."""
    model = Path(run) / "model"
    if (Path(run) / RESULT).is_file():
        check_result_part(run, model.name)
    return model


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
