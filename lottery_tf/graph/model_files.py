"""The one door to model files: their content is checked before Keras or TensorFlow loads it.

A model file can run its author's code: the bytecode of a Lambda layer, or a function of a module
that the file names. Operations in a SavedModel's graph can write files or call Python. Unless the
caller allows that, a file may describe only what ``architecture`` accepts in a ticket, and a graph
may only compute with tensors.
"""

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import plain_path
from lottery_tf.common.log import log
from lottery_tf.graph.architecture import HoldsCode, check_object, from_json, objects
from lottery_tf.graph.compat import (
    is_found_by_name,
    is_metric,
    keras,
    keras3,
    read_saved_model,
    saved_metadata_pb2,
    symbol,
)

_KERAS_METADATA = "keras_metadata.pb"
# The architecture in a SavedModel of a Keras 3 model, in a folder that TensorFlow ignores.
DESCRIBED = "assets.extra/model.json"
_METRIC = "_tf_keras_metric"

# TensorFlow's modules of operations that only compute with tensors and variables, or call functions
# of the same graph. Not among them: files, datasets, Python, summaries, logs, debugging, XLA's
# custom calls, and other devices and processes.
_COMPUTES = re.compile(
    r"tensorflow\.python\.ops\.gen_("
    r"array|bitwise|candidate_sampling|control_flow|count|ctc|cudnn_rnn|data_flow|functional|image|"
    r"linalg|list|lookup|manip|map|math|nn|optional|parsing|ragged_(array|conversion|math)|random|"
    r"resource_variable|rnn|set|sparse|special_math|spectral|state|stateful_random|"
    r"stateless_random|string|uniform_quant)_ops(_v2)?"
)
# Exceptions in these modules: they read files, call another device or end the process.
_DOES_MORE = {
    *("ImmutableConst", "RecordInput", "InitializeTableFromTextFile"),
    *("InitializeTableFromTextFileV2", "RemoteCall", "Abort"),
}
# Harmless ones of other modules. Keras' adapted layers have them, without a dataset to read.
_HARMLESS = {"Assert", "IteratorGetNext"}
# Operations of a SavedModel's saver, in functions that nothing else calls, nor does loading.
_SAVES = {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"}


def existing_model(path: str | os.PathLike, what: str = "a model") -> Path:
    """``path``; UsageError if there is neither a file nor a SavedModel's folder."""
    path = Path(path)
    if path.is_file() or (path / "saved_model.pb").is_file():
        return path
    raise UsageError(
        f"Expected {what}: a SavedModel (a folder with saved_model.pb), a .keras or an .h5 file; "
        f"there is none at {path}."
    )


def load_model(
    path: str | os.PathLike,
    allow_code: bool = False,
    custom_objects: Mapping[str, type] | None = None,
    compiled: bool = False,
) -> keras.Model:
    """The model that tf_keras or Keras 3 has written to ``path``, not compiled.

    Args:
      path: the folder of a SavedModel by tf_keras or by us, or a .keras or .h5 file of either
        Keras.
      allow_code: whether code in it may run.
      custom_objects: class name → class, for classes that are not registered.
      compiled: compile it as it was, with what its optimizer remembers, where the file says how.

    Raises:
      UsageError: if there is no model, or it holds code that is not allowed.
    """
    with plain_path(path) as place:
        try:
            return _load_model(place, allow_code, custom_objects, compiled)
        except UsageError as error:
            if place == Path(path):
                raise
            raise UsageError(str(error).replace(str(place), str(path))) from error


def _load_model(
    path: Path, allow_code: bool, custom_objects: Mapping[str, type] | None, compiled: bool
) -> keras.Model:
    if not allow_code:
        check_code(path, custom_objects, compiled)
    if (path / DESCRIBED).is_file():
        return _load_described(path, allow_code, custom_objects)
    its_keras = _keras_of(path)
    try:
        compiled = compiled and _says_how_to_compile(path)
        if compiled and path.is_dir():
            log.warning(
                "%s: a SavedModel keeps nothing of what the optimizer remembers, which begins "
                "anew; a .keras file keeps it.",
                path,
            )
        model = its_keras.models.load_model(
            path, custom_objects=custom_objects, compile=compiled, safe_mode=not allow_code
        )
    except Exception as error:  # Keras raises whatever the damaged place leads to
        raise UsageError(f"Expected a model in {path} that Keras loads; {error}") from error
    if not isinstance(model, its_keras.Model):
        raise UsageError(f"Expected a model that Keras has written in {path}; it is another kind.")
    return model


def is_keras_model(path: Path) -> bool:
    """Whether a model file, or a SavedModel's folder, can be loaded as a Keras model."""
    return path.is_file() or any((path / each).is_file() for each in (_KERAS_METADATA, DESCRIBED))


def _load_described(
    folder: Path, allow_code: bool, custom_objects: Mapping[str, type] | None = None
) -> keras.Model:
    """The Keras 3 model of a SavedModel of ours, by the file of its architecture inside."""
    try:
        model = from_json((folder / DESCRIBED).read_text(), custom_objects, allow_code)
        saved = tf.train.load_checkpoint(folder / "variables" / "variables")
        names = [f"variables/{n}/.ATTRIBUTES/VARIABLE_VALUE" for n in range(len(model.variables))]
        kept = {name for name in saved.get_variable_to_shape_map() if name.startswith("variables/")}
        if kept != set(names):
            raise UsageError(
                f"Expected the {len(names)} variables of {DESCRIBED} in {folder}; there are "
                f"{len(kept)}: that file belongs to another model."
            )
        for name, variable in zip(names, model.variables, strict=True):
            variable.assign(saved.get_tensor(name))
    except UsageError:
        raise
    except Exception as error:  # TensorFlow raises whatever the damaged place leads to
        raise UsageError(f"Expected a model in {folder} that Keras loads; {error}") from error
    return model


def check_code(
    path: str | os.PathLike,
    custom_objects: Mapping[str, type] | None = None,
    compiled: bool = False,
) -> None:
    """Raises UsageError if a model file holds code, whatever program has written it.

    Arguments are as in ``load_model``.
    """
    path = Path(path)
    its_keras = _keras_of(path)
    try:
        # Keras tells the kinds of files apart in the same way.
        if str(path).endswith(".keras") and zipfile.is_zipfile(path):
            found = [_described_in_zip(path, compiled)]
        elif path.is_dir():
            saved = read_saved_model(path)
            _check_graphs(saved)
            if (path / DESCRIBED).is_file():
                found = [json.loads((path / DESCRIBED).read_text())]
            else:
                found = list(_described_in_folder(path, saved, compiled))
        else:
            if its_keras is not keras:
                raise UsageError(
                    f"Expected a .keras file of a model of Keras 3; the .h5 file {path} cannot be "
                    "checked for code. Load it and save it as .keras, or, if you trust its author, "
                    "give `allow_code=True`."
                )
            with h5py.File(path, "r") as file:
                names = ["model_config", *(["training_config"] if compiled else [])]
                found = [json.loads(file.attrs[name]) for name in names if name in file.attrs]
                if "model_config" not in file.attrs:
                    raise UsageError(
                        f"Expected a whole model in {path}; it holds weights alone: build the "
                        "model, or a ticket's, and call its load_weights."
                    )
        for part in objects(found):
            check_object(part, custom_objects or {}, its_keras)
    except HoldsCode as error:
        raise UsageError(
            f"Expected a model in {path} that holds no code; it has {error.what}: give another, "
            "or, if you trust its author, `allow_code=True`; then its code runs."
        ) from error
    except UsageError:
        raise
    except Exception as error:  # zip, HDF5, protobuf and JSON raise different types
        raise UsageError(f"Expected a model in {path} that Keras loads; {error}") from error


def _keras_of(path: Path) -> ModuleType:
    """The Keras that has written a model file, by the version in it.

    It is tf_keras for another program's SavedModel, and for a file that cannot be read."""
    if (path / DESCRIBED).is_file():
        return keras3.keras
    version = ""
    with contextlib.suppress(Exception):  # zip, HDF5 and JSON raise different types
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        elif path.is_file():
            with h5py.File(path, "r") as file:
                version = file.attrs["keras_version"]
    return keras3.keras if str(version).startswith("3.") else keras


def _described_in_zip(path: Path, compiled: bool = False) -> dict:
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("config.json"))
    if not compiled:
        described.pop("compile_config", None)  # of its optimizer and loss, which are not loaded
    return described


def _says_how_to_compile(path: Path) -> bool:
    """Whether a file says what its model was compiled with; Keras would warn of another."""
    if path.is_dir():
        nodes = _metadata(path)
        return any(json.loads(node.metadata or "{}").get("training_config") for node in nodes)
    if zipfile.is_zipfile(path):
        return bool(_described_in_zip(path, compiled=True).get("compile_config"))
    with h5py.File(path, "r") as file:
        return "training_config" in file.attrs


def _metadata(path: Path) -> list[Any]:
    """What tf_keras notes beside a SavedModel."""
    if not (path / _KERAS_METADATA).exists():
        return []
    content = (path / _KERAS_METADATA).read_bytes()
    return list(saved_metadata_pb2.SavedMetadata.FromString(content).nodes)


def _described_in_folder(path: Path, saved: Any, compiled: bool = False) -> Iterator[dict]:
    """The objects that Keras would make; without those that it does not know by their names and
    revives from the graph."""
    nodes = _metadata(path)
    for graph in saved.meta_graphs:  # where older releases of Keras have it
        users = (node.user_object for node in graph.object_graph_def.nodes)
        nodes += [user for user in users if user.identifier.startswith("_tf_keras")]
    for node in nodes:
        described = json.loads(node.metadata or "{}")
        if not compiled:
            described.pop("training_config", None)  # which is not loaded
        if node.identifier == _METRIC and is_metric(described.get("class_name")):
            del described["class_name"]
        yield _without_unknown(described)


def _without_unknown(value: Any) -> Any:
    """A description without the names of classes that Keras does not know."""
    if isinstance(value, list):
        return [_without_unknown(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_unknown(inner) for key, inner in value.items()}
    if "class_name" in kept and "module" not in kept and not _is_known(kept["class_name"]):
        del kept["class_name"]
    return kept


def _is_known(name: Any) -> bool:
    """Whether Keras could find an object by this name alone in its own modules."""
    return (
        not isinstance(name, str)
        or name.startswith("_")
        or name == "function"
        or keras.saving.get_registered_object(name) is not None
        or is_found_by_name(name)
    )


def _check_graphs(saved: Any) -> None:
    """Raises HoldsCode if an operation of a SavedModel's graphs does more than compute."""
    for graph in saved.meta_graphs:
        library = graph.graph_def.library
        names = {function.signature.name for function in library.function}
        savers = _savers(graph, names)
        bodies = [("", graph.graph_def.node)]
        bodies += [(function.signature.name, function.node_def) for function in library.function]
        for name, nodes in bodies:
            for node in nodes:
                allowed = node.op in names or (name in savers and node.op in _SAVES)
                if not allowed and not _computes(node.op):
                    what = f"the operation {node.op} in its graph, which does more than compute"
                    raise HoldsCode(f"Expected a graph that computes; it has {what}.", what)


def _savers(graph: Any, names: set[str]) -> set[str]:
    """The functions that save and restore variables, and that nothing else could call."""
    saver, library = graph.saver_def, graph.graph_def.library
    ends = {name.partition(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name)}
    found: set[str] = set()
    others: set[str] = set()
    for node in graph.graph_def.node:
        (found if node.name in ends else others).update(_called(node, names))
    for function in library.function:
        for node in function.node_def:
            others.update(_called(node, names))
        if "api_implements" in function.attr:  # TensorFlow may call it instead of another
            others.add(function.signature.name)
    for gradient in library.gradient:
        others.update((gradient.function_name, gradient.gradient_func))
    others.update(each.gradient_func for each in library.registered_gradients)
    others.update(graph.object_graph_def.concrete_functions)
    return found - others


def _called(node: Any, names: set[str]) -> Iterator[str]:
    """The functions of the library that a node may call."""
    if node.op in names:
        yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (each.name for each in value.list.func)


def _computes(operation: str) -> bool:
    if operation in _HARMLESS:
        return True
    module = getattr(symbol(f"raw_ops.{operation}"), "__module__", "")
    return operation not in _DOES_MORE and _COMPUTES.fullmatch(module) is not None
