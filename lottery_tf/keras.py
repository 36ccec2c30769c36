"""The one door to Keras.

tensorflow-model-optimization 0.8 wraps layers of Keras 2 (``tf_keras``) only, so all of
lottery_tf takes ``keras`` from here.
"""

import os
from pathlib import Path

import tf_keras as keras

from lottery_tf.errors import UsageError

__all__ = ["existing_model", "keras", "load_model"]


def existing_model(path: str | os.PathLike, what: str = "a model") -> Path:
    """``path``; a UsageError if there is neither a file nor a SavedModel's folder."""
    path = Path(path)
    if path.is_file() or (path / "saved_model.pb").is_file():
        return path
    raise UsageError(
        f"Expected {what}: a SavedModel (a folder with saved_model.pb), a .keras or an .h5 file; "
        f"there is none at {path}."
    )


def load_model(path: str | os.PathLike) -> keras.Model:
    """The model that Keras has written to ``path``, not compiled; a UsageError if it has none."""
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the damaged place leads to
        raise UsageError(f"Expected a model in {path} that Keras loads; {error}") from error
    if not isinstance(model, keras.Model):
        raise UsageError(f"Expected a model that Keras has written in {path}; it is another kind.")
    return model
