"""docs/quantisation.md: its programs run, and what was pruned is 0 in each file."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from networks import KERASES, both_kerases, examples

import lottery_tf as lt
from lottery_tf.graph.compat import keras

pytestmark = pytest.mark.e2e  # a converter's run takes seconds

PAGE = (Path(__file__).parents[1] / "docs" / "quantisation.md").read_text()
AFTER, IN_8_BITS, ONNX = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LABELS = 3


def finished(its_keras):
    """A network pruned to 75 %, and its masks."""
    layers = its_keras.layers
    its_keras.utils.set_random_seed(0)
    model = its_keras.Sequential(
        [
            its_keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(20, activation="relu"),
            layers.Dense(LABELS),
        ]
    )
    ticket = lt.prune(model, "omp", 0.75)
    return lt.strip(ticket.build()), list(ticket.masks.values())


def data():
    return tf.data.Dataset.from_tensor_slices(examples(120, (8, 8, 2), LABELS)).batch(8)


def weights_of(content, dtype=np.int8):
    """The constants of a LiteRT file that are stored in a dtype; those in 8 bits around 0."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    for detail in interpreter.get_tensor_details():
        points = detail["quantization_parameters"]["zero_points"]
        with contextlib.suppress(ValueError):  # what is no constant
            if detail["dtype"] is dtype and not np.any(points):
                yield interpreter.get_tensor(detail["index"])


def assert_zeros_stay(tensors, masks, conv, dense, most_new=0):
    """Each pruned weight is 0, and at most so many more are.

    Args:
      tensors: stored arrays, the kernels among them.
      conv, dense: the order of a kernel's axes as it is stored.
    """
    stored = {each.shape: each for each in tensors}
    for mask in masks:
        mask = mask.transpose(conv if mask.ndim == 4 else dense)
        kernel = stored[mask.shape]
        assert not np.any(kernel[~mask])
        assert np.sum(kernel[mask] == 0) <= most_new


LITERT = {"conv": (3, 0, 1, 2), "dense": (1, 0)}


@both_kerases
def test_after_training(its_keras, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    final, masks = finished(its_keras)
    names = {"final": final, "train_ds": data()}
    exec(AFTER, names)
    assert_zeros_stay(weights_of(names["float16"], np.float16), masks, **LITERT)
    assert_zeros_stay(weights_of(names["int8"]), masks, **LITERT, most_new=12)
    x = examples(16, (8, 8, 2), LABELS)[0]
    run = tf.lite.Interpreter(model_content=names["int8"]).get_signature_runner()
    (name,) = run.get_input_details()
    (found,) = run(**{name: x[:1]}).values()
    np.testing.assert_allclose(found, final(x[:1]), atol=0.1 * float(np.abs(final(x)).max()))


def test_with_training_in_8_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    final, masks = finished(keras)
    names = {"final": final, "train_ds": data(), "tf": tf, "lt": lt}
    exec(IN_8_BITS, names)
    for made in ("pqat", "pcqat"):
        assert_zeros_stay(weights_of(names[made]), masks, **LITERT, most_new=60)


@pytest.mark.parametrize("its_keras", KERASES.values(), ids=KERASES)
def test_onnx(its_keras, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    monkeypatch.chdir(tmp_path)
    final, masks = finished(its_keras)
    exec(ONNX, {"final": final, "lt": lt})
    for file, new in (("model", 0), ("int8", 12)):
        tensors = onnx.load(f"onnx/{file}.onnx").graph.initializer
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
        assert_zeros_stay(arrays, masks, (3, 2, 0, 1), (0, 1), new)
