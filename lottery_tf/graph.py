"""A model's layers, their weights by name, and how the layers are connected.

Models may be nested in models and layers may be shared; a pruning wrapper counts as the layer
that it wraps, so that a weight has the same name in a model and in its wrapped copy.
"""

import contextlib
import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from textwrap import shorten
from types import FunctionType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)
from tf_keras.src.engine.functional import has_functional_like_constructor

from lottery_tf.errors import UsageError
from lottery_tf.keras import keras
from lottery_tf.log import log, some


def check_graph(model: keras.Model) -> None:
    """Raises UsageError unless ``model`` is a built Sequential or functional tf_keras model."""
    if any(kind.__module__.partition(".")[0] == "keras" for kind in type(model).__mro__):
        raise UsageError(
            f"Expected a model of tf_keras, got a Keras 3 {type(model).__name__}: build it with "
            "`import tf_keras as keras`, or set TF_USE_LEGACY_KERAS=1 before importing tensorflow."
        )
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"Expected a tf_keras model, got a {type(model).__module__}.{type(model).__name__}."
        )
    for part in _nested(model):
        if part._is_graph_network:
            continue
        if isinstance(part, keras.Sequential):
            raise UsageError(
                f"Expected a built model, got the Sequential '{part.name}' without an input "
                "shape: put a keras.Input in front, or call it on a batch first."
            )
        raise UsageError(
            f"Expected a Sequential or functional model, got the subclassed model '{part.name}' "
            f"({type(part).__name__}), whose layers cannot be replaced: build it as "
            "keras.Model(inputs, outputs)."
        )


def _nested(model: keras.Model, seen: set[int] | None = None) -> Iterator[keras.Model]:
    """The model and the models that are layers of it, at any depth, each once."""
    seen = set() if seen is None else seen
    if id(model) not in seen:
        seen.add(id(model))
        yield model
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                yield from _nested(layer, seen)


def unwrapped(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer inside a pruning wrapper; any other layer is itself."""
    return layer.layer if isinstance(layer, PruneLowMagnitude) else layer


def named_layers(model: keras.Model, prefix: str = "") -> dict[str, keras.layers.Layer]:
    """Path → layer for each layer that is no model, in the order of ``model.layers``.

    The path joins the names of the models around the layer and its own: ``encoder/conv1``.
    A shared layer has the path of its first place. Wrappers stay on.
    """
    found: dict[str, keras.layers.Layer] = {}
    for layer in model.layers:
        path = prefix + unwrapped(layer).name
        inner = named_layers(layer, f"{path}/") if isinstance(layer, keras.Model) else {path: layer}
        seen = {id(other) for other in found.values()}
        found |= {name: each for name, each in inner.items() if id(each) not in seen}
    return found


def named_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Name → variable for all of the model's variables but the masks.

    A name is the layer's path and the variable's own last name: ``conv1/kernel``,
    ``encoder/bn/moving_mean``; a layer's second variable of that name is ``kernel_1``.
    BatchNorm's moving statistics are among them.
    """
    return {
        f"{path}/{name}": variable
        for path, layer in named_layers(model).items()
        for name, variable in _own_variables(layer).items()
    }


def _own_variables(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    """Last name → variable of one layer, without its masks."""
    found = {}
    for variable in unwrapped(layer).weights:
        own = variable.name.rpartition("/")[2].partition(":")[0]
        name, copies = own, 0
        while name in found:
            copies += 1
            name = f"{own}_{copies}"
        found[name] = variable
    return found


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Name → value of the model's variables but the masks, copied."""
    return {name: np.array(variable.numpy()) for name, variable in named_variables(model).items()}


@contextlib.contextmanager
def _copying(what: str) -> Iterator[None]:
    """Makes a UsageError of what Keras raises while it copies ``what``."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # Keras raises whatever the layer's own code leads to
        reason = str(error).rpartition("Exception encountered: ")[2]
        raise UsageError(
            f"Expected layers that Keras can make anew from their config; {what} it cannot "
            f"({shorten(reason, 120, placeholder=' …').rstrip('.')}): give it functions with a "
            "name, registered by keras.saving.register_keras_serializable, and a get_config with "
            "all that its constructor takes."
        ) from error


def copy_layer(layer: keras.layers.Layer, **config) -> keras.layers.Layer:
    """A new layer of the same configuration, but for what ``config`` changes in it.

    Functions that the layer has, such as an activation of the user's own, need not be registered.

    Raises:
      UsageError: if the layer cannot be made from its config.
    """
    parts = [layer, *layer.submodules]
    functions = {f for part in parts for f in vars(part).values() if isinstance(f, FunctionType)}
    # A config holds no more of a function than its name.
    count = Counter(f.__name__ for f in functions)
    named = {f.__name__: f for f in functions if count[f.__name__] == 1}
    with _copying(_called(layer)), keras.saving.custom_object_scope(named):
        return type(layer).from_config({**layer.get_config(), **config})


def _called(layer: keras.layers.Layer) -> str:
    return f"the layer '{layer.name}' ({type(layer).__name__})"


def rebuild(
    model: keras.Model,
    change: Callable[[keras.layers.Layer], keras.layers.Layer],
    connect: Callable[[keras.Model, Callable], keras.Model | None] = lambda part, once: None,
) -> keras.Model:
    """A copy of ``model`` in which each layer is ``change(layer)``, with the variables' values.

    ``change`` is called once for each layer that is no model, a shared one too, and returns a
    new layer. Nested models are rebuilt in turn. Variables that only the copy has keep their
    initial values. The copy is not compiled.

    Args:
      model: a Sequential or functional model.
      change: old layer → new layer.
      connect: called with the model, and with each nested one, and with a function that gives the
        new layer of an old one; returns the copy of that model, for instance by ``reconnected``,
        or None for a copy whose layers are connected as they were.
    """
    made: dict[int, keras.layers.Layer] = {}
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def copied(part):
        copy = connect(part, once)
        if copy is None and not (isinstance(part, keras.Sequential) or has_losses(part)):
            # Keras' clone_model takes a call's constants through JSON, and layers refuse lists.
            copy = reconnected(part, once, {})
        if copy is None:
            with _copying(f"the model '{part.name}'"):
                copy = keras.models.clone_model(part, clone_function=once)
        _tell_what_is_lost(part, copy)
        return copy

    def once(layer):
        if id(layer) not in made:
            if isinstance(layer, keras.Model):
                made[id(layer)] = copied(layer)
            else:
                made[id(layer)] = new = change(layer)
                # The config of a user's own layer need not hold its name.
                new._name = unwrapped(new)._name = unwrapped(layer).name
                pairs.append((layer, new))
        return made[id(layer)]

    with model.distribute_strategy.scope():
        copy = copied(model)
        # Layer by layer: a layer in several models may be found in another of them first.
        for old, new in pairs:
            theirs = _own_variables(old)
            for name, variable in _own_variables(new).items():
                if name in theirs:
                    variable.assign(tf.cast(theirs[name], variable.dtype))
    return copy


_told: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def _tell_what_is_lost(model: keras.Model, copy: keras.Model) -> None:
    """Logs, once for each model, which methods of its class a plain copy of it has not."""
    own = set(type(model).__mro__) - set(keras.Sequential.__mro__)
    names = {name for kind in own for name in vars(kind) if name[0] != "_"}
    lost = sorted(names & set(dir(keras.Model)) - {"get_config", "from_config"})
    if lost and type(copy) is not type(model) and model not in _told:
        _told.add(model)
        log.warning(
            "%s: its copies are of class %s, without what %s has in %s",
            *(model.name, type(copy).__name__, type(model).__name__, some(lost)),
        )


class _Held(list):
    """One tensor, in the form in which a Keras node asks for it: however often it pops."""

    def pop(self):
        return self[0]


def has_losses(part: keras.Model) -> bool:
    """Whether there is an ``add_loss`` or ``add_metric`` on tensors of the model."""
    return min(part._nodes_by_depth) < 0


def reconnected(
    part: keras.Model,
    once: Callable,
    calls: dict[int, Callable[[Callable, Callable], Any]],
    inputs: Sequence[Any] | None = None,
) -> keras.Model:
    """The functional copy of a model in which some calls of layers are made otherwise.

    Args:
      part: the model, without the models nested in it, which are called as they are.
      once: old layer → new layer.
      calls: id of a node of ``part`` → function of ``run``, which calls the new layer in that
        place and returns its output, and of ``tensor``, which gives the new tensor of an old one;
        returns what the copy has in the place of the node's output.
      inputs: the copy's input tensors, as ``part.inputs``; default: new ones like them.

    Raises:
      UsageError: if the model has losses or metrics of its own (``add_loss``), which such a copy
        would lose.
    """
    if has_losses(part):
        raise UsageError(
            f"Expected a model without add_loss and add_metric on its tensors; '{part.name}' has "
            "some: put them into a layer's call."
        )
    if inputs is None:
        layers = part._input_layers
        inputs = [keras.layers.InputLayer(**layer.get_config()).output for layer in layers]
    pairs = zip(part.inputs, inputs, strict=True)
    held = {str(id(old)): _Held([new]) for old, new in pairs}

    def tensor(old):
        return held[str(id(old))][0]

    def run(node):
        args, kwargs = node.map_arguments(held)
        layer = once(node.layer)
        with _copying(_called(node.layer)):
            return layer(*args, **kwargs)

    for node in _calls_in(part):
        outputs = calls[id(node)](partial(run, node), tensor) if id(node) in calls else run(node)
        pairs = zip(tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True)
        held.update({str(id(old)): _Held([new]) for old, new in pairs})
    ends = (tf.nest.map_structure(tensor, each) for each in (part.input, part.output))
    # As Keras' own clone_model: a subclass with an __init__ of its own comes back plain.
    kind = type(part) if has_functional_like_constructor(type(part)) else keras.Model
    return kind(*ends, name=part.name)


def nodes(model: keras.Model) -> Iterator[tuple[keras.Model, Any]]:
    """Each call of a layer in a model and in those nested in it, as (the model, Keras' node)."""
    for part in _nested(model):
        yield from ((part, node) for node in _calls_in(part))


def _calls_in(part: keras.Model) -> Iterator[Any]:
    """Keras' nodes of one model in the order of computation, without the inputs'."""
    for depth in sorted(part._nodes_by_depth, reverse=True):
        yield from (node for node in part._nodes_by_depth[depth] if not node.is_input)


def layer_paths(model: keras.Model) -> list[str]:
    """The path of the layer at each place, nested models opened; a shared layer comes again."""
    paths = {id(layer): path for path, layer in named_layers(model).items()}
    return [paths[id(layer)] for layer in _places(model)]


def _places(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _places(layer)
        else:
            yield layer


def with_paths(model: keras.Model, paths: list[str]) -> keras.Model:
    """A copy of ``model``, with new initial weights, whose ``layer_paths`` are ``paths``.

    Layers are named so, and those at places of the same path become one.
    """
    wanted = {id(layer): path for layer, path in zip(_places(model), paths, strict=True)}
    made: dict[str, keras.layers.Layer] = {}

    def change(layer):
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=change)
        path = wanted[id(layer)]
        if path not in made:
            made[path] = copy_layer(layer)
            made[path]._name = path.rpartition("/")[2]
        return made[path]

    return keras.models.clone_model(model, clone_function=change)


def assign(model: keras.Model, values: dict) -> None:
    """Sets the model's variables by name.

    Args:
      model: the model; it may be wrapped.
      values: name → array, for all of ``named_variables(model)``.

    Raises:
      UsageError: if names or shapes are not the model's; nothing is assigned then.
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
        if tuple(variable.shape) != values[name].shape:
            raise UsageError(
                f"Expected shape {tuple(variable.shape)} for {name} of the model '{model.name}', "
                f"got {values[name].shape}. The values belong to another model."
            )
    for name, variable in variables.items():
        variable.assign(values[name])


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer in a model's graph; a shared layer has several."""

    path: str
    layer: keras.layers.Layer
    before: list["Call"]
    after: list["Call"] = dataclasses.field(default_factory=list)
    node: Any = None  # Keras' own record of it, with the shapes; a model's input has none


def calls(model: keras.Model) -> tuple[list[Call], list[Call]]:
    """The model's layer calls from the inputs on, and those that make its outputs.

    Nested models are opened: the graph is that of the layers. The model's inputs are calls too,
    of InputLayers and not in the first list: their ``before`` is empty.
    """
    paths = {id(layer): path for path, layer in named_layers(model).items()}
    found: list[Call] = []

    def walk(part: keras.Model, makers: list[list[Call]]) -> list[list[Call]]:
        """Walks one model whose inputs are made by ``makers``; returns its outputs' makers."""
        made = {id(tensor): maker for tensor, maker in zip(part.inputs, makers, strict=True)}
        for node in _calls_in(part):
            sources = [made[id(t)] for t in tf.nest.flatten(node.keras_inputs)]
            outputs = tf.nest.flatten(node.outputs)
            if isinstance(node.layer, keras.Model):
                results = walk(node.layer, sources)
            else:
                before = list(dict.fromkeys(c for source in sources for c in source))
                call = Call(paths[id(node.layer)], node.layer, before, node=node)
                for earlier in before:
                    earlier.after.append(call)
                found.append(call)
                results = [[call]] * len(outputs)
            made |= {id(t): maker for t, maker in zip(outputs, results, strict=True)}
        return [made[id(tensor)] for tensor in part.outputs]

    outputs = walk(model, [[Call(layer.name, layer, [])] for layer in model._input_layers])
    return found, list(dict.fromkeys(call for makers in outputs for call in makers))
