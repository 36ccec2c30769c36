"""The proof that an export computes what the model in memory computes.

A fresh process that never saw the model reloads the artefacts and runs the same images. Both sides
compute on the CPU: a GPU's TensorFloat-32 alone would move logits by 1e-3, and the memory of the
GPU is taken by this process.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.exporting.reload import PREDICT
from lottery_tf.exporting.saved_model import signature_name
from lottery_tf.exporting.settings import MAX_DIFFERENCE
from lottery_tf.graph.compat import (
    flattened,
    keras,
    on_tensorflow,
    output_names,
    packed,
    spec_of,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import input_names
from lottery_tf.graph.ops import as_tensors

# What ``compare`` returns where nothing was compared.
NONE = dict.fromkeys(
    (
        *("max_abs_difference", "test_accuracy", "near_ties"),
        *("tolerance", "max_abs_output", "images"),
    )
)

BATCH = 256
_SCRIPT = Path(__file__).with_name("reload.py")


def named_inputs(
    model: keras.Model, images: ArrayLike | Mapping[str, ArrayLike]
) -> dict[str, np.ndarray]:
    """``images`` by the name of the model's input, in the input's dtype.

    Args:
      model: a built Sequential or functional model.
      images: an array [N, …], N ≥ 1; for a model of several inputs a dict, name → array.

    Raises:
      UsageError: if names or shapes are not those of the model's inputs.
    """
    expected = dict(zip(input_names(model), map(spec_of, model.inputs), strict=True))
    given = images if isinstance(images, Mapping) else {next(iter(expected)): images}
    if given.keys() != expected.keys():
        raise UsageError(
            f"Expected images for the model's inputs {', '.join(expected)}, got them for "
            f"{', '.join(given)}: give a dict, name of an input → array."
        )
    inputs = {
        name: np.asarray(given[name], dtype=spec.dtype.as_numpy_dtype)
        for name, spec in expected.items()
    }
    for name, array in inputs.items():
        shape = expected[name].shape[1:]
        if not array.ndim or not len(array) or not shape.is_compatible_with(array.shape[1:]):
            raise UsageError(
                f"Expected images of shape (N, {', '.join(map(str, shape))}) for the input "
                f"'{name}', N ≥ 1, got {array.shape}."
            )
    if len({len(array) for array in inputs.values()}) > 1:
        raise UsageError(
            "Expected as many examples for each input, got "
            f"{', '.join(f'{len(array)} for {name}' for name, array in inputs.items())}."
        )
    return inputs


def model_outputs(model: keras.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's outputs by name in inference, as ``predict`` computes them without XLA.

    Raises:
      UsageError: if one is NaN or infinite: then nothing can be compared with it.
    """
    arrays = [inputs[name] for name in input_names(model)]
    infer = _inference(model) if on_tensorflow(model) else _inference_elsewhere(model)
    batches = []
    for start in range(0, len(arrays[0]), BATCH):
        batches.append(infer([array[start : start + BATCH] for array in arrays]))
    columns = (np.concatenate(column) for column in zip(*batches, strict=True))
    outputs = dict(zip(output_names(model), columns, strict=True))
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.all(finite := np.isfinite(array)):
            odd = len(array) - finite.reshape(len(array), -1).all(axis=1).sum()
            raise UsageError(
                f"Expected finite outputs of the model '{model.name}' to export; '{name}' is NaN "
                f"or infinite for {odd:,} of {len(array):,} images. Has its training diverged? "
                "Nothing was written."
            )
    return outputs


def _inference(model: keras.Model) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """A batch of each input → of each output, by TensorFlow on the CPU."""
    specs = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]

    @tf.function
    def infer(flat: list[tf.Tensor]) -> list[tf.Tensor]:
        return flattened(model, model(packed(model, flat), training=False))

    # Called as it is, ``infer`` would warn of retracing after a few exports.
    infer = infer.get_concrete_function(specs)

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        with tf.device("/CPU:0"):
            return [output.numpy() for output in infer([tf.constant(each) for each in batch])]

    return run


def _inference_elsewhere(model: keras.Model) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """The like by another backend, on the CPU."""

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        with keras3.device("cpu:0"):
            outputs = model(packed(model, as_tensors(batch)), training=False)
            return [keras3.ops.convert_to_numpy(each) for each in flattened(model, outputs)]

    return run


def reloaded_outputs(
    artefacts: Sequence[Path], inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """The outputs by name of each artefact, computed in one fresh process.

    Args:
      outputs: their names in the model's order, which a Keras file need not tell.

    Raises:
      RuntimeError: if an artefact cannot be loaded or run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "inputs.npz")
        # Of Any, or mypy takes one for allow_pickle.
        named: dict[str, Any] = {
            f"in:{signature_name(name)}": _as_bytes(array) if array.dtype == object else array
            for name, array in inputs.items()
        }
        np.savez(given, outputs=np.array(outputs), **named)
        made = [Path(folder, f"outputs_{i}.npz") for i in range(len(artefacts))]
        pairs = [str(file) for pair in zip(artefacts, made, strict=True) for file in pair]
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_PLATFORMS": "cpu",
            "KERAS_BACKEND": keras3.backend.backend(),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        # With it TensorFlow would import tf_keras.
        environment.pop("TF_USE_LEGACY_KERAS", None)
        done = subprocess.run(
            [sys.executable, str(_SCRIPT), str(given), *pairs],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if done.returncode:
            words = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise RuntimeError(
                f"A fresh process could not run {' and '.join(p.name for p in artefacts)} "
                f"(exit code {done.returncode}):\n{words}"
            )
        found = []
        for file in made:
            with np.load(file) as arrays:
                found.append({n.removeprefix("out:"): arrays[n] for n in arrays.files})
    return found


def _as_bytes(texts: np.ndarray) -> np.ndarray:
    """Texts, or bytes, as an array that NumPy saves without pickling."""
    flat = [each if isinstance(each, bytes) else str(each).encode() for each in texts.ravel()]
    return np.array(flat).reshape(texts.shape)


def compare(
    what: str,
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    tolerance: float = MAX_DIFFERENCE,
) -> dict[str, Any]:
    """Raises unless ``got`` is ``expected``: max |Δ| ≤ ``tolerance``.

    Then the class of an image is another one only where the model's own two largest outputs are
    within 2·max |Δ| of each other. That is as true to the model as the tolerance says, and is
    counted.

    Args:
      what: the format's name, for messages.
      expected: output name → array [N, …] of the model.
      got: the same of the artefact.
      labels: int [N], the classes; the accuracy is that of the first output's argmax.
      tolerance: the largest |Δ| that is allowed.

    Returns:
      ``max_abs_difference``, ``tolerance``, ``max_abs_output``, and ``images`` (N).
      ``test_accuracy`` of the artefact, and ``near_ties``, how many of the images have another
      class than the model gives them; both are None without labels.

    Raises:
      RuntimeError: if they differ.
    """
    if {n: a.shape for n, a in expected.items()} != {n: a.shape for n, a in got.items()}:
        raise RuntimeError(
            f"{what} has other outputs than the model: {_shapes(got)} instead of "
            f"{_shapes(expected)}."
        )
    count = len(next(iter(expected.values())))
    wide = {name: array.astype(np.float64) for name, array in expected.items()}
    largest = float(max(np.abs(array).max() for array in wide.values()))
    difference = float(np.max([np.abs(wide[name] - got[name]).max() for name in wide]))
    # Written so that NaN is refused too.
    if not difference <= tolerance:
        raise RuntimeError(
            f"{what} does not compute what the model computes: max |Δ| is {difference:.3g} over "
            f"{count} images, at most {tolerance:.3g} is allowed. The largest |output| is "
            f"{largest:.3g}, where float32 itself steps by {np.spacing(np.float32(largest)):.1g}: "
            "if that is the reason, allow more with `tolerance`. Nothing was written."
        )
    accuracy = near_ties = None
    if labels is not None:
        first = next(iter(wide))
        classes, before = (outputs[first].argmax(-1) for outputs in (got, expected))
        accuracy, near_ties = float(np.mean(classes == labels)), int(np.sum(classes != before))
        if near_ties:
            log.info(
                "%s: %d of %d images have another class than the model gives them; its two largest "
                "outputs are there within %.1g of each other.",
                *(what, near_ties, count, 2 * difference),
            )
    return {
        "max_abs_difference": difference,
        "test_accuracy": accuracy,
        "near_ties": near_ties,
        "tolerance": tolerance,
        "max_abs_output": largest,
        "images": count,
    }


def check_predict(
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    tolerance: float = MAX_DIFFERENCE,
) -> float | None:
    """The largest |Δ| of what the signature ``predict`` gives; None where there is none.

    Args:
      expected: what it has to give, by ``probabilities.expected``; empty for no signature.
      got: what a reloaded SavedModel gives, that of the signature by ``predict:NAME``.
      tolerance: the largest |Δ| that is allowed.

    Raises:
      RuntimeError: if they differ, or one of the two is missing.
    """
    found = {n.removeprefix(PREDICT): array for n, array in got.items() if n.startswith(PREDICT)}
    if not (expected or found):
        return None
    compared = compare("The signature predict", expected, found, tolerance=tolerance)
    return compared["max_abs_difference"]


def without_predict(got: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the other signature gives, ``serving_default``."""
    return {name: array for name, array in got.items() if not name.startswith(PREDICT)}


def _shapes(outputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
