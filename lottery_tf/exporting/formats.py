"""The table of formats that a finished model can be exported to."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lottery_tf.exporting import saved_model, tflite
from lottery_tf.keras import keras


class Format(NamedTuple):
    """One format.

    Attributes:
      file: name of the file or folder in an export's folder.
      write: ``write(model, path)`` writes the plain, uncompiled tf_keras ``model`` to ``path``,
        which is missing or an empty folder.
      rounding: the runtime's float32 rounding, relative to the largest output. What it computes
        may differ by that much where it is more than ``proof.MAX_DIFFERENCE``.
    """

    file: str
    write: Callable[[keras.Model, Path], None]
    rounding: float = 0.0


FORMATS: dict[str, Format] = {
    "saved_model": Format("saved_model", saved_model.write),
    # LiteRT's kernels add in another order than TensorFlow's and fold BatchNorm into the kernels.
    # On Fashion-MNIST that came to at most 0.6e-6 of the largest logit (LeNet-300-100: 6.1e-5 at
    # logits of 106, where float32 itself steps by 0.8e-5 and TensorFlow is 3e-5 from the truth).
    "tflite": Format("model.tflite", tflite.write, rounding=1e-6),
}
