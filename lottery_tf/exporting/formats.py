"""The table of formats that a finished model can be exported to."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lottery_tf.common.ownership import Recognise
from lottery_tf.exporting import keras_file, onnx, saved_model, tflite


class Format(NamedTuple):
    """One format.

    Attributes:
      file: name of the file or folder in an export's folder.
      write: ``write(model, path)`` writes the plain, uncompiled ``model`` to ``path``,
        which is missing or an empty folder.
      ours: the places of the files that this makes, below the export's folder → whether a file
        there is one of them.
      by_tensorflow: whether it holds TensorFlow's graph, which a model has to compute by.
      predicts: whether it has a signature for probabilities: then ``write`` takes
        ``probabilities`` too.
    """

    file: str
    write: Callable[..., None]
    ours: Mapping[str, Recognise]
    by_tensorflow: bool = True
    predicts: bool = False


FORMATS: dict[str, Format] = {
    "saved_model": Format(
        "saved_model",
        saved_model.write,
        saved_model.SAVED_MODEL.below("saved_model"),
        predicts=True,
    ),
    # LiteRT's kernels add in another order than TensorFlow's and fold BatchNorm into the kernels.
    # That comes to at most 1e-6 of the largest output: 6e-5 where logits reach 106.
    "tflite": Format("model.tflite", tflite.write, {"model.tflite": tflite.is_flatbuffer}),
    "onnx": Format("model.onnx", onnx.write, {"model.onnx": onnx.is_onnx}),
    "keras": Format(
        "model.keras", keras_file.write, {"model.keras": keras_file.is_keras_file}, False
    ),
}
