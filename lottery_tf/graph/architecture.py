"""A model's architecture as JSON, read back without running code from the file."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from textwrap import shorten
from types import ModuleType
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.graph.compat import (
    code_allowed,
    is_like_functional,
    is_model,
    is_operation_of_keras,
    is_public_class,
    is_trainable,
    keras,
    keras3,
    parts_of,
    plain_class_of,
    set_trainable,
    symbol,
)
from lottery_tf.graph.copies import copy_with_paths
from lottery_tf.graph.described_calls import check_order, is_functional
from lottery_tf.graph.layers import layer_paths, models_in, places
from lottery_tf.graph.own_classes import is_own, own_methods, set_on

# A description may name what is here and what is registered. For anything else Keras would import a
# module, or call a function with arguments, of the file's choice. So tf.keras.utils.get_file,
# tf.print into a file and an operation given as a NodeDef are excluded.
_PUBLIC = (
    *("keras", "keras.layers", "keras.layers.experimental"),
    *("keras.layers.experimental.preprocessing", "keras.initializers", "keras.regularizers"),
    *("keras.constraints", "keras.mixed_precision"),
    # For a model that was compiled and is now part of another.
    *("keras.optimizers", "keras.optimizers.schedules", "keras.losses", "keras.metrics"),
)
_NOT_PUBLIC = {
    "Functional": "tf_keras.src.engine.functional",
    "AddLoss": "tf_keras.src.engine.base_layer",
    "TFOpLambda": "tf_keras.src.layers.core.tf_op_layer",
    "SlicingOpLambda": "tf_keras.src.layers.core.tf_op_layer",
}
# The same for Keras 3, and its layers that run other people's code.
_PUBLIC3 = (*_PUBLIC, "keras.dtype_policies", "keras.quantizers")
_NOT_PUBLIC3 = {
    "Functional": "keras.src.models.functional",
    "LayerScale": "keras.src.applications.convnext",
}
_RUN_CODE = ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# Where functions go by their names; losses and metrics are of a model that was compiled.
_FUNCTIONS = ("activations", "losses", "metrics")
_NO_MATHEMATICS = ("get", "serialize", "deserialize")
_DATA = (
    *("__tensor__", "__numpy__", "__bytes__", "__tuple__", "__ellipsis__", "TensorShape"),
    *("__keras_tensor__", "__slice__"),
)
# The modules in which TensorFlow defines its functions on tensors.
_TENSOR_FUNCTIONS = re.compile(
    r"tensorflow\.python\.(framework\.tensor_conversion|ops\.("
    r"(gen_)?(array|bitwise|image|linalg|manip|math|nn|spectral|string)_ops|array_ops_stack|"
    r"(bincount|check|clip|embedding|histogram|random|sort|sparse|special_math|stateless_random)"
    r"_ops|confusion_matrix|image_ops_impl|nn_impl|tensor_getitem_override|"
    r"(linalg|ragged|signal)\..*))"
)


class HoldsCode(UsageError):
    """A description of a model names code, and code is not read from a file.

    Attributes:
      what: the code that it names; completes "it has …".
    """

    def __init__(self, message: str, what: str):
        super().__init__(message)
        self.what = what


def to_json(model: keras.Model) -> str:
    """The architecture of a plain Sequential or functional model, as Keras writes it.

    It also has ``layer_paths``: the config of a user's own layer may lack its name, and a layer
    that a nested model shares with the outer one is written twice. It has ``frozen`` if
    models, or layers within others, are frozen. It has ``own_classes`` if a model of the user's own
    class has what a description cannot hold: attributes that were set on it, or methods of Keras'
    together with an ``__init__`` of its own.

    Raises:
      UsageError: if Keras cannot write it, as a layer has no ``get_config``, or its config is not
        JSON.
    """
    lost, plain = {}, []
    for part in models_in(model):
        kind = type(part)
        if not is_own(kind):
            continue
        names = sorted(set_on(part))
        if not is_like_functional(part):
            plain.append((part, kind))
            names += own_methods(kind)
        if names:
            lost[part.name] = f"{kind.__name__} with {some(names)}"
    try:
        for part, _ in plain:  # Keras can describe its own classes
            part.__class__ = plain_class_of(part)
        described = json.loads(model.to_json())
    except Exception as error:  # Keras raises whatever a layer's get_config leads to
        raise UsageError(
            f"Expected layers with a get_config that JSON can hold, to write the model "
            f"'{model.name}' down; Keras says: {shorten(str(error), 160, placeholder=' …')}"
        ) from error
    finally:
        for part, kind in plain:
            part.__class__ = kind
    beside: dict[str, Any] = {"layer_paths": layer_paths(model)}
    if lost:
        beside["own_classes"] = lost
    if frozen := _frozen(model):
        beside["frozen"] = frozen
    return json.dumps({**described, **beside})


def _frozen(model: keras.Model) -> list[list[int]]:
    """The frozen models and layers within others, whose configs may not tell.

    Returns:
      [place, part] of each. The place counts the models and then the ``places`` of layers; the
      part counts its ``parts_of``, and is 0 for a model.
    """
    return [
        [place, part]
        for place, parts in enumerate(_freezable(model))
        for part, each in enumerate(parts)
        if not is_trainable(each)
    ]


def _model_places(model: keras.Model) -> Iterator[keras.Model]:
    """The model and those within it; one at several places comes several times."""
    yield model
    for layer in model.layers:
        if is_model(layer):
            yield from _model_places(layer)


def _freezable(model: keras.Model) -> list[list[keras.layers.Layer]]:
    models: list[list[keras.layers.Layer]] = [[each] for each in _model_places(model)]
    return [*models, *(list(parts_of(layer)) for layer in places(model))]


def from_json(
    text: str, custom_objects: Mapping[str, type] | None = None, allow_code: bool = False
) -> keras.Model:
    """Builds the model that ``to_json`` described, with new initial weights.

    Only classes of Keras, registered ones (``keras.saving.register_keras_serializable``) and
    those in ``custom_objects`` are used: no module that the text names is imported, and no
    Lambda layer's bytecode is run.

    Args:
      text: what ``to_json`` returned.
      custom_objects: class name → class, for layers of the user's own.
      allow_code: whether code in a description of Keras 3 may run; even then no module is imported.

    Raises:
      UsageError: if the text is not a model description, or names anything else.
    """
    custom_objects = dict(custom_objects or {})
    description = _parsed(text)
    own = description.get("own_classes") if isinstance(description, dict) else None
    if own and isinstance(own, dict):
        raise UsageError(
            f"Expected a model of Keras' own classes; '{min(own)}' is a {own[min(own)]}, which a "
            "file cannot hold: pass the model itself, ticket.build(model=…)."
        )
    its_keras = keras3.keras if is_of_keras3(description) else keras
    try:
        with contextlib.ExitStack() as leave:
            if allow_code and its_keras is keras3.keras:
                leave.enter_context(code_allowed())
            else:
                for part in objects(description):
                    check_object(part, custom_objects, its_keras)
            model = its_keras.models.model_from_json(text, custom_objects=custom_objects)
        paths = description.get("layer_paths", layer_paths(model))
        model = model if paths == layer_paths(model) else copy_with_paths(model, paths)
        parts = _freezable(model)
        for place, part in description.get("frozen", ()):
            set_trainable(parts[place][part], False)
        return model
    except UsageError:
        raise
    except Exception as error:  # Keras raises anything, depending on what is damaged
        raise UsageError(
            "Expected a model description that Keras can build; it says: "
            f"{str(error).rpartition('Exception encountered: ')[2][:300]}"
        ) from error


def keras_of_json(text: str) -> ModuleType:
    """The module of the Keras that has written the description of a model.

    Raises:
      UsageError: if the text is not JSON.
    """
    return keras3.keras if is_of_keras3(_parsed(text)) else keras


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"Expected a model description in JSON; it is damaged ({error})."
        ) from None


def is_of_keras3(description: Any) -> bool:
    """Whether Keras 3 has written the description of a model; tf_keras would note its version."""
    known = isinstance(description, dict) and "module" in description
    return known and "keras_version" not in description


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in ``value`` that describes a Keras object."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def check_object(
    part: Mapping[str, Any], custom_objects: Mapping[str, type], its_keras: ModuleType = keras
) -> None:
    """Checks what a JSON object that describes a Keras object names.

    Args:
      part: the JSON object.
      custom_objects: class name → class.
      its_keras: the Keras of the description, tf_keras or Keras 3.

    Raises:
      HoldsCode: unless it is a class of Keras, a registered one, or one of ``custom_objects``.
      UsageError: for a model with calls that wait for one another.
    """
    kind, module = str(part["class_name"]), part.get("module")
    config: Any = part.get("config")
    if its_keras is keras and isinstance(config, dict) and is_functional(config):
        check_order(config)
    inner = config.values() if isinstance(config, dict) else ()
    if isinstance(config, dict) and isinstance(words := config.get("vocabulary"), str):
        what = f"a vocabulary that is read from the file {words}"
        raise HoldsCode(
            f"Expected layers that are data; the model has {what}: pass the model itself, "
            "ticket.build(model=…), or give the layer its words.",
            what,
        )
    if kind in ("Lambda", "__lambda__") or any(
        isinstance(value, dict) and value.keys() == {"value"} for value in inner
    ):
        what = "a Lambda layer or a lambda function"
        raise HoldsCode(
            f"Expected layers that are data; the model has {what}, and code is not read from a "
            "file: pass the model itself, ticket.build(model=…).",
            what,
        )
    # The name under which Keras looks for a registered object.
    name = part.get("registered_name", kind) if "module" in part else kind
    name = config if kind == "function" else name
    found = its_keras.saving.get_registered_object(name, custom_objects)
    # Inside a wrapper Keras uses the class name alone, whatever is registered.
    if found is not None and (
        kind in (name, "function") or getattr(found, "__name__", None) == kind
    ):
        return
    known = _is_of_keras if its_keras is keras else _is_of_keras3
    if not known(kind, module, config):
        name = name or kind
        raise HoldsCode(
            f"Expected layers of Keras or registered ones; the model has '{name}' of {module}: "
            f"import the module that registers it, or pass custom_objects={{'{name}': "
            f"{str(name).rpartition('>')[2]}}}.",
            f"'{name}' of {module}, which is not registered",
        )
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        function = symbol(config["function"])
        if not _TENSOR_FUNCTIONS.fullmatch(getattr(function, "__module__", "")):
            raise HoldsCode(
                f"Expected a model of layers and mathematics; it calls tf.{config['function']}, "
                "which is not read from a file: pass the model itself, ticket.build(model=…).",
                f"a call of tf.{config['function']}",
            )


def _is_of_keras(kind: str, module: str | None, config: Any) -> bool:
    """Whether Keras itself has a class ``kind``, or the function that ``config`` names."""
    if kind == "function":
        known = any(symbol(f"keras.{place}.{config}") is not None for place in _FUNCTIONS)
        return module == "builtins" and known and config not in _NO_MATHEMATICS
    if kind in _NOT_PUBLIC:
        return module in (None, _NOT_PUBLIC[kind])
    if module is None:
        return kind in _DATA or any(_is_class(f"{place}.{kind}") for place in _PUBLIC)
    return module in _PUBLIC and _is_class(f"{module}.{kind}")


def _is_of_keras3(kind: str, module: str | None, config: Any) -> bool:
    """``_is_of_keras`` for Keras 3."""
    if kind == "function":
        places = [place for place in _FUNCTIONS if module in ("builtins", f"keras.{place}")]
        named = isinstance(config, str) and config not in _NO_MATHEMATICS
        return named and any(hasattr(getattr(keras3.keras, place), config) for place in places)
    if kind in _NOT_PUBLIC3:
        return module == _NOT_PUBLIC3[kind]
    if module is None:
        return kind in _DATA
    if module in _PUBLIC3:
        return kind not in _RUN_CODE and is_public_class(module, kind)
    return is_operation_of_keras(module, kind)


def _is_class(name: str) -> bool:
    return isinstance(symbol(name), type)
