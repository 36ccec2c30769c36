"""The writing of an export: each format to its place, reloaded and compared with the model."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.exporting import proof, sizes
from lottery_tf.exporting.formats import FORMATS
from lottery_tf.exporting.preprocessing import Normalisation
from lottery_tf.exporting.probabilities import expected
from lottery_tf.exporting.saved_model import signature_name
from lottery_tf.exporting.settings import MAX_DIFFERENCE, CannotHold
from lottery_tf.graph.compat import ends_of, keras, keras_of, output_names, spec_of
from lottery_tf.graph.layers import input_names
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import strip


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What goes into an export beside the model.

    Attributes:
      normalisation: what the model is to do to its input itself; None for nothing.
      probabilities: name of an output → how it becomes probabilities.
      tolerance: the largest difference of an output that is allowed.
    """

    normalisation: Normalisation | None = None
    probabilities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerance: float = MAX_DIFFERENCE


def write(
    model: keras.Model,
    paths: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray] | None,
    labels: np.ndarray | None,
    wanted: Wanted,
) -> tuple[dict[str, dict[str, Any]], dict[str, CannotHold]]:
    """Writes each format to its path and, given inputs, proves it.

    Returns:
      format → facts, and those formats that cannot hold the model → why.

    Raises:
      UsageError: if none can.
    """
    # Of the model as it was given, so that the taking off of wrappers is proved too, and so that
    # NumPy's normalisation stands against that of the layer.
    outputs: dict[str, np.ndarray] = {}
    if inputs is not None:
        normalise = wanted.normalisation or (lambda array: array)
        normalised = {name: normalise(array) for name, array in inputs.items()}
        outputs = proof.model_outputs(model, normalised)
    plain = _plain(model)
    weights = plain.get_weights()
    if wanted.normalisation is not None:
        plain = wanted.normalisation.before(plain)
    refused: dict[str, CannotHold] = {}
    for name, path in paths.items():
        told = {"probabilities": wanted.probabilities} if FORMATS[name].predicts else {}
        try:
            FORMATS[name].write(plain, path, **told)
        except CannotHold as error:
            refused[name] = error
    written = {name: path for name, path in paths.items() if name not in refused}
    reloaded = {} if inputs is None else _reloaded(written, inputs, list(outputs), refused)
    paths = {name: path for name, path in paths.items() if name not in refused}
    if not paths:
        raise UsageError(
            f"Expected a format that can hold the model '{model.name}'; {said(refused)}. Nothing "
            "was written."
        )
    proofs: dict[str, dict[str, Any]] = {name: dict(proof.NONE) for name in paths}
    for name, got in reloaded.items():
        found = proof.without_predict(got)
        proofs[name] = proof.compare(name, outputs, found, labels, wanted.tolerance)
    for name in filter(lambda name: FORMATS[name].predicts, paths):
        ways, difference = wanted.probabilities, None
        if name in reloaded:
            given = expected(ways, outputs) if ways else {}
            difference = proof.check_predict(given, reloaded[name], wanted.tolerance)
        proofs[name] |= {"probabilities": dict(ways), "predict_max_abs_difference": difference}
    taken = list(map(signature_name, input_names(plain)))
    dtypes = [spec_of(tensor).dtype.name for tensor in plain.inputs]
    facts = {
        name: {
            **proofs[name],
            "bytes": sizes.size(path),
            "bytes_gzip": sizes.gzip_size(path),
            "file": FORMATS[name].file,
            "inputs": _shapes(taken, plain.inputs),
            "input_dtypes": dict(zip(taken, dtypes, strict=True)),
            "input_ranges": {signature_name(n): _range(a) for n, a in (inputs or {}).items()},
            "outputs": _shapes(output_names(plain), plain.outputs),
            "parameters": int(sum(w.size for w in weights)),
            "nonzero_parameters": int(sum(np.count_nonzero(w) for w in weights)),
        }
        for name, path in paths.items()
    }
    return facts, refused


def _reloaded(
    paths: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    names: Sequence[str],
    refused: dict[str, CannotHold],
) -> dict[str, dict[str, np.ndarray]]:
    """Format → the outputs of its reloaded artefact; those that cannot be run go to ``refused``.

    ``names`` are those of the outputs.

    A converter may write what its own interpreter does not run. TensorFlow's format is another
    matter: there the work has failed.
    """
    if not paths:
        return {}
    try:
        outputs = proof.reloaded_outputs(list(paths.values()), inputs, names)
    except RuntimeError as error:
        if list(paths) == ["saved_model"]:
            raise
        if len(paths) > 1:
            alone = (
                _reloaded({name: path}, inputs, names, refused) for name, path in paths.items()
            )
            return {name: got for each in alone for name, got in each.items()}
        ((name, path),) = paths.items()
        path.unlink()
        first, *_, last = str(error).splitlines()
        refused[name] = CannotHold(shorten(f"{first} {last}", 400, placeholder=" …"))
        return {}
    return dict(zip(paths, outputs, strict=True))


def _plain(model: keras.Model) -> keras.Model:
    """The model without wrappers and without what ``compile`` added to it."""
    if get_masks(model):
        return strip(model)
    # The same layers: a custom loss or metric would have to be known wherever it is loaded.
    return keras_of(model).Model(*ends_of(model), name=model.name)


def _range(values: np.ndarray) -> list[float] | None:
    """The smallest and the largest of some numbers; None for texts."""
    return [float(values.min()), float(values.max())] if values.dtype.kind in "iufb" else None


def _shapes(names: Iterable[str], tensors: Sequence[Any]) -> dict[str, list[int | None]]:
    # The batch is free in an export, also where the model's input has a fixed one.
    pairs = zip(names, tensors, strict=True)
    return {name: [None, *tensor.shape[1:]] for name, tensor in pairs}


def said(refused: Mapping[str, CannotHold]) -> str:
    """Which formats cannot hold a model, and why, for a sentence."""
    return "; ".join(f"{name} cannot: {error}" for name, error in refused.items())
