"""The one door to Keras.

tensorflow-model-optimization 0.8 wraps layers of Keras 2 (``tf_keras``) only, so all of
lottery_tf takes ``keras`` from here.
"""

import os

import tf_keras as keras

from lottery_tf.errors import UsageError

__all__ = ["keras", "load_model"]


def load_model(path: str | os.PathLike) -> keras.Model:
    """The model that Keras has written to ``path``, not compiled; a UsageError if it has none."""
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the damaged place leads to
        raise UsageError(f"Expected a model in {path} that Keras loads; {error}") from error
    if not isinstance(model, keras.Model):
        raise UsageError(f"Expected a model that Keras has written in {path}; it is another kind.")
    return model
