"""TensorFlow's SavedModel, which serving, ``tf.saved_model.load`` and Keras read alike.

``model.save(save_traces=False)`` with a signature, a ``__call__`` and ``variables`` of our own. Of
the ways tried, on a ResNet-20 with 95 % zeros (medians of four, two busy cores):

==================  ======  ======  ====  =======  ============================
way                 save s  load s  MB    gzip MB  read by
==================  ======  ======  ====  =======  ============================
``model.export()``  1.6     0.7     1.4   0.17     ``tf.saved_model.load`` only
``model.save()``    6.3     2.4     2.4   0.23     both
this                2.9     0.5     1.7   0.18     both
==================  ======  ======  ====  =======  ============================

A model of Keras 3 is saved by TensorFlow itself, with the same signature and attributes: Keras 3
reads no SavedModel back but as a ``TFSMLayer``, for which that is enough. Its architecture lies
beside, by which ``lottery-tf`` makes the model again.

``model.export()`` names no tensors (``args_0``), has ``serve`` instead of ``serving_default``,
and Keras cannot load what it writes. The traces of ``model.save()`` are a graph for each layer.
Only custom layers need them to be loaded: a model that has some is saved with them. Without them
Keras leaves out the signature, ``__call__`` and ``variables`` too.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.ownership import Kind
from lottery_tf.common.stderr import quiet
from lottery_tf.exporting.probabilities import with_probabilities
from lottery_tf.graph.architecture import is_of_keras3, to_json
from lottery_tf.graph.compat import (
    fingerprint_pb2,
    flattened,
    is_keras3,
    keras,
    output_names,
    packed,
    parts_of,
    saved_metadata_pb2,
    saved_model_pb2,
    saved_with,
    tensor_bundle_pb2,
)
from lottery_tf.graph.layers import input_names
from lottery_tf.graph.model_files import DESCRIBED
from lottery_tf.graph.sharing import is_foreign


def _graph(file: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]


def _is_written_here(file: Path) -> bool:
    """Whether ``write`` has made a saved_model.pb: it has the attributes that are added here, and
    is of tf_keras without its traces (``keras_api``), or has our mark."""
    root = _graph(file).object_graph_def.nodes[0]
    names = {child.local_name for child in root.children}
    return (
        {"__call__", "variables", "signatures"} <= names
        and (root.user_object.identifier.startswith("_tf_keras_") or _MARK in names)
        and ("keras_api" not in names or _MARK in names)
    )


def _is_metadata(file: Path) -> bool:
    return bool(saved_metadata_pb2.SavedMetadata.FromString(file.read_bytes()).nodes)


def _is_fingerprint(file: Path) -> bool:
    found = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
    return found.saved_model_checksum != 0


def _shards(index: Path) -> int:
    """The number of files that the variables are in, by their index. That is a table of LevelDB's
    form: behind three lengths the first entry has an empty key, and a header as its value."""
    content = index.read_bytes()
    if content[:2] != b"\0\0":
        raise ValueError(f"{index} is no index of variables")
    header = content[3 : 3 + content[2]]
    return tensor_bundle_pb2.BundleHeaderProto.FromString(header).num_shards


def _is_index(file: Path) -> bool:
    return _shards(file) > 0


def _is_shard(file: Path) -> bool:
    count = _shards(file.with_name("variables.index"))
    return any(file.name == f"variables.data-{n:05}-of-{count:05}" for n in range(count))


def _is_description(file: Path) -> bool:
    return is_of_keras3(json.loads(file.read_text()))


def _is_asset(file: Path) -> bool:
    graph = _graph(file.parents[1] / "saved_model.pb")
    return any(file.name == asset.filename for asset in graph.asset_file_def)


SAVED_MODEL = Kind(
    "a SavedModel of lottery_tf",
    {
        "saved_model.pb": _is_written_here,
        "keras_metadata.pb": _is_metadata,
        "fingerprint.pb": _is_fingerprint,
        "variables/variables.index": _is_index,
        "variables/variables.data-?????-of-?????": _is_shard,
        "assets/*": _is_asset,
        DESCRIBED: _is_description,
    },
    marker="saved_model.pb",
)


def signature_name(name: str) -> str:
    """The name in a signature of the model's input ``name``: it is a keyword argument there."""
    return re.sub(r"\W", "_", name)


def serving(model: keras.Model) -> tuple[Any, Any, list[tf.TensorSpec]]:
    """What an export of ``model`` computes, as functions of TensorFlow.

    Returns:
      A function of the model's input, in its structure. One of the flat inputs, by
      ``signature_name``, that gives the outputs by name. And the specs of these inputs.
    """
    names = [signature_name(name) for name in input_names(model)]
    specs = [
        tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]

    @tf.function(input_signature=[packed(model, specs)])
    def call(inputs: Any) -> Any:
        return model(inputs, training=False)

    # Its arguments have the names of the specs. Not a concrete function: of variables on several
    # workers TensorFlow saves none.
    @tf.function(input_signature=specs)
    def serve(*flat: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = call(packed(model, flat))
        return dict(zip(output_names(model), flattened(model, outputs), strict=True))

    return call, serve, specs


def write(model: keras.Model, path: Path, probabilities: Mapping[str, str] | None = None) -> None:
    """Writes ``model`` to the folder ``path``.

    The signature ``serving_default`` takes the model's inputs by ``signature_name``, shape
    [None, …] in their own dtype, and gives its outputs by name, computed as in inference. What
    ``tf.saved_model.load`` returns can also be called on the model's input and has ``variables``.

    Args:
      model: a built Sequential or functional model of either Keras.
      path: a folder, missing or empty.
      probabilities: name of an output → how it becomes probabilities, as ``probabilities_of`` gives
        it. The signature ``predict`` has them beside the outputs; without any there is none.
    """
    call, serve, specs = serving(model)
    signatures = {"serving_default": serve}
    if probabilities:
        signatures["predict"] = with_probabilities(probabilities, serve, specs)
    if is_keras3(model):
        with quiet():
            tf.saved_model.save(_Exported(model, call), path, signatures=signatures)
        # A layer of one's own need not be described for others to run what it computes.
        with contextlib.suppress(UsageError):
            described = to_json(model)
            (path / DESCRIBED).parent.mkdir()
            (path / DESCRIBED).write_text(described)
        return
    # A list that TensorFlow can save: an attribute of something that it tracks.
    holder = tf.Module()
    holder.variables_list = list(model.variables)
    attributes = {"__call__": call, "variables": holder.variables_list}
    # Keras loads a layer of the user's own by its traces.
    own = any(map(is_foreign, parts_of(model)))
    if own:
        attributes[_MARK] = tf.Module()
    with quiet(), saved_with(model, attributes):
        model.save(
            path,
            save_format="tf",
            include_optimizer=False,
            save_traces=own,
            signatures=signatures,
        )


_MARK = "lottery_tf"  # an attribute by which a SavedModel of a Keras 3 model is known as ours


class _Exported(tf.Module):
    """What TensorFlow saves of a model of Keras 3: what computes, and what it reads.

    The model itself would be there with all its layers, and each variable twice.
    """

    variables: Any = None  # in the place of tf.Module's property, which is not saved

    def __init__(self, model: keras.Model, call: Any):
        super().__init__()
        self.variables = [variable.value for variable in model.variables]
        tables = (getattr(part, "lookup_table", None) for part in parts_of(model))
        self.tables = [table for table in tables if table is not None]
        self.__call__ = call  # saved as it is, not as a method
        setattr(self, _MARK, tf.Module())
