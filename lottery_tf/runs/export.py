"""Exporting the finished model of a retrain run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, sha256
from lottery_tf.common.ownership import Kind, check_ours
from lottery_tf.common.settings import describe
from lottery_tf.common.summary import percent
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.data.readers import options_of
from lottery_tf.exporting import EXPORT, MAX_DIFFERENCE, REPORT, sizes, write_exports
from lottery_tf.graph.compat import keras
from lottery_tf.runs import Row
from lottery_tf.runs.experiment import check_data
from lottery_tf.runs.folder import load_saved_model, read_config
from lottery_tf.runs.records import finished_model, read_result
from lottery_tf.runs.settings import DATA_SUM, Experiment
from lottery_tf.training.retraining import compiled_for_evaluation, measured
from lottery_tf.tweaks.settings import as_read

DATA = "data"  # key in ``source`` of the settings that decide the images and their splits
# The largest difference to the run's test accuracy, which another device may have measured.
_ROUNDED = 0.005


def export_run(
    run: Path,
    out: Path,
    formats: Sequence[str] = ("saved_model",),
    tolerance: float = MAX_DIFFERENCE,
    data_dir: str | None = None,
    allow_code: bool = False,
    with_preprocessing: bool = False,
) -> Row:
    """Exports the finished model of a retrain run, and checks it on the run's test images.

    Args:
      run: the folder of a finished retrain run.
      out: the folder to write to.
      formats: names in ``lottery_tf.exporting.FORMATS``.
      tolerance: the largest allowed difference to the model's outputs.
      data_dir: the present folder of the run's dataset; default: the folder noted in the run.
      allow_code: whether code in the model may run.
      with_preprocessing: put the normalisation into the exported model, which then takes raw
        pixels.

    Returns:
      The content of ``export.json``.

    Raises:
      UsageError: if ``run`` is not a finished retrain run, if the test images are not its own, or
        if ``out`` holds anything other than an export.
      RuntimeError: if an export does not compute what the model computes. Then nothing is left.
    """
    settings = read_config(run)
    if not (run / "result.json").is_file():
        cure = "there is no result: run `lottery-tf retrain` to its end first"
        if (run / "tickets").is_dir():
            cure = (
                "it is a find run: retrain one of its tickets (`lottery-tf retrain "
                f"--ticket={run}/tickets/round_NN`), and export that run"
            )
        raise UsageError(f"Expected a finished retrain run (with result.json) at {run}; {cure}.")
    source: Row = {"run": str(run), "result_sha256": sha256(run / "result.json")}
    if (out / REPORT).is_file():
        check_ours(out / REPORT, Kind("an export's", {".": EXPORT.files[REPORT]}))
        facts = read_json(out / REPORT)
        theirs = {each.get("source", {}).get("result_sha256") for each in facts.values()}
        if facts.keys() != set(formats) or theirs != {source["result_sha256"]}:
            raise UsageError(
                f"Expected `out` to be new or this export's; {out} holds another run's, or other "
                f"formats ({', '.join(facts)}): choose another `out`."
            )
        inside = [bool(each["preprocessing"].get("in_model")) for each in facts.values()]
        if any(each is not with_preprocessing for each in inside):
            raise UsageError(
                f"Expected `out` to be new or this export's; the one in {out} was made with "
                f"`with_preprocessing={inside[0]}`: give that again, or choose another `out`."
            )
        if all(_is_whole(out / each["file"], each, tolerance) for each in facts.values()):
            return facts
    check_ours(out, EXPORT)
    model = load_saved_model(finished_model(run), allow_code)
    of_run = Experiment.restore(settings).data
    if data_dir:
        of_run = dataclasses.replace(of_run, data_dir=data_dir)
    data = load(of_run, training=False)
    check_data(model, data, f"one of {run}")
    result = read_result(run)
    _check_same(data, model, result)
    source |= {DATA: _which_images(of_run), DATA_SUM: data.sha256}
    preprocessing = {
        "dataset": data.name,
        "input": "(pixels - mean) / std, pixels as the dataset has them, float32",
        "mean": list(data.mean),
        "std": list(data.std),
    }
    return write_exports(
        model,
        out,
        formats,
        images=data.test.images if with_preprocessing else data.normalise(data.test.images),
        labels=data.test.labels,
        class_names=data.class_names or None,
        preprocessing=preprocessing,
        with_preprocessing=with_preprocessing,
        source=source,
        about=_about(settings, result, data),
        tolerance=tolerance,
    )


def _which_images(settings: DataSettings) -> dict[str, Any]:
    """The settings that decide which images there are in which split, but for their folder."""
    said = describe(settings)
    splits = ("dataset", "dev_share", "dev_split", "data_seed", "train_examples")
    return {name: said[name] for name in splits} | options_of(said)


def _about(settings: Mapping[str, Any], result: Row, data: Dataset) -> dict[str, str]:
    """What the model card says of the run."""
    pixels = data.test.images
    told = {
        "Data": f"{data.name}, {len(data.test):,} test images",
        "Pixels": f"whole numbers from {pixels.min()} to {pixels.max()} in the test images",
        "Model": str(settings.get("model") or "of the ticket"),
    }
    how = [as_read(str(result["recipe"]))] if result.get("recipe") else []
    how += [f"{result['epochs']} epochs"] if result.get("epochs") is not None else []
    how += [f"seed {result['seed']}"] if result.get("seed") is not None else []
    told |= {"Retrained by": ", ".join(how)} if how else {}
    if result.get("sparsity") is not None and result.get("sparsity_total") is not None:
        told["Sparsity"] = (
            f"{percent(result['sparsity'])} of the prunable weights, "
            f"{percent(result['sparsity_total'])} of all trainable parameters"
        )
    return told


def _is_whole(artefact: Path, facts: Row, tolerance: float) -> bool:
    """Whether an export's file is there and unchanged, and its difference within the tolerance."""
    near = facts["max_abs_difference"] <= tolerance
    return near and artefact.exists() and sizes.size(artefact) == facts["bytes"]


def _check_same(data: Dataset, model: keras.Model, result: Row) -> None:
    """Raises UsageError if the test images are not those of the run's own measurement."""
    stated = result.get("test_accuracy")
    if stated is None:
        return
    accuracy = measured(compiled_for_evaluation(model), data, "test")["test_accuracy"]
    if abs(accuracy - stated) > max(_ROUNDED, 2 / len(data.test)):
        raise UsageError(
            f"Expected the run's own test images, with an accuracy of {100 * stated:.2f} %; on the "
            f"present ones of `dataset={data.name}` it is {100 * accuracy:.2f} %: give the folder "
            "of the run's own with `data_dir`."
        )
