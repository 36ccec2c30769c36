"""Runs exported models as a stranger would: with TensorFlow, ONNX Runtime or Keras only.

A script, started by ``proof.py`` in a process of its own:

    python reload.py inputs.npz ARTEFACT OUTPUTS.npz [ARTEFACT OUTPUTS.npz …]

``inputs.npz`` holds an array ``in:NAME`` for each input of the signature ``serving_default``, N
examples each, and the names of the outputs, ``outputs``. ``OUTPUTS.npz`` gets an array ``out:NAME``
for each of them, and ``out:predict:NAME`` for those of the signature ``predict`` of a SavedModel.
"""

import importlib
import json
import os
import sys
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

# A script's folder is on the path, where its neighbours would stand in for modules of the same
# name. (python -I would leave out PYTHONPATH too, by which some clusters provide TensorFlow.)
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != _HERE]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

BATCH = 256
PREDICT = "predict:"  # before the names of what the signature of that name gives


def main(inputs_file: str, *files: str) -> None:
    with np.load(inputs_file) as arrays:
        given = [name for name in arrays.files if name.startswith("in:")]
        inputs = {name.removeprefix("in:"): arrays[name] for name in given}
        names = arrays["outputs"].tolist()
    for artefact, outputs_file in zip(files[::2], files[1::2], strict=True):
        outputs = run_all(artefact, inputs, names)
        # Of Any, or mypy takes one for allow_pickle.
        named: dict[str, Any] = {f"out:{name}": value for name, value in outputs.items()}
        np.savez(outputs_file, **named)
    strangers = {"lottery_tf", "tensorflow_model_optimization"} & sys.modules.keys()
    if strangers:
        sys.exit(f"not a fresh process: {', '.join(sorted(strangers))} was imported")


def run(
    artefact: str, inputs: dict[str, np.ndarray], outputs: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The artefact's outputs by name for all N examples, computed batch by batch.

    Their names are ``outputs`` where it does not tell them, as a Keras file.
    """
    if os.path.isdir(artefact):
        loaded = tf.saved_model.load(artefact)
        return batched(loaded.signatures["serving_default"], tf.constant, inputs)
    if artefact.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        as_input = np.asarray

        def call(**batch: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(names, session.run(names, batch), strict=True))
    elif artefact.endswith(".keras"):
        model = load_keras(artefact)
        as_input = np.asarray

        def call(**batch: np.ndarray) -> dict[str, np.ndarray]:
            found = model.predict_on_batch(list(batch.values()))
            return dict(zip(outputs, flat(found), strict=True))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It is to leave TensorFlow one day.
            interpreter = tf.lite.Interpreter(artefact)
        # The runner resizes the interpreter's inputs to the batch that it is given.
        call = interpreter.get_signature_runner("serving_default")
        as_input = np.asarray
    return batched(call, as_input, inputs)


def run_all(
    artefact: str, inputs: dict[str, np.ndarray], outputs: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """``run``, and what a SavedModel's signature ``predict`` gives, by ``predict:NAME``."""
    if not os.path.isdir(artefact):
        return run(artefact, inputs, outputs)
    loaded = tf.saved_model.load(artefact)  # whose variables go with it
    found = batched(loaded.signatures["serving_default"], tf.constant, inputs)
    if "predict" in loaded.signatures:
        given = batched(loaded.signatures["predict"], tf.constant, inputs)
        found.update({f"{PREDICT}{name}": array for name, array in given.items()})
    return found


def batched(call: Any, as_input: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ``call`` gives for all examples, by name."""
    count = len(next(iter(inputs.values())))
    batches = []
    for start in range(0, count, BATCH):
        batch = {k: as_input(v[start : start + BATCH]) for k, v in inputs.items()}
        batches.append({k: np.array(v) for k, v in call(**batch).items()})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def load_keras(file: str) -> Any:
    """The model of a Keras file, by the Keras that has written it."""
    with zipfile.ZipFile(file) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    keras = importlib.import_module("tf_keras" if version.startswith("2.") else "keras")
    return keras.models.load_model(file, compile=False)


def flat(outputs: Any) -> list[Any]:
    """Outputs, nested as a model has them, in their order."""
    if isinstance(outputs, dict):
        outputs = [outputs[name] for name in sorted(outputs)]
    elif not isinstance(outputs, (list, tuple)):
        return [outputs]
    return [each for part in outputs for each in flat(part)]


if __name__ == "__main__":
    main(*sys.argv[1:])
