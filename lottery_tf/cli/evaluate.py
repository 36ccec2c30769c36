"""lottery-tf evaluate: measures a finished or exported model on a dataset."""

import dataclasses
import json
from pathlib import Path
from typing import cast

import numpy as np

from lottery_tf.cli.console import console, percent
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import EvaluateSettings
from lottery_tf.cli.terminal import at_work
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.exporting import REPORT
from lottery_tf.graph.settings import CodeSettings
from lottery_tf.runs.experiment import check_data
from lottery_tf.runs.folder import load_saved_model, read_config
from lottery_tf.training.retraining import compiled_for_evaluation
from lottery_tf.training.trainer import evaluate


def run(flags: Parsed) -> None:
    """Prints the accuracy, the loss and the sparsity."""
    settings = flags.settings(EvaluateSettings)
    with at_work(flags.settings(DeviceSettings)):
        _measure(settings, flags)


def _measure(settings: EvaluateSettings, flags: Parsed) -> None:
    found_in = read_config(settings.run) if settings.run else {}
    # check_evaluate has seen to it that there is one of them.
    folder = Path(settings.run, "model") if settings.run else Path(cast(str, settings.model))
    model = load_saved_model(folder, flags.settings(CodeSettings).allow_code)
    data = as_exported(load(flags.settings(DataSettings, **found_in), training=False), folder)
    check_data(model, data, f"one in {folder}")
    examples = data.batches(settings.split)
    if not len(getattr(data, settings.split)):
        raise UsageError(f"Expected examples to measure on; the {settings.split} split is empty.")
    measured = evaluate(compiled_for_evaluation(model), examples)
    weights = [variable.numpy() for variable in model.trainable_variables]
    zeros = sum(int(np.sum(weight == 0)) for weight in weights)
    console.print(
        f"{folder}  {data.name} {settings.split}  accuracy {percent(measured['accuracy'])}  loss "
        f"{measured['loss']:.4f}  {percent(zeros / sum(w.size for w in weights))} of all "
        "trainable parameters are 0"
    )


def as_exported(data: Dataset, folder: Path) -> Dataset:
    """The data normalised as the export in ``folder`` says, where it lies in one that says it."""
    report = folder.parent / REPORT
    if not report.is_file():
        return data
    (preprocessing,) = {json.dumps(facts["preprocessing"]) for facts in read_json(report).values()}
    stated = json.loads(preprocessing)
    if not {"mean", "std"} <= stated.keys():  # written by a program, in its own words or none
        return data
    return dataclasses.replace(data, mean=tuple(stated["mean"]), std=tuple(stated["std"]))
