"""LiteRT (TensorFlow Lite): one file, sparse weights stored sparse.

The converter stores a weight tensor sparse where more than about a third of it is zero; dense ones
stay as they are. Measured on one 3×3 convolution of 64 to 64 channels, the file is 0.83, 0.64,
0.27, 0.14 and 0.08 times the dense one at 35, 50, 80, 90 and 95 % zeros. Convolutions, depthwise
and transposed ones and Dense layers compute the same with sparse weights as with dense ones.

On a PC that makes it smaller, not faster: XNNPACK computes with dense weights where there is AVX.
"""

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from lottery_tf.common.stderr import quiet
from lottery_tf.exporting import saved_model
from lottery_tf.exporting.settings import CannotHold
from lottery_tf.graph.compat import keras
from lottery_tf.masks.wrapper import with_configs


def write(model: keras.Model, path: Path) -> None:
    """Writes ``model`` to the file ``path``, weights sparse if that makes it smaller.

    The signature ``serving_default`` is that of the SavedModel; the batch can be resized. What
    computes in 16 bits does so in its variables' precision here: LiteRT has no convolution in
    float16.

    Raises:
      CannotHold: if the model has an operation that LiteRT lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(with_configs(model, _in_precision_of_variables), Path(folder))
        try:
            dense, sparse = _convert(folder), _convert(folder, sparse=True)
        except Exception as error:  # The converter's own class, or whatever it stumbles over.
            raise CannotHold(f"LiteRT says: {_first_lines(error)}") from error
    path.write_bytes(min(dense, sparse, key=len))


def _in_precision_of_variables(layer: keras.layers.Layer) -> dict[str, Any]:
    """What changes in the config of a layer of mixed precision."""
    mixed = layer.compute_dtype != layer.variable_dtype and "dtype" in layer.get_config()
    return {"dtype": layer.variable_dtype} if mixed else {}


def is_flatbuffer(file: Path) -> bool:
    """Whether a file is LiteRT's."""
    with open(file, "rb") as opened:
        return opened.read(8)[4:] == b"TFL3"


def _convert(folder: str, sparse: bool = False) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if sparse:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    with quiet():
        return converter.convert()


def _first_lines(error: Exception, most: int = 300) -> str:
    """The beginning of a message; the converter's go on with the whole graph."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]} …"
