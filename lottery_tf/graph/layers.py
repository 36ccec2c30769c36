"""A model's layers, their weights by name, and how the layers are connected.

Models may be nested and layers may be shared. A pruning wrapper counts as the layer that it wraps:
a weight has the same name in a model and in its wrapped copy.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    backend_of,
    calls_in,
    ends_of,
    input_layers,
    inputs_of,
    is_graph_network,
    is_keras3,
    is_layer,
    is_model,
    is_pruning_wrapper,
    is_variable,
    keras,
    keras_of,
    last_name,
    layer_of,
    listed_weights,
    made_trainable,
    on_tensorflow,
    output_names,
    outputs_of,
    parts_of,
)


def check_graph(model: keras.Model) -> None:
    """Raises UsageError unless ``model`` is a built Sequential or functional model.

    It may be of tf_keras or of Keras 3.
    """
    if not is_model(model):
        cure = ""
        if isinstance(model, str | os.PathLike):
            cure = ": lt.load_model reads a file"
        elif hasattr(model, "masks") and hasattr(model, "build"):
            cure = ": its build() makes the model"  # a Ticket, which this package does not know
        raise UsageError(
            f"Expected a Keras model, got a {type(model).__module__}.{type(model).__name__}{cure}."
        )
    if is_keras3(model):
        _check_keras3(model)
    for part in models_in(model):
        if is_graph_network(part):
            continue
        if isinstance(part, keras_of(part).Sequential):
            raise UsageError(
                f"Expected a built model, got the Sequential '{part.name}' without an input "
                "shape: put a keras.Input in front, or call it on a batch first."
            )
        raise UsageError(
            f"Expected a Sequential or functional model, got the subclassed model '{part.name}' "
            f"({type(part).__name__}); its layers cannot be replaced: build it as "
            "keras.Model(inputs, outputs)."
        )


def check_tensorflow(model: keras.Model, what: str) -> None:
    """Raises UsageError if ``what`` needs TensorFlow and a Keras 3 model has another backend."""
    if not on_tensorflow(model):
        raise UsageError(
            f"Expected Keras 3 on TensorFlow for {what}, got Keras 3 on "
            f"{backend_of(model)}: set KERAS_BACKEND=tensorflow before importing "
            "keras."
        )


def _check_keras3(model: keras.Model) -> None:
    """Raises UsageError for a Keras 3 model on a backend that was never tested."""
    backend = keras_of(model).backend.backend()
    if backend not in ("tensorflow", "jax", "torch"):
        raise UsageError(
            f"Expected Keras 3 on TensorFlow, JAX or torch, got {backend}: set "
            "KERAS_BACKEND=tensorflow before importing keras."
        )


def check_of_its_keras(model: keras.Model, **things: Any) -> None:
    """Raises UsageError if something is of another Keras than ``model``.

    Args:
      model: a model of either Keras.
      **things: objects to use with it, such as an optimizer, or a structure of losses. Names and
        the user's own functions fit both.
    """
    own = keras_of(model).__name__
    for what, structure in things.items():
        for thing in tf.nest.flatten(structure):
            places = [getattr(thing, "__module__", None) or "", *_modules_of(type(thing))]
            kinds = {place.partition(".")[0] for place in places} & {"keras", "tf_keras"}
            if kinds and own not in kinds:
                name = getattr(thing, "__name__", type(thing).__name__)
                raise UsageError(
                    f"Expected the {what} of {own}, like the model '{model.name}'; got {name} of "
                    f"{kinds.pop()}: a program may use both Kerases, a training only one."
                )


def _modules_of(kind: type) -> list[str]:
    return [base.__module__ for base in kind.__mro__]


def check_finished(model: keras.Model) -> None:
    """Raises UsageError if ``model`` has layers that a tweak's ``finish`` takes off."""
    if names := sorted(fading(model)):
        raise UsageError(
            f"Expected a finished model; '{model.name}' still has {' and '.join(names)} in it: "
            f'call finish of its recipe, lt.Recipe("{",".join(names)}").finish(model) or your own.'
        )


def keys_of_outputs(model: keras.Model) -> list[str]:
    """The names by which losses and labels of a model's outputs are given, in tf.nest's order.

    They are the keys if the outputs are a dictionary."""
    structure = ends_of(model)[1]
    return sorted(structure) if isinstance(structure, dict) else output_names(model)


def with_states(model: keras.Model) -> list[str]:
    """Paths of layers with states that last from batch to batch (``stateful=True``)."""
    return [
        path
        for path, layer in named_layers(model).items()
        if any(getattr(part, "stateful", False) for part in parts_of(layer))
    ]


def fading(model: keras.Model) -> set[str]:
    """Names of the tweaks that have fading layers in ``model``, inside other layers too."""
    return {layer.fading_tweak for layer in parts_of(model) if hasattr(layer, "fading_tweak")}


def models_in(model: keras.Model, seen: set[int] | None = None) -> Iterator[keras.Model]:
    """The model and the models that are layers of it, at any depth, each once."""
    seen = set() if seen is None else seen
    if id(model) not in seen:
        seen.add(id(model))
        yield model
        for layer in model.layers:
            if is_model(layer):
                yield from models_in(layer, seen)


def unwrapped(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer inside a pruning wrapper; any other layer as it is."""
    return layer.layer if is_pruning_wrapper(layer) else layer


def input_names(model: keras.Model) -> list[str]:
    """The names of a model's inputs, in the order of ``model.inputs``."""
    return [layer.name for layer in input_layers(model)]


def computes_as_keras(layer: Any) -> bool:
    """Whether a layer, or a function of Keras 3, runs Keras' own code, not a user's."""
    return type(layer).call.__module__.startswith(("tf_keras.", "keras."))


def named_layers(model: keras.Model, prefix: str = "") -> dict[str, keras.layers.Layer]:
    """Path → layer for each layer that is not a model, in the order of ``model.layers``.

    The path joins the names of the models around the layer and its own: ``encoder/conv1``.
    A shared layer has the path of its first place. Wrappers stay on.
    """
    found: dict[str, keras.layers.Layer] = {}
    for layer in model.layers:
        path = prefix + unwrapped(layer).name
        inner = named_layers(layer, f"{path}/") if is_model(layer) else {path: layer}
        seen = {id(other) for other in found.values()}
        found |= {name: each for name, each in inner.items() if id(each) not in seen}
    return found


def named_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Name → variable for all of the model's variables except the masks.

    A name is the layer's path and the variable's own last name: ``conv1/kernel``,
    ``encoder/bn/moving_mean``; a layer's second variable of that name is ``kernel_1``.
    BatchNorm's moving statistics are among them.
    """
    return {
        f"{path}/{name}": variable
        for path, layer in named_layers(model).items()
        for name, variable in own_variables(layer).items()
    }


def variable_names(model: keras.Model) -> dict[int, str]:
    """id of a variable → its name in ``named_variables``."""
    return {id(variable): name for name, variable in named_variables(model).items()}


def own_variables(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    """Last name → variable of one layer, without its masks."""
    found = {}
    # Not in Keras' order, which puts trainable ones first: names must not depend on freezing.
    held = [(v, part) for part in parts_of(unwrapped(layer)) for v in listed_weights(part)]
    place = {id(variable): number for number, (variable, _) in enumerate(held)}
    holder = {id(variable): part for variable, part in held}
    # The weights of a lookup contain its table, which is not a variable.
    variables = [each for each in unwrapped(layer).weights if is_variable(each)]
    for variable in sorted(variables, key=lambda each: place.get(id(each), len(place))):
        own = last_name(variable, holder.get(id(variable), layer))
        name, copies = own, 0
        while name in found:
            copies += 1
            name = f"{own}_{copies}"
        found[name] = variable
    return found


def trainable_names(model: keras.Model) -> set[str]:
    """Names of the variables that are trained, or would be if their layers were not frozen."""
    names = variable_names(model)
    made = (v for layer in named_layers(model).values() for v in made_trainable(unwrapped(layer)))
    return {names[id(variable)] for variable in made if id(variable) in names}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Name → value (a copy) of the model's variables except the masks."""
    return {name: np.array(variable.numpy()) for name, variable in named_variables(model).items()}


def nodes(model: keras.Model) -> Iterator[tuple[keras.Model, Any]]:
    """Each call of a layer in a model and in those nested in it, as (the model, Keras' node)."""
    for part in models_in(model):
        yield from ((part, node) for node in calls_in(part))


def layer_paths(model: keras.Model) -> list[str]:
    """The path of the layer at each of ``places``."""
    paths = {id(layer): path for path, layer in named_layers(model).items()}
    return [paths[id(layer)] for layer in places(model)]


def places(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers that are not models, also those of nested models; a shared one is repeated."""
    for layer in model.layers:
        if is_model(layer):
            yield from places(layer)
        else:
            yield layer


def assign(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Sets the model's variables by name.

    Args:
      model: the model; it may be wrapped.
      values: name → array, for all of ``named_variables(model)``.

    Raises:
      UsageError: if names or shapes are not the model's; then nothing is assigned. Also for values
        of another type.
    """
    variables = named_variables(model)
    if variables.keys() != values.keys():
        odd = sorted(variables.keys() ^ values.keys())
        raise UsageError(
            f"Expected values for the variables of the model '{model.name}'; not in both: "
            f"{', '.join(odd[:4])}{' …' if len(odd) > 4 else ''}. They belong to another model, or "
            "to the same one with other names: give its layers names of your own."
        )
    for name, variable in variables.items():
        if not tf.TensorShape(variable.shape).is_compatible_with(values[name].shape):
            raise UsageError(
                f"Expected shape {tuple(variable.shape)} for {name} of the model '{model.name}', "
                f"got {values[name].shape}. The values belong to another model."
            )
    for name, variable in variables.items():
        try:
            variable.assign(values[name])
        except (TypeError, ValueError) as error:  # e.g. texts, or fractions for a count
            raise UsageError(
                f"Expected values for {name} of the model '{model.name}' of its type, got "
                f"{values[name].dtype}. They belong to another model."
            ) from error
    for layer in named_layers(model).values():
        finalize(layer)


def finalize(layer: keras.layers.Layer) -> None:
    """Makes Keras recompute what it derives from a layer's variables: Normalization's mean."""
    for part in parts_of(layer):
        # In Keras 3 only some layers have it. A layer without variables has nothing to recompute;
        # a Discretization would lose its boundaries, which are not variables there.
        if hasattr(part, "finalize_state") and part.variables:
            part.finalize_state()


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer in a model's graph; a shared layer has several."""

    path: str
    layer: keras.layers.Layer
    before: list["Call"]
    after: list["Call"] = dataclasses.field(default_factory=list)
    node: Any = None  # Keras' record of the call, with the shapes; None for a model's input


def calls(model: keras.Model) -> tuple[list[Call], list[Call]]:
    """The model's layer calls from the inputs on, and those that make its outputs.

    Nested models are opened, so that the graph has layers only. The model's inputs are calls of
    InputLayers with an empty ``before``; they are not in the first list.
    """
    paths = {id(layer): path for path, layer in named_layers(model).items()}
    found: list[Call] = []

    def walk(part: keras.Model, makers: list[list[Call]], prefix: str = "") -> list[list[Call]]:
        """Walks one model whose inputs are made by ``makers``; returns its outputs' makers."""
        made = {id(tensor): maker for tensor, maker in zip(part.inputs, makers, strict=True)}
        for node in calls_in(part):
            sources = [made[id(t)] for t in inputs_of(node)]
            outputs = outputs_of(node)
            layer = layer_of(node)
            if is_model(layer):
                results = walk(layer, sources, f"{prefix}{layer.name}/")
            else:
                before = list(dict.fromkeys(c for source in sources for c in source))
                # A function of Keras 3 is not a layer; no layer's name has brackets.
                path = paths[id(layer)] if is_layer(layer) else f"{prefix}{layer.name}()"
                call = Call(path, layer, before, node=node)
                for earlier in before:
                    earlier.after.append(call)
                found.append(call)
                results = [[call]] * len(outputs)
            made |= {id(t): maker for t, maker in zip(outputs, results, strict=True)}
        return [made[id(tensor)] for tensor in part.outputs]

    outputs = walk(model, [[Call(layer.name, layer, [])] for layer in input_layers(model)])
    return found, list(dict.fromkeys(call for makers in outputs for call in makers))
