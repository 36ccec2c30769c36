"""Writes exports: the artefacts, whole or not at all, each proved in a fresh process."""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import plain_path, read_json, whole_folder, write_bytes, write_json
from lottery_tf.common.log import some
from lottery_tf.common.ownership import Kind, check_ours
from lottery_tf.common.settings import nearest, one_of
from lottery_tf.exporting import proof, sizes
from lottery_tf.exporting.formats import FORMATS
from lottery_tf.exporting.saved_model import SAVED_MODEL, signature_name
from lottery_tf.exporting.settings import MAX_DIFFERENCE, CannotHold
from lottery_tf.graph.compat import ends_of, keras, keras_of, output_names
from lottery_tf.graph.layers import (
    check_finished,
    check_graph,
    check_tensorflow,
    input_names,
    with_states,
)
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import strip

REPORT = "export.json"


def _is_report(file: Path) -> bool:
    facts = read_json(file)
    told = {"max_abs_difference", "bytes", "file"}
    return bool(facts) and all(name in FORMATS and told <= facts[name].keys() for name in facts)


EXPORT = Kind(
    "an export",
    {
        REPORT: _is_report,
        **{place: ours for each in FORMATS.values() for place, ours in each.ours.items()},
    },
    marker=REPORT,
)


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    images: ArrayLike | Mapping[str, ArrayLike] | None = None,
    formats: Sequence[str] | str | None = None,
) -> dict[str, Any]:
    """Writes ``model`` as one SavedModel, the folder ``path``, or in other formats.

    ``tf.saved_model.load`` reads a SavedModel without lottery_tf, and so does the model's Keras:
    ``tf_keras.models.load_model``, or of Keras 3 ``layers.TFSMLayer(path, "serving_default")``.
    Pruned weights are exact zeros in every format.

    Args:
      model: a built Sequential or functional model of either Keras. Pruning wrappers are taken off.
      path: what does not end in .tflite, .onnx or .keras is a folder: missing, empty, or an older
        export of this kind, which is replaced. What does is one file of that format; an older one
        is replaced.
      images: the model's input, float32 [N, …] (for several inputs a dict, name → array). If
        given, a fresh process reloads what was written and runs them, a few seconds.
      formats: names in ``FORMATS``, or one. Then ``path`` is a folder with one of each and
        ``export.json``, as ``write_exports`` writes it.

    Returns:
      The facts that ``write_exports`` tells of a format, and with ``formats`` of each; without
      ``images`` those about what it computes are None.

    Raises:
      UsageError: if ``path`` holds anything else, be it a SavedModel of another program, which is
        never deleted, or the model has no graph of layers, keeps states from batch to batch, or the
        images do not fit it; and for a format that cannot hold it.
      RuntimeError: if an output of the reloaded model differs by more than 1e-5. Nothing is left
        at ``path`` then but what was there before.
    """
    if formats is not None:
        names = [formats] if isinstance(formats, str) else formats
        return write_exports(model, path, names, images=images)
    for name, each in FORMATS.items():
        if "." in each.file and Path(path).suffix == Path(each.file).suffix:
            return _write_file(model, Path(path), name, images)
    check_ours(path, SAVED_MODEL)
    _check_exportable(model, ["saved_model"])
    inputs = None if images is None else proof.named_inputs(model, images)
    with whole_folder(path, SAVED_MODEL) as folder, plain_path(folder) as place:
        return _write(model, {"saved_model": place}, inputs)[0]["saved_model"]


def _write_file(model: keras.Model, path: Path, name: str, images: Any) -> dict[str, Any]:
    """The file ``path`` of a format that is one file."""
    (is_one,) = FORMATS[name].ours.values()
    if path.exists() and not (path.is_file() and is_one(path)):
        raise UsageError(
            f"Expected a path for the file that is to be written, free or of an older {name} file; "
            f"{path} is something else: give another, or move it away."
        )
    _check_exportable(model, [name])
    inputs = None if images is None else proof.named_inputs(model, images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FORMATS[name].file
        facts, _ = _write(model, {name: file}, inputs)
        write_bytes(path, file.read_bytes())
    return {**facts[name], "file": path.name}


def write_exports(
    model: keras.Model,
    out: str | os.PathLike[str],
    formats: Sequence[str] = ("saved_model",),
    *,
    images: ArrayLike | Mapping[str, ArrayLike] | None,
    labels: ArrayLike | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    tolerance: float = MAX_DIFFERENCE,
) -> dict[str, dict[str, Any]]:
    """Writes ``model`` in several formats to the folder ``out``, with ``out/export.json``.

    One fresh process reloads all of them and runs the images.

    Args:
      model: a built Sequential or functional model of either Keras. Pruning wrappers are taken off.
      out: a folder, missing, empty, or an older export, which is replaced.
      formats: names in ``FORMATS``.
      images: the test images as the model takes them, float32 [N, …] (for several inputs a dict,
        name → array). None writes without a proof.
      labels: their classes, int [N].
      preprocessing: how images are made into the model's input, as JSON knows it; goes into
        ``export.json``.
      tolerance: the largest difference of an output that is allowed.
      source: where the model comes from, as JSON knows it; goes into ``export.json`` too.

    Returns:
      What is in ``export.json``, name of a format → its facts:
      ``max_abs_difference`` between its outputs and the model's; ``test_accuracy`` and
      ``near_ties``, how many classes are others than the model's, None without labels; ``bytes``,
      of a folder the sum over its files; ``bytes_gzip``, of a folder its tar.gz; ``file``, its name
      in ``out``; ``tolerance``, the difference that was allowed; ``max_abs_output``; ``images``,
      their number; ``inputs`` and ``outputs``, name → shape; ``parameters`` and
      ``nonzero_parameters``, of all the model's variables; ``preprocessing``; ``source``.

    Raises:
      UsageError: if ``out`` holds anything else, which is never deleted, a format is unknown, the
        model has no graph of layers or keeps states from batch to batch, or the images or labels do
        not fit it; and for a format that cannot hold the model: the others are written all the
        same, and it is named.
      RuntimeError: if an export does not compute what ``model`` computes: max |Δ| > ``tolerance``.
        Nothing is left at ``out`` then but what was there before.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(
                f"A format is one of {one_of(FORMATS)}, not '{name}'{nearest(name, FORMATS)}."
            )
    if not formats:
        raise UsageError(f"Expected at least one format of {one_of(FORMATS)}, got none.")
    check_ours(out, EXPORT)
    _check_exportable(model, formats)
    inputs = None if images is None else proof.named_inputs(model, images)
    classes = None
    if inputs is not None and labels is not None:
        classes = _classes(labels, len(next(iter(inputs.values()))))
    with whole_folder(out, EXPORT) as folder, plain_path(folder) as place:
        paths = {name: place / FORMATS[name].file for name in formats}
        facts, refused = _write(model, paths, inputs, classes, tolerance)
        for each in facts.values():
            each["preprocessing"] = dict(preprocessing or {})
            each["source"] = dict(source or {})
        write_json(folder / REPORT, facts)
    if refused:
        raise UsageError(
            f"Expected formats that can hold the model '{model.name}'; {_said(refused)}. "
            f"{one_of(facts, 'and')} {'is' if len(facts) == 1 else 'are'} in {out}."
        )
    return facts


def _said(refused: Mapping[str, CannotHold]) -> str:
    return "; ".join(f"{name} cannot: {error}" for name, error in refused.items())


def _check_exportable(model: keras.Model, formats: Sequence[str]) -> None:
    """Refuses a model that these formats cannot hold, with nothing written."""
    check_graph(model)
    if graphs := [name for name in formats if FORMATS[name].by_tensorflow]:
        others = [name for name in FORMATS if not FORMATS[name].by_tensorflow]
        check_tensorflow(
            model, f"the export as {one_of(graphs)} (write_exports has {one_of(others)} too)"
        )
    check_finished(model)
    if keeping := with_states(model):
        raise UsageError(
            f"Expected a model that computes each example by itself; {some(keeping)} of "
            f"'{model.name}' keeps its states from batch to batch (stateful=True), for which an "
            "export has no place: build it with stateful=False and set_weights."
        )


def _write(
    model: keras.Model,
    paths: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray] | None,
    labels: np.ndarray | None = None,
    tolerance: float = MAX_DIFFERENCE,
) -> tuple[dict[str, dict[str, Any]], dict[str, CannotHold]]:
    """Writes each format to its path and, given inputs, proves it.

    Returns:
      format → facts, and those formats that cannot hold the model → why.

    Raises:
      UsageError: if none can.
    """
    # Of the model as it was given, so that the taking off of wrappers is proved too.
    expected = {} if inputs is None else proof.model_outputs(model, inputs)
    plain = _plain(model)
    refused: dict[str, CannotHold] = {}
    for name, path in paths.items():
        try:
            FORMATS[name].write(plain, path)
        except CannotHold as error:
            refused[name] = error
    written = {name: path for name, path in paths.items() if name not in refused}
    reloaded = {} if inputs is None else _reloaded(written, inputs, list(expected), refused)
    paths = {name: path for name, path in paths.items() if name not in refused}
    if not paths:
        raise UsageError(
            f"Expected a format that can hold the model '{model.name}'; {_said(refused)}. Nothing "
            "was written."
        )
    proofs = dict.fromkeys(paths, proof.NONE)
    for name, got in reloaded.items():
        proofs[name] = proof.compare(name, expected, got, labels, tolerance)
    weights = plain.get_weights()
    facts = {
        name: {
            **proofs[name],
            "bytes": sizes.size(path),
            "bytes_gzip": sizes.gzip_size(path),
            "file": FORMATS[name].file,
            "inputs": _shapes(map(signature_name, input_names(plain)), plain.inputs),
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


def _classes(given: ArrayLike, count: int) -> np.ndarray:
    labels = np.asarray(given)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"Expected labels as {count} integer classes, one an image, got {labels.dtype} of "
            f"shape {labels.shape}."
        )
    return labels


def _shapes(names: Iterable[str], tensors: Sequence[Any]) -> dict[str, list[int | None]]:
    # The batch is free in an export, also where the model's input has a fixed one.
    pairs = zip(names, tensors, strict=True)
    return {name: [None, *tensor.shape[1:]] for name, tensor in pairs}
