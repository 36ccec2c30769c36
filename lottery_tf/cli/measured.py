"""What ``evaluate`` is given: whether it is a model, and which data it belongs to."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, sha256
from lottery_tf.common.log import log, some
from lottery_tf.common.settings import defaults, describe
from lottery_tf.data import Dataset, DataSettings
from lottery_tf.data.readers import options_of
from lottery_tf.exporting import REPORT
from lottery_tf.exporting.files import is_exported_file
from lottery_tf.runs.export import DATA
from lottery_tf.runs.records import RESULT, read_config
from lottery_tf.runs.settings import DATA_SUM

_ENDINGS = (".keras", ".h5", ".hdf5", ".tflite", ".onnx")
_STARTS = (b"PK\x03\x04", b"\x89HDF")  # of .keras and .h5 files with other names
_OF_DEV = ("dev_share", "dev_split", "data_seed")  # what decides the dev images


def check_is_a_model(path: Path) -> None:
    """Raises UsageError for what is no model's file or folder, with what to give instead."""
    if not path.exists():
        raise UsageError(f"Expected --model to be a model; there is no file or folder at {path}.")
    if path.is_file() and path.suffix.lower() not in _ENDINGS and not is_exported_file(path):
        with open(path, "rb") as opened:
            start = opened.read(4)
        if start not in _STARTS:
            raise UsageError(
                "Expected --model to be a SavedModel's folder, or a .keras, .h5, .tflite or .onnx "
                f"file; {path} is none of these."
            )
    if (path / REPORT).is_file():
        files = [str(facts["file"]) for facts in read_json(path / REPORT).values()]
        raise UsageError(
            f"Expected --model to be one model; {path} is an export with {some(files)}: give "
            f"--model={path / files[0]}."
        )
    if (path / "ticket.json").is_file():
        raise UsageError(
            f"Expected --model to be a trained model; {path} is a ticket: retrain it first "
            f"(lottery-tf retrain --ticket={path} --out=RUN), then give --run=RUN."
        )
    if (path / RESULT).is_file():
        raise UsageError(
            f"Expected --model to be one model; {path} is a retrain run: give --run={path}."
        )
    if (path / "config.json").is_file() and not (path / "saved_model.pb").is_file():
        check_is_retrain_run(path, read_config(path), "--model")


def check_is_retrain_run(run: str | Path, config: Mapping[str, Any], flag: str = "--run") -> None:
    """Raises UsageError for the folder of a run of find."""
    if config.get("command") == "find":
        raise UsageError(
            f"Expected {flag} to be a retrain run; {run} is a run of find: retrain one of its "
            "tickets first (lottery-tf retrain --ticket=TICKET --out=RUN), then give --run=RUN."
        )


def check_takes(shape: tuple[int | None, ...], data: Dataset, given: bool) -> None:
    """Raises UsageError unless a model takes the images of ``data``.

    Args:
      shape: of an image that the model takes, None where it is free.
      data: what it is measured on.
      given: whether the user has named the dataset.
    """
    wanted, there = shape, data.input_shape
    fits = len(wanted) == len(there) and all(
        one in (None, other) for one, other in zip(wanted, there, strict=True)
    )
    if fits:
        return
    usual, give = ("", "other data") if given else (" (the default)", "--dataset")
    raise UsageError(
        f"Expected images of the model's shape {_times(wanted)}; --dataset={data.name}{usual} has "
        f"{_times(there)}: give {give}."
    )


def _times(shape: tuple[int | None, ...]) -> str:
    return "×".join("any" if size is None else str(size) for size in shape) or "()"


def as_exported(data: Dataset, model: Path) -> Dataset:
    """The data normalised as the export says in which ``model`` lies, where it says it."""
    facts = _facts(model)
    if not facts:
        return data
    (preprocessing,) = {json.dumps(each["preprocessing"]) for each in facts.values()}
    stated = json.loads(preprocessing)
    if not {"mean", "std"} <= stated.keys():  # written by a program, in its own words or none
        return data
    mean, std = (tuple(np.atleast_1d(stated[name]).tolist()) for name in ("mean", "std"))
    return dataclasses.replace(data, mean=mean, std=std)


def say_what_is_unsure(
    model: Path, run: Mapping[str, Any], settings: DataSettings, split: str, data: Dataset
) -> None:
    """Logs how a model is fed that does not say it, and that the data are not those of its run.

    Args:
      model: its file or folder.
      run: the run's ``config.json`` where one was given, else empty.
      settings, data: what it is measured on.
      split: which of it.
    """
    if not run and not (model.parent / REPORT).is_file() and not _run_of(model):
        mean, std = (", ".join(f"{each:.4g}" for each in one) for one in (data.mean, data.std))
        log.info(
            "no export.json beside %s: images are normalised as --dataset does (mean %s, std %s); "
            "if the model normalises by itself, evaluate it in its export's folder",
            *(model, mean, std),
        )
    if told := _not_its_own(run or _run_of(model), settings, split, data):
        log.warning(
            "%s: %s. Images that it was trained on may be among those it is measured on.",
            *(model, told),
        )


def _not_its_own(
    run: Mapping[str, Any], settings: DataSettings, split: str, data: Dataset
) -> str | None:
    """How the data differ from those of the model's run; None if they do not, or it is unknown."""
    if not run:
        return None
    here, theirs = describe(settings), defaults(DataSettings) | dict(run)
    names = ["dataset", *options_of(here), *(_OF_DEV if split == "dev" else ())]
    sums = run.get(DATA_SUM), data.sha256
    if all(sums) and sums[0] == sums[1]:  # then what has been read is the same, however it was said
        names = [name for name in names if name in _OF_DEV]
    differing = [
        f"{name} is {theirs[name]} in its run and {here[name]} here"
        for name in names
        if theirs[name] != here[name]
    ]
    if differing:
        return "; ".join(differing)
    if all(sums) and sums[0] != sums[1]:
        return f"the images and labels of {data.name} are not those of its run"
    return None


def _run_of(model: Path) -> Mapping[str, Any]:
    """The data settings of the run that a model comes from; empty if nothing says them."""
    if (model.parent / "config.json").is_file():  # model/ or dense_model/ in a run's own folder
        return read_config(model.parent)
    for each in _facts(model).values():
        source = each.get("source")
        if not isinstance(source, dict):
            continue
        if isinstance(source.get(DATA), dict):
            return {**source[DATA], DATA_SUM: source.get(DATA_SUM)}
        # Exports of older releases name the run alone, which may lie elsewhere now.
        run = Path(str(source.get("run")))
        if (run / RESULT).is_file() and sha256(run / RESULT) == source.get("result_sha256"):
            return read_config(run)
    return {}


def _facts(model: Path) -> dict[str, dict[str, Any]]:
    """The export.json beside a model; empty if there is none."""
    report = model.parent / REPORT
    return read_json(report) if report.is_file() else {}
