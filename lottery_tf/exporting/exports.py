"""Writes exports: the artefacts, whole or not at all, each proved in a fresh process."""

import difflib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import (
    plain_path,
    read_json,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)
from lottery_tf.common.log import some
from lottery_tf.common.ownership import Kind, check_ours
from lottery_tf.common.settings import nearest, one_of
from lottery_tf.exporting import card, proof
from lottery_tf.exporting.formats import FORMATS
from lottery_tf.exporting.preprocessing import Normalisation, warn_of_images
from lottery_tf.exporting.probabilities import probabilities_of
from lottery_tf.exporting.saved_model import SAVED_MODEL
from lottery_tf.exporting.settings import MAX_DIFFERENCE
from lottery_tf.exporting.writing import Wanted, said, write
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.layers import (
    check_finished,
    check_graph,
    check_tensorflow,
    with_states,
)

REPORT = "export.json"


def _is_report(file: Path) -> bool:
    facts = read_json(file)
    told = {"max_abs_difference", "bytes", "file"}
    return bool(facts) and all(name in FORMATS and told <= facts[name].keys() for name in facts)


EXPORT = Kind(
    "an export",
    {
        REPORT: _is_report,
        card.NAME: card.is_card,
        **{place: ours for each in FORMATS.values() for place, ours in each.ours.items()},
    },
    marker=REPORT,
)


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    images: ArrayLike | Mapping[str, ArrayLike] | None = None,
    formats: Sequence[str] | str | None = None,
    *,
    labels: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    with_preprocessing: bool = False,
    probabilities: str | None = "auto",
    about: Mapping[str, str] | None = None,
    tolerance: float = MAX_DIFFERENCE,
) -> dict[str, Any]:
    """Writes ``model`` as a SavedModel, as one file, or as a folder with several formats.

    ``tf.saved_model.load`` reads a SavedModel without lottery_tf. So does the model's Keras:
    ``tf_keras.models.load_model``, or of Keras 3 ``layers.TFSMLayer(path, "serving_default")``.
    Pruned weights are exact zeros in every format. LiteRT may store the kept ones alone, which its
    ``get_tensor`` shows as a shorter array without zeros.

    One file, and a folder for colleagues, whose model takes raw pixels::

        lt.export(final, "digits.tflite")
        lt.export(
            final, "digits/", x_test, ("saved_model", "tflite"), labels=y_test,
            class_names="0123456789", preprocessing={"mean": 0, "std": 16}, with_preprocessing=True,
        )

    Args:
      model: a built Sequential or functional model of either Keras. Pruning wrappers are taken off.
      path: one file where it ends in .tflite, .onnx or .keras; else the folder of a SavedModel. It
        has to be free, or an older export of this kind, which is replaced.
      images: the input of the exported model, float32 [N, …] (for several inputs a dict, name →
        array): raw pixels with ``with_preprocessing``, else normalised. If given, a fresh process
        reloads what was written and runs them, a few seconds. Default: no such proof.
      formats: "saved_model", "tflite", "onnx" or "keras", or a sequence of these. Then ``path`` is
        a folder with one of each, ``export.json`` (the facts) and ``README.md`` (a model card).
        Default: the path says it, and neither of these two is written.
      labels: the classes of ``images``, int [N], for ``test_accuracy``. Default: not measured.
      class_names: the names of the classes, in the order of the model's first output, one each.
        They go into ``export.json`` and the card, so with ``formats`` only; no model file has them.
      preprocessing: how images are made into the model's input, as JSON knows it. With ``mean`` and
        ``std``, (x − mean) / std: one number each, or one for each channel. Default: not said.
      with_preprocessing: put that normalisation into the exported model as a layer: it takes raw
        pixels then, float32. Default: the user of the model normalises.
      probabilities: what the SavedModel's signature ``predict`` gives beside the outputs:
        "softmax" or "sigmoid" of logits, or "none" for outputs that are probabilities already.
        "auto" reads from the last layers what the outputs are, and takes the softmax of logits.
        Where that is not known, and with None, there is no such signature.
      about: what the card says besides, a line each: what → text, such as ``{"Data": "digits"}``.
        With ``formats`` only. Default: nothing.
      tolerance: the largest difference of an output that is allowed. Default: 1e-5.

    Returns:
      The facts below of the format; with ``formats`` name of a format → its facts. Without
      ``images`` those about what it computes are None.

      - ``max_abs_difference`` between its outputs and the model's; ``tolerance``, the difference
        that was allowed; ``max_abs_output``; ``images``, their number.
      - ``test_accuracy`` and ``near_ties``, how many classes are others than the model's. None
        without labels.
      - ``file``, its name in the folder; ``bytes``, of a folder the sum over its files;
        ``bytes_gzip``, of a folder its tar.gz.
      - ``inputs`` and ``outputs``, name → shape; ``input_dtypes`` and ``input_ranges``, the
        smallest and largest of the images.
      - ``parameters`` and ``nonzero_parameters``, of all the model's variables.
      - ``probabilities``, name of an output → how ``predict`` makes them;
        ``predict_max_abs_difference`` of what that gives.
      - ``preprocessing``; with ``formats`` also ``class_names`` and ``source``.

    Raises:
      UsageError: if ``path`` holds anything else, such as a SavedModel of another program, or an
        export whose ``README.md`` was edited; it is never deleted. If the model has no graph of
        layers or keeps states from batch to batch. If images, labels, class names, probabilities or
        the preprocessing do not fit it. And for a format that cannot hold the model: of several the
        others are written all the same, and it is named.
      RuntimeError: if an output of the reloaded model differs by more than the tolerance. Nothing
        is left at ``path`` then but what was there before.
    """
    if formats is not None:
        return write_exports(
            model,
            path,
            [formats] if isinstance(formats, str) else formats,
            images=images,
            labels=labels,
            class_names=class_names,
            preprocessing=preprocessing,
            with_preprocessing=with_preprocessing,
            probabilities=probabilities,
            about=about,
            tolerance=tolerance,
        )
    chosen = _format_of(Path(path))
    for name, value in (("class_names", class_names), ("about", about)):
        if value is not None:
            raise UsageError(
                f"Expected formats=… with {name}, such as formats='{chosen}' and a folder as path: "
                f"its {REPORT} and {card.NAME} say them. Without formats only the model is written."
            )
    _check_exportable(model, [chosen])
    inputs, classes = _examples(model, images, labels)
    wanted = _wanted(model, preprocessing, with_preprocessing, probabilities, tolerance)
    warn_of_images(model, preprocessing, with_preprocessing, inputs)
    if chosen != "saved_model":
        facts = _write_file(model, Path(path), chosen, inputs, classes, wanted)
    else:
        check_ours(path, SAVED_MODEL)
        with whole_folder(path, SAVED_MODEL) as folder, plain_path(folder) as place:
            facts = write(model, {chosen: place}, inputs, classes, wanted)[0][chosen]
        facts["file"] = Path(path).name
    return {**facts, "preprocessing": _preprocessing_facts(preprocessing, wanted)}


def _write_file(
    model: keras.Model,
    path: Path,
    name: str,
    inputs: Mapping[str, np.ndarray] | None,
    classes: np.ndarray | None,
    wanted: Wanted,
) -> dict[str, Any]:
    """The file ``path`` of a format that is one file."""
    (is_one,) = FORMATS[name].ours.values()
    if path.exists() and not (path.is_file() and is_one(path)):
        raise UsageError(
            f"Expected a path for the file that is to be written, free or of an older {name} file; "
            f"{path} is something else: give another, or move it away."
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FORMATS[name].file
        facts, _ = write(model, {name: file}, inputs, classes, wanted)
        write_bytes(path, file.read_bytes())
    return {**facts[name], "file": path.name}


def write_exports(
    model: keras.Model,
    out: str | os.PathLike[str],
    formats: Sequence[str] = ("saved_model",),
    *,
    images: ArrayLike | Mapping[str, ArrayLike] | None,
    labels: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    with_preprocessing: bool = False,
    probabilities: str | None = "auto",
    source: Mapping[str, Any] | None = None,
    about: Mapping[str, str] | None = None,
    tolerance: float = MAX_DIFFERENCE,
) -> dict[str, dict[str, Any]]:
    """Writes ``model`` in several formats to the folder ``out``, as ``export`` with ``formats``.

    ``out/export.json`` has the facts, ``out/README.md`` is a model card for whoever gets the
    folder. One fresh process reloads all formats and runs the images.

    Args:
      model: a built Sequential or functional model of either Keras. Pruning wrappers are taken off.
      out: a folder, missing, empty, or an older export, which is replaced. If its ``README.md`` was
        edited, the export is refused, and the folder stays as it is.
      formats: names in ``FORMATS``.
      images: as in ``export``. None writes without a proof.
      source: where the model comes from, as JSON knows it; goes into ``export.json``.
      labels, class_names, preprocessing, with_preprocessing, probabilities, about, tolerance: as in
        ``export``.

    Returns:
      What is in ``export.json``: name of a format → the facts that ``export`` lists.

    Raises:
      UsageError: if ``out`` holds anything else, which is never deleted, or a format is unknown. If
        the model has no graph of layers or keeps states from batch to batch. If images, labels,
        class names or the preprocessing do not fit it, or its outputs are not finite. And for a
        format that cannot hold the model: the others are written all the same, and it is named.
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
    inputs, classes = _examples(model, images, labels)
    names = _class_names(model, class_names)
    wanted = _wanted(model, preprocessing, with_preprocessing, probabilities, tolerance)
    warn_of_images(model, preprocessing, with_preprocessing, inputs)
    with whole_folder(out, EXPORT) as folder, plain_path(folder) as place:
        paths = {name: place / FORMATS[name].file for name in formats}
        facts, refused = write(model, paths, inputs, classes, wanted)
        for each in facts.values():
            each["class_names"] = names
            each["preprocessing"] = _preprocessing_facts(preprocessing, wanted)
            each["source"] = dict(source or {})
        write_json(folder / REPORT, facts)
        its_keras = keras_of(model).__name__
        write_text(folder / card.NAME, card.card(model.name, its_keras, facts, about or {}))
    if refused:
        raise UsageError(
            f"Expected formats that can hold the model '{model.name}'; {said(refused)}. "
            f"{one_of(facts, 'and')} {'is' if len(facts) == 1 else 'are'} in {out}."
        )
    return facts


def _wanted(
    model: keras.Model,
    preprocessing: Mapping[str, Any] | None,
    with_preprocessing: bool,
    probabilities: str | None,
    tolerance: float,
) -> Wanted:
    normalisation = Normalisation.of(model, preprocessing) if with_preprocessing else None
    return Wanted(normalisation, probabilities_of(model, probabilities), tolerance)


def _preprocessing_facts(preprocessing: Mapping[str, Any] | None, wanted: Wanted) -> dict[str, Any]:
    """What ``export.json`` says of the preprocessing, NumPy's numbers as JSON has them."""
    numbers = np.ndarray | np.generic | list | tuple
    given = {
        name: np.asarray(value).tolist() if isinstance(value, numbers) else value
        for name, value in (preprocessing or {}).items()
    }
    return given if wanted.normalisation is None else wanted.normalisation.told(given)


# Endings of files with models or arrays that no format here writes.
_OTHERS = (
    *(".h5", ".hdf5", ".pb", ".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".npy", ".pkl"),
    *(".json", ".zip", ".tar", ".gz"),
)


def _format_of(path: Path) -> str:
    """The format that a path means by its ending; a SavedModel by none of them.

    Raises:
      UsageError: for an ending that is nearly that of a file.
    """
    by_ending = {Path(each.file).suffix: n for n, each in FORMATS.items() if "." in each.file}
    if path.suffix in by_ending:
        return by_ending[path.suffix]
    if path.suffix.lower() in _OTHERS:
        raise UsageError(
            f"Expected a path that ends in {one_of(by_ending)} for a file, or without an ending "
            f"for the folder of a SavedModel; '{path.suffix}' is that of another kind of file."
        )
    if near := difflib.get_close_matches(path.suffix.lower(), by_ending, n=1, cutoff=0.75):
        raise UsageError(
            f"Expected a path that ends in {one_of(by_ending)} for a file, or in something else "
            f"for the folder of a SavedModel; '{path.suffix}' is nearly {near[0]}: mend it."
        )
    return "saved_model"


def _check_exportable(model: keras.Model, formats: Sequence[str]) -> None:
    """Refuses a model that these formats cannot hold, with nothing written."""
    check_graph(model)
    if graphs := [name for name in formats if FORMATS[name].by_tensorflow]:
        others = [name for name in FORMATS if not FORMATS[name].by_tensorflow]
        check_tensorflow(
            model, f"the export as {one_of(graphs)} (lt.export has {one_of(others)} too)"
        )
    check_finished(model)
    if keeping := with_states(model):
        raise UsageError(
            f"Expected a model that computes each example by itself; {some(keeping)} of "
            f"'{model.name}' keeps its states from batch to batch (stateful=True), which no export "
            "can: build it with stateful=False and set_weights."
        )


def _examples(
    model: keras.Model,
    images: ArrayLike | Mapping[str, ArrayLike] | None,
    labels: ArrayLike | None,
) -> tuple[dict[str, np.ndarray] | None, np.ndarray | None]:
    """Images by the name of the input, and their classes."""
    if images is None:
        if labels is not None:
            raise UsageError("Expected images with labels, whose classes they are; got none.")
        return None, None
    inputs = proof.named_inputs(model, images)
    if labels is None:
        return inputs, None
    return inputs, _classes(labels, len(next(iter(inputs.values()))))


def _classes(given: ArrayLike, count: int) -> np.ndarray:
    labels = np.asarray(given)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"Expected labels as {count} integer classes, one an image, got {labels.dtype} of "
            f"shape {labels.shape}."
        )
    return labels


def _class_names(model: keras.Model, given: Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    names, classes = [str(each) for each in given], model.outputs[0].shape[-1]
    classes = 2 if classes == 1 else classes  # one unit tells two classes apart
    if classes is not None and len(names) != classes:
        raise UsageError(
            f"Expected {classes} class_names, one for each class of the model '{model.name}'; got "
            f"{len(names)}."
        )
    return names
