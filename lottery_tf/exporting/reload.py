"""Runs exported models as a stranger would: with numpy and TensorFlow, or ONNX Runtime, only.

A script, started by ``proof.py`` in a process of its own:

    python reload.py inputs.npz ARTEFACT OUTPUTS.npz [ARTEFACT OUTPUTS.npz …]

``inputs.npz`` holds an array ``in:NAME`` for each input of the signature ``serving_default``, N
examples each; ``OUTPUTS.npz`` gets an array ``out:NAME`` for each of its outputs.
"""

import os
import sys
import warnings
from typing import Any

# A script's folder is on the path, where its neighbours would stand in for modules of the same
# name. (python -I would leave out PYTHONPATH too, by which some clusters provide TensorFlow.)
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != _HERE]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

BATCH = 256


def main(inputs_file: str, *files: str) -> None:
    with np.load(inputs_file) as arrays:
        inputs = {name.removeprefix("in:"): arrays[name] for name in arrays.files}
    for artefact, outputs_file in zip(files[::2], files[1::2], strict=True):
        outputs = run(artefact, inputs)
        # Of Any, or mypy takes one for allow_pickle.
        named: dict[str, Any] = {f"out:{name}": value for name, value in outputs.items()}
        np.savez(outputs_file, **named)
    strangers = {"lottery_tf", "tensorflow_model_optimization"} & sys.modules.keys()
    if strangers:
        sys.exit(f"not a fresh process: {', '.join(sorted(strangers))} was imported")


def run(artefact: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The artefact's outputs by name for all N examples, computed batch by batch."""
    if os.path.isdir(artefact):
        loaded = tf.saved_model.load(artefact)
        call = loaded.signatures["serving_default"]
        as_input = tf.constant
    elif artefact.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        as_input = np.asarray

        def call(**batch: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(names, session.run(names, batch), strict=True))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It is to leave TensorFlow one day.
            interpreter = tf.lite.Interpreter(artefact)
        # The runner resizes the interpreter's inputs to the batch that it is given.
        call = interpreter.get_signature_runner("serving_default")
        as_input = np.asarray
    count = len(next(iter(inputs.values())))
    batches = []
    for start in range(0, count, BATCH):
        batch = {k: as_input(v[start : start + BATCH]) for k, v in inputs.items()}
        batches.append({k: np.array(v) for k, v in call(**batch).items()})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
