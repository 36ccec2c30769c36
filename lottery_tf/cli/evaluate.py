"""lottery-tf evaluate: measures a finished or exported model on a dataset."""

from pathlib import Path
from typing import cast

import numpy as np

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.measured import (
    as_exported,
    check_is_a_model,
    check_is_retrain_run,
    check_takes,
    say_what_is_unsure,
)
from lottery_tf.cli.settings import EvaluateSettings
from lottery_tf.cli.terminal import at_work
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.summary import percent
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.exporting.files import (
    image_shape_of_file,
    is_exported_file,
    is_plain_saved_model,
    outputs_of_file,
)
from lottery_tf.graph.model_files import load_model
from lottery_tf.graph.settings import CodeSettings
from lottery_tf.runs.experiment import check_data
from lottery_tf.runs.folder import load_saved_model, read_config
from lottery_tf.runs.records import finished_model
from lottery_tf.training.retraining import compiled_for_evaluation
from lottery_tf.training.trainer import evaluate


def run(flags: Parsed) -> None:
    """Prints the accuracy, the loss and the sparsity."""
    settings = flags.settings(EvaluateSettings)
    with at_work(flags.settings(DeviceSettings)):
        _measure(settings, flags)


def _measure(settings: EvaluateSettings, flags: Parsed) -> None:
    found_in = read_config(settings.run) if settings.run else {}
    if settings.run:
        check_is_retrain_run(settings.run, found_in)
    # check_evaluate has seen to it that there is one of them.
    folder = finished_model(settings.run) if settings.run else Path(cast(str, settings.model))
    allow_code = flags.settings(CodeSettings).allow_code
    if settings.model is not None:
        check_is_a_model(folder)
        if is_exported_file(folder) or is_plain_saved_model(folder):
            _measure_file(folder, settings.split, flags, allow_code)
            return
    model = (load_model if folder.is_file() else load_saved_model)(folder, allow_code)
    of_data = flags.settings(DataSettings, **found_in)
    data = as_exported(load(of_data, training=False), folder)
    if settings.model is not None and len(model.inputs) == 1:
        check_takes(tuple(model.inputs[0].shape[1:]), data, "dataset" in flags.given)
    check_data(model, data, f"one in {folder}")
    _check_examples(data, settings.split)
    examples = data.batches(settings.split)
    measured = evaluate(compiled_for_evaluation(model), examples)
    weights = [variable.numpy() for variable in model.trainable_variables]
    zeros = sum(int(np.sum(weight == 0)) for weight in weights)
    say_what_is_unsure(folder, found_in, of_data, settings.split, data)
    console.print(
        f"{folder}  {data.name} {settings.split}  accuracy {percent(measured['accuracy'])}  loss "
        f"{measured['loss']:.4f}  {percent(zeros / sum(w.size for w in weights))} of all "
        "trainable parameters are 0"
    )


def _measure_file(file: Path, split: str, flags: Parsed, allow_code: bool) -> None:
    """Prints the accuracy of a file of LiteRT or ONNX, or of another program's SavedModel. Whether
    its outputs are logits, and so the loss, it does not say."""
    of_data = flags.settings(DataSettings)
    data = as_exported(load(of_data, training=False), file)
    _check_examples(data, split)
    examples = getattr(data, split)
    try:
        outputs = outputs_of_file(file, data.normalise(examples.images), allow_code)
    except UsageError:  # some files take other shapes than they say, so that this is asked now
        if shape := image_shape_of_file(file, allow_code):
            check_takes(shape, data, "dataset" in flags.given)
        raise
    if outputs.shape != (len(examples), data.num_classes):
        raise UsageError(
            f"Expected a model from images to {data.num_classes} classes, as those of {data.name}; "
            f"{file} gives {outputs.shape[1:]}: choose another, or another `dataset`."
        )
    accuracy = float(np.mean(outputs.argmax(-1) == examples.labels))
    say_what_is_unsure(file, {}, of_data, split, data)
    console.print(f"{file}  {data.name} {split}  accuracy {percent(accuracy)}")


def _check_examples(data: Dataset, split: str) -> None:
    if not len(getattr(data, split)):
        raise UsageError(f"Expected examples to measure on; the {split} split is empty.")
