"""Run folders: what a command writes, and whose it is."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lottery_tf.errors import UsageError
from lottery_tf.files import write_json
from lottery_tf.keras import keras

_PACKAGES = ("lottery_tf", "tensorflow", "tf_keras", "tensorflow_model_optimization", "numpy")


def claim(out: str | os.PathLike, command: str, settings: Mapping[str, Any]) -> Path:
    """Makes ``out`` the folder of this run and writes ``config.json``, or checks that it is.

    Args:
      out: the run's folder; it is made if it is missing.
      command: the command whose run it is.
      settings: every setting that decides the result, as JSON knows them.

    Raises:
      UsageError: if the folder holds anything else than this run; nothing is changed then.
    """
    out = Path(out)
    if (out / "config.json").is_file():
        theirs = read_config(out)
        mine = json.loads(json.dumps({"command": command, **settings}))
        differing = [
            f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
            for key in sorted(theirs.keys() | mine.keys() - {"versions"})
            if key != "versions" and theirs.get(key) != mine.get(key)
        ]
        if differing:
            raise UsageError(
                f"Expected --out to be new or this run's; {out} belongs to another: "
                f"{'; '.join(differing[:4])}{' …' if differing[4:] else ''}. Choose another --out."
            )
        return out
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(
            f"Expected --out to be new, empty or this run's folder; {out} holds other files. "
            "Choose another --out."
        )
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    write_json(out / "config.json", {"command": command, **settings, "versions": versions})
    return out


def read_config(run: str | os.PathLike) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
      UsageError: if it is no run's folder, or its ``config.json`` is damaged.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise UsageError(f"Expected a run's folder (with config.json) at {run}; there is none.")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UsageError(f"Expected JSON in {path}; it is damaged ({error}).") from None


def load_saved_model(folder: str | os.PathLike) -> keras.Model:
    """The Keras model of a SavedModel's folder, not compiled.

    Raises:
      UsageError: if there is none, or it was not written by Keras.
    """
    if not Path(folder, "saved_model.pb").is_file():
        raise UsageError(
            f"Expected a SavedModel (a folder with saved_model.pb) at {folder}; there is none."
        )
    try:
        model = keras.models.load_model(folder, compile=False)
    except Exception as error:  # Keras raises whatever the damaged place leads to
        raise UsageError(f"Expected a SavedModel in {folder} that loads; {error}") from error
    if not isinstance(model, keras.Model):
        raise UsageError(f"Expected a SavedModel written by Keras in {folder}; it is another kind.")
    return model
