"""A model's architecture as JSON, read back without running code from the file."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lottery_tf.errors import UsageError
from lottery_tf.keras import keras

# TensorFlow's functions that touch files, run Python or reach into the raw runtime; a model
# description has no business with them. Matched against the start of a name and after a dot.
_REFUSED_FUNCTIONS = ("io", "raw_ops", "py_function", "numpy_function", "load_op_library")


def to_json(model: keras.Model) -> str:
    """The architecture of a plain Sequential or functional model."""
    return model.to_json()


def from_json(text: str, custom_objects: Mapping[str, type] | None = None) -> keras.Model:
    """Builds the model that ``to_json`` described, with new initial weights.

    Only classes of Keras, registered ones (``keras.saving.register_keras_serializable``) and
    those in ``custom_objects`` are used: no module that the text names is imported, and no
    Lambda layer's bytecode is run.

    Args:
      text: what ``to_json`` returned.
      custom_objects: class name → class, for layers of the user's own.

    Raises:
      UsageError: if the text is no model description or names anything else.
    """
    custom_objects = dict(custom_objects or {})
    try:
        description = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"Expected a model description in JSON; it is damaged ({error})."
        ) from None
    for part in _objects(description):
        _check(part, custom_objects)
    try:
        return keras.models.model_from_json(text, custom_objects=custom_objects)
    except Exception as error:  # Keras raises whatever the damaged place leads to
        raise UsageError(
            f"Expected a model description that Keras can build; it says: {error}"
        ) from error


def _objects(value: Any) -> Iterator[dict]:
    """Every JSON object in ``value`` that describes a Keras object."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _check(part: Mapping[str, Any], custom_objects: Mapping[str, type]) -> None:
    name, module = str(part["class_name"]), str(part.get("module") or "keras")
    registered = str(part.get("registered_name") or name)
    config = part.get("config")
    if name == "Lambda":
        raise UsageError(
            "Expected layers that are data; the model has a Lambda layer, whose code is not read "
            "from a file: pass the model itself, ticket.build(model=…)."
        )
    known = any(
        keras.saving.get_registered_object(key, custom_objects) is not None
        for key in (name, registered)
    )
    if module.partition(".")[0] not in ("keras", "tf_keras", "builtins") and not known:
        raise UsageError(
            f"Expected layers of Keras or registered ones; the model has '{name}' of {module}: "
            f"import the module that registers it, or pass custom_objects={{'{registered}': "
            f"{name}}}."
        )
    function = config.get("function") if isinstance(config, dict) else None
    if isinstance(function, str) and set(function.split(".")) & set(_REFUSED_FUNCTIONS):
        raise UsageError(
            f"Expected a model of layers and mathematics; it calls tf.{function}, which is not "
            "read from a file: pass the model itself, ticket.build(model=…)."
        )
