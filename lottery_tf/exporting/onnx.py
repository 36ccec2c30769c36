"""ONNX: one file, which ONNX Runtime and many other programs read.

tf2onnx converts what the SavedModel computes, of either Keras, with the same names of inputs and
outputs.
Keras 3's own ``model.export(format="onnx")`` asks tf2onnx too, and loses the names of the outputs.
"""

from pathlib import Path

from lottery_tf.common.errors import UsageError
from lottery_tf.common.stderr import quiet
from lottery_tf.exporting.saved_model import serving
from lottery_tf.exporting.settings import CannotHold
from lottery_tf.graph.compat import keras


def write(model: keras.Model, path: Path) -> None:
    """Writes ``model`` to the file ``path``; weights are stored dense, zeros too.

    Its inputs and outputs are those of the SavedModel's ``serving_default``, with a free batch.

    Raises:
      UsageError: if the extra [onnx] is not installed.
      CannotHold: if the model has an operation that ONNX lacks.
    """
    try:
        import onnxruntime  # which the proof needs too
        import tf2onnx
    except ImportError as error:
        raise UsageError(
            f"Expected {error.name} for the format onnx: install lottery_tf with its extra [onnx]."
        ) from None
    _, serve, specs = serving(model)
    try:
        with quiet():
            made, _ = tf2onnx.convert.from_function(serve, input_signature=specs)
            content = made.SerializeToString()
            # tf2onnx leaves operations in that it does not know.
            onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the converter stumbles over
        reason = " ".join(str(error).split())[:300]
        raise CannotHold(f"ONNX's converter says: {reason}") from error
    path.write_bytes(content)


def is_onnx(file: Path) -> bool:
    """Whether a file is tf2onnx's: its version of the format, then who has made it."""
    with open(file, "rb") as opened:
        start = opened.read(11)
    return start[:1] == b"\x08" and start[2:] == b"\x12\x07tf2onnx"
