"""Conversion of a model to the other Keras, if that has the same layers."""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    called_again,
    calls_in,
    ends_of,
    flattened,
    input_layers,
    is_layer,
    is_model,
    keras,
    keras_of,
    layer_of,
    outputs_of,
    packed,
    set_trainable,
    spec_of,
)
from lottery_tf.graph.copies import freeze_as
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import (
    assign,
    check_graph,
    computes_as_keras,
    models_in,
    named_layers,
    own_variables,
    unwrapped,
    values,
    variable_names,
)

# Parameters that have another name in the other Keras.
_PARAMETERS = {"LeakyReLU": ("alpha", "negative_slope")}
_ACTIVATIONS = {"swish": "silu", "silu": "swish"}
# Parameters that say where or how a layer computes, not what; and the shape, which inputs give.
_LEFT_OUT = {
    *(
        "implementation",
        "use_cudnn",
        "rng_type",
        "batch_input_shape",
        "batch_shape",
        "build_config",
    ),
    *("autocast", "optional", "sparse", "ragged", "quantization_config"),
}
_TOLERANCE = 1e-5  # of the largest output


def converted(model: keras.Model, of: ModuleType) -> keras.Model:
    """The same network in another Keras, with the same names and weights; not compiled.

    Before it is returned, both networks are checked to compute the same on random inputs.

    Args:
      model: a plain Sequential or functional model of Keras' own layers.
      of: the module of the wanted Keras.

    Raises:
      UsageError: for a layer, function or parameter that the other Keras does not have, and if the
        outputs differ.
    """
    check_graph(model)
    if keras_of(model) is of:
        return model
    made: dict[int, Any] = {}

    def new(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = connect(layer) if is_model(layer) else _layer_of(of, layer)
        return made[id(layer)]

    def connect(part: keras.Model) -> keras.Model:
        held: dict[int, Any] = {}

        def tensor_of(old: Any) -> Any:
            return held[id(old)]

        for layer, tensor in zip(input_layers(part), part.inputs, strict=True):
            spec = spec_of(tensor)
            shape = tuple(spec.shape[1:])
            held[id(tensor)] = of.Input(shape, name=layer.name, dtype=spec.dtype.name)
        if isinstance(part, keras_of(part).Sequential):
            first = held[id(part.inputs[0])]
            return of.Sequential([first, *map(new, part.layers)], name=part.name)
        for node in calls_in(part):
            layer = layer_of(node)
            if not is_layer(layer):
                raise _refusal(of, f"the function {type(layer).__name__}")
            outputs = called_again(node, new(layer), tensor_of)
            pairs = zip(outputs_of(node), tf.nest.flatten(outputs), strict=True)
            held |= {id(old): tensor for old, tensor in pairs}
        ends = (tf.nest.map_structure(tensor_of, each) for each in ends_of(part))
        return of.Model(*ends, name=part.name)

    result = connect(model)
    _freeze_alike(model, result)
    assign(result, values(model))
    _check_same(model, result)
    return result


def _freeze_alike(model: keras.Model, other: keras.Model) -> None:
    """Makes ``other`` train the same variables as ``model``."""
    for old, new in zip(models_in(model), models_in(other), strict=True):
        freeze_as(new, old)
    wanted = _trained(model)
    if _trained(other) == wanted:
        return
    # In a frozen model tf_keras trains nothing; Keras 3 trains what was thawed within it.
    for each in models_in(other):
        set_trainable(each, True)
    for path, layer in named_layers(other).items():
        layer.trainable = any(f"{path}/{name}" in wanted for name in own_variables(layer))


def _trained(model: keras.Model) -> set[str]:
    names = variable_names(model)
    return {names[id(variable)] for variable in model.trainable_weights}


def _layer_of(of: ModuleType, layer: Any) -> Any:
    """A layer of the other Keras with the name and the parameters of ``layer``."""
    layer = unwrapped(layer)
    name = type(layer).__name__
    kind = getattr(of.layers, name, None)
    if kind is None or not computes_as_keras(layer):
        raise _refusal(of, f"the layer '{layer.name}' ({name})")
    config = dict(layer.get_config())
    if name in _PARAMETERS:
        old, new = _PARAMETERS[name] if of is keras3 else reversed(_PARAMETERS[name])
        config[new] = config.pop(old)
    if "depthwise_initializer" in config:  # tf_keras also lists the parameters of a convolution
        config = {key: each for key, each in config.items() if not key.startswith("kernel_")} | {
            "kernel_size": config["kernel_size"]
        }
    for key, value in list(config.items()):
        if key in _LEFT_OUT:
            del config[key]
        elif key == "dtype":
            config[key] = layer.dtype_policy.name
        elif key == "axis" and not isinstance(value, int):
            config[key] = value[0] if len(value) == 1 else list(value)
        elif key.endswith("activation"):
            config[key] = _activation(of, layer, value)
        elif isinstance(value, Mapping):
            config[key] = _plain(value)
    known, default = _parameters(kind), _parameters(type(layer))
    for key in [key for key in config if key not in known]:
        value = config.pop(key)
        if value and value != default.get(key):
            raise _refusal(of, f"the parameter {key} of the layer '{layer.name}' ({name})")
    try:
        return kind.from_config(config)
    except Exception as error:  # its constructor may raise anything
        raise _refusal(of, f"the layer '{layer.name}' as it is ({error})") from error


def _parameters(kind: type) -> dict[str, Any]:
    """Parameter → default, for the constructors of a class and of its base classes."""
    found = dict.fromkeys(("name", "trainable", "dtype"))
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            found |= {name: each.default for name, each in parameters.items()}
    return found


def _activation(of: ModuleType, layer: Any, value: Any) -> Any:
    if value is None:
        return None
    for name in (value, _ACTIVATIONS.get(value)) if isinstance(value, str) else ():
        if name and hasattr(of.activations, name):
            return name
    raise _refusal(of, f"the activation of the layer '{layer.name}'")


def _plain(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an initializer and the like, without parameters that are not set.

    The other Keras may not know these."""
    config = described.get("config")
    if not isinstance(config, Mapping):
        return dict(described)
    return {**described, "config": {k: v for k, v in config.items() if v is not None}}


def _check_same(model: keras.Model, other: keras.Model) -> None:
    random = np.random.default_rng(0)
    inputs = []
    for spec in map(spec_of, model.inputs):
        shape = (2, *(size or 64 for size in spec.shape[1:]))
        whole = not spec.dtype.is_floating
        drawn = random.integers(0, 2, shape) if whole else random.normal(size=shape)
        inputs.append(drawn.astype(spec.dtype.as_numpy_dtype))
    found = []
    for each in (model, other):
        try:
            outputs = each(packed(each, inputs), training=False)
        except Exception as error:  # layers may raise anything on random inputs
            raise UsageError(
                "Expected a network that takes random inputs, to compare both Kerases; "
                f"'{model.name}' does not ({' '.join(str(error).split())[:120]}). Build it in the "
                "other Keras yourself, and give that model to ticket.build."
            ) from error
        found.append([np.asarray(output) for output in flattened(each, outputs)])
    for one, two in zip(*found, strict=True):
        if not np.abs(one - two).max() <= _TOLERANCE * max(1.0, np.abs(one).max()):
            raise UsageError(
                "Expected a network that is the same in both Kerases; the outputs of "
                f"'{model.name}' differ by {np.abs(one - two).max():.3g}. Build it in the other "
                "Keras yourself, and give that model to ticket.build."
            )


def _refusal(of: ModuleType, what: str) -> UsageError:
    return UsageError(
        f"Expected layers and parameters that {of.__name__} has too; it lacks {what}, or differs "
        "there. Build the network in the other Keras yourself, and give it to ticket.build."
    )
