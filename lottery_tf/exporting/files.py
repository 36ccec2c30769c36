"""Exported models that are no Keras models, run as their users run them: files of LiteRT and ONNX,
and SavedModels of any program that has a signature ``serving_default``.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import plain_path
from lottery_tf.exporting import onnx, reload, tflite
from lottery_tf.graph.model_files import check_code, is_keras_model


def is_exported_file(path: Path) -> bool:
    """Whether a path is a file of LiteRT or ONNX, as ``write_exports`` writes them."""
    suffixes = (".tflite", ".onnx")
    return path.is_file() and (path.suffix in suffixes or tflite.is_flatbuffer(path))


def is_plain_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel's folder that another program than Keras has written."""
    return (path / "saved_model.pb").is_file() and not is_keras_model(path)


def outputs_of_file(path: Path, images: np.ndarray, allow_code: bool = False) -> np.ndarray:
    """What the file computes of images, float32 [N, …], in batches: its one output [N, …].

    Args:
      path: what ``is_exported_file`` or ``is_plain_saved_model`` knows.
      images: float32 [N, …].
      allow_code: whether operations of a SavedModel that do more than compute may run.

    Raises:
      UsageError: if the file is none of these, holds code that is not allowed, or does not take
        the images; for an ONNX file where ONNX Runtime is not installed.
    """
    _check_can_run(path, allow_code)
    try:
        with plain_path(path) as place:
            (name,) = _inputs(place)
            (outputs,) = reload.run(str(place), {name: images}).values()
    except Exception as error:  # of LiteRT, ONNX Runtime, or where there are several of either
        raise UsageError(
            f"Expected a LiteRT or ONNX file or a SavedModel at {path} that takes images of shape "
            f"{images.shape[1:]} and gives one output; it does not: {_last_line(error)}"
        ) from error
    return outputs


def image_shape_of_file(path: Path, allow_code: bool = False) -> tuple[int | None, ...] | None:
    """The shape of one of the images that a file takes, None where it is free.

    None if it does not say one, or cannot be read: ``outputs_of_file`` says why.

    Args:
      path, allow_code: as in ``outputs_of_file``.

    Raises:
      UsageError: if the file holds code that is not allowed; for an ONNX file where ONNX Runtime is
        not installed.
    """
    _check_can_run(path, allow_code)
    try:
        with plain_path(path) as place:
            (shape,) = _inputs(place).values()
    except Exception:  # of LiteRT or ONNX Runtime, or where there are several inputs
        return None
    return shape


def _check_can_run(path: Path, allow_code: bool) -> None:
    if path.is_dir() and not allow_code:
        check_code(path)
    if path.is_file() and _is_onnx(path) and find_spec("onnxruntime") is None:
        raise UsageError(
            f"Expected ONNX Runtime for the ONNX file {path}; it is not installed: install "
            "lottery_tf with its extra [onnx]."
        )


def _inputs(path: Path) -> dict[str, tuple[int | None, ...] | None]:
    """Name of an input → the shape of an example of it; None where it is not said."""
    if path.is_dir():
        specs = tf.saved_model.load(path).signatures["serving_default"].structured_input_signature
        shapes = {name: spec.shape for name, spec in specs[1].items()}
        return {n: None if s.rank is None else tuple(s[1:]) for n, s in shapes.items()}
    if _is_onnx(path):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        # A free size has a name there, or none.
        return {
            each.name: tuple(size if isinstance(size, int) else None for size in each.shape[1:])
            for each in session.get_inputs()
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is to leave TensorFlow one day.
        interpreter = tf.lite.Interpreter(str(path))
    details = interpreter.get_signature_runner("serving_default").get_input_details()
    return {
        name: tuple(None if size < 0 else int(size) for size in each["shape_signature"][1:])
        for name, each in details.items()
    }


def _is_onnx(path: Path) -> bool:
    """Also of another program, by its name."""
    return path.suffix == ".onnx" or onnx.is_onnx(path)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
