"""Keras' own file, ``model.keras``, which ``load_model`` of the model's Keras reads."""

import json
import zipfile
from pathlib import Path

from lottery_tf.graph.compat import keras


def write(model: keras.Model, path: Path) -> None:
    """Writes ``model`` to the file ``path``, with its architecture and its weights."""
    model.save(path)


def is_keras_file(file: Path) -> bool:
    """Whether a file is one that Keras has written."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return "keras_version" in json.loads(archive.read("metadata.json"))
