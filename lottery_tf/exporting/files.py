"""Exported files that are no Keras models, LiteRT's and ONNX's, run as their users run them."""

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import plain_path
from lottery_tf.exporting import onnx, reload, tflite


def is_exported_file(path: Path) -> bool:
    """Whether a path is a file of LiteRT or ONNX, as ``write_exports`` writes them."""
    suffixes = (".tflite", ".onnx")
    return path.is_file() and (path.suffix in suffixes or tflite.is_flatbuffer(path))


def outputs_of_file(path: Path, images: np.ndarray) -> np.ndarray:
    """What the file computes of images, float32 [N, …], in batches: its one output [N, …].

    Raises:
      UsageError: if the file is none of these, or does not take the images.
    """
    try:
        with plain_path(path) as place:
            (name,) = _inputs(place)
            (outputs,) = reload.run(str(place), {name: images}).values()
    except Exception as error:  # of LiteRT, ONNX Runtime, or where there are several of either
        raise UsageError(
            f"Expected a LiteRT or ONNX file at {path} that takes images of shape "
            f"{images.shape[1:]} and gives one output; it does not: {_last_line(error)}"
        ) from error
    return outputs


def _inputs(path: Path) -> list[str]:
    """The names of its inputs."""
    if onnx.is_onnx(path):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [each.name for each in session.get_inputs()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is to leave TensorFlow one day.
        interpreter = tf.lite.Interpreter(str(path))
    return list(interpreter.get_signature_list()["serving_default"]["inputs"])


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
