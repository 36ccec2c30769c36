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
from lottery_tf.common.log import some
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.exporting import REPORT
from lottery_tf.exporting.files import is_exported_file, is_plain_saved_model, outputs_of_file
from lottery_tf.graph.model_files import load_model
from lottery_tf.graph.settings import CodeSettings
from lottery_tf.runs.experiment import check_data
from lottery_tf.runs.folder import load_saved_model, read_config
from lottery_tf.runs.records import RESULT, finished_model
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
    folder = finished_model(settings.run) if settings.run else Path(cast(str, settings.model))
    allow_code = flags.settings(CodeSettings).allow_code
    if settings.model is not None:
        _check_is_a_model(folder)
        if is_exported_file(folder) or is_plain_saved_model(folder):
            data = load(flags.settings(DataSettings), training=False)
            _measure_file(folder, settings.split, data, allow_code)
            return
    model = (load_model if folder.is_file() else load_saved_model)(folder, allow_code)
    data = as_exported(load(flags.settings(DataSettings, **found_in), training=False), folder)
    check_data(model, data, f"one in {folder}")
    _check_examples(data, settings.split)
    examples = data.batches(settings.split)
    measured = evaluate(compiled_for_evaluation(model), examples)
    weights = [variable.numpy() for variable in model.trainable_variables]
    zeros = sum(int(np.sum(weight == 0)) for weight in weights)
    console.print(
        f"{folder}  {data.name} {settings.split}  accuracy {percent(measured['accuracy'])}  loss "
        f"{measured['loss']:.4f}  {percent(zeros / sum(w.size for w in weights))} of all "
        "trainable parameters are 0"
    )


def _check_is_a_model(path: Path) -> None:
    """Raises UsageError for the folder of a run or of an export, with what to give instead."""
    if (path / REPORT).is_file():
        files = [str(facts["file"]) for facts in read_json(path / REPORT).values()]
        raise UsageError(
            f"Expected --model to be one model; {path} is an export with {some(files)}: give "
            f"--model={path / files[0]}."
        )
    if (path / RESULT).is_file():
        raise UsageError(
            f"Expected --model to be one model; {path} is a retrain run: give --run={path}."
        )


def _measure_file(file: Path, split: str, data: Dataset, allow_code: bool) -> None:
    """Prints the accuracy of a file of LiteRT or ONNX, or of another program's SavedModel. Whether
    its outputs are logits, and so the loss, it does not say."""
    data = as_exported(data, file)
    _check_examples(data, split)
    examples = getattr(data, split)
    outputs = outputs_of_file(file, data.normalise(examples.images), allow_code)
    if outputs.shape != (len(examples), data.num_classes):
        raise UsageError(
            f"Expected a model from images to {data.num_classes} classes, as those of {data.name}; "
            f"{file} gives {outputs.shape[1:]}: choose another, or another `dataset`."
        )
    accuracy = float(np.mean(outputs.argmax(-1) == examples.labels))
    console.print(f"{file}  {data.name} {split}  accuracy {percent(accuracy)}")


def _check_examples(data: Dataset, split: str) -> None:
    if not len(getattr(data, split)):
        raise UsageError(f"Expected examples to measure on; the {split} split is empty.")


def as_exported(data: Dataset, folder: Path) -> Dataset:
    """The data normalised as the export in ``folder`` says, where it lies in one that says it."""
    report = folder.parent / REPORT
    if not report.is_file():
        return data
    (preprocessing,) = {json.dumps(facts["preprocessing"]) for facts in read_json(report).values()}
    stated = json.loads(preprocessing)
    if not {"mean", "std"} <= stated.keys():  # written by a program, in its own words or none
        return data
    mean, std = (tuple(np.atleast_1d(stated[name]).tolist()) for name in ("mean", "std"))
    return dataclasses.replace(data, mean=mean, std=std)
