"""Weights that several places of a model share, which a copy would separate.

A copy is made layer by layer. A weight that two layers hold would become two weights. If a layer
uses a weight without holding it, its copy would still use the original model's.
"""

import contextlib
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    called_again,
    given_to,
    inner_variable,
    inputs_of,
    is_layer,
    is_model,
    is_variable,
    keras,
    layer_classes,
    layer_of,
    on_tensorflow,
    parts_of,
    read_in,
    spec_of,
    takes,
)
from lottery_tf.graph.layers import named_layers, nodes, unwrapped

_Layer: TypeAlias = keras.layers.Layer
_KNOWN = (
    *("tf_keras", "keras", "tensorflow", "lottery_tf", "numpy", "builtins", "collections"),
    *("_thread", "threading", "weakref", "functools", "inspect"),
)
# Layers known to use only their own weights, so that copies of copies are not checked again.
_passed: weakref.WeakSet[_Layer] = weakref.WeakSet()


def check_untied(model: keras.Model, copy: Callable[[_Layer], _Layer]) -> None:
    """Raises UsageError if two layers hold one weight, or one uses a weight that it does not hold.

    The second is checked where it is possible: in Lambda layers, in the user's own layers and
    functions, and in operations on the model's tensors.

    Args:
      model: a Sequential or functional model; it is left as it is.
      copy: layer → a new one of the same configuration, which is called instead.
    """
    holders: dict[int, str] = {}
    for path, layer in named_layers(model).items():
        for variable in _weights(layer):
            other = holders.setdefault(id(variable), path)
            if other != path:
                _refuse(model, path, variable, f"which '{other}' holds too")
        holders |= dict.fromkeys(_ids(layer), path)
    for _, node in nodes(model):
        layer = unwrapped(layer_of(node))
        if is_model(layer):
            continue  # a nested model's calls are among the nodes
        own = _ids(layer) if is_layer(layer) else set()  # a function holds no weights
        read = _read(node, copy) if is_layer(layer) else []
        for variable in (*given_to(node), *read):
            owner = holders.get(id(variable))
            # A variable that no layer holds and nothing trains (a generator's) may be shared.
            if id(variable) not in own and (owner or variable.trainable):
                whose = f"which '{owner}' holds" if owner else "which no layer of it holds"
                _refuse(model, layer.name, variable, whose)
        if is_layer(layer):
            _passed.add(layer)


def pass_on(layer: _Layer, copy: _Layer) -> None:
    """Notes that a copy passes ``check_untied`` if its layer has passed."""
    if unwrapped(layer) in _passed:
        _passed.add(unwrapped(copy))


def _refuse(model: keras.Model, path: str, variable: tf.Variable, whose: str) -> None:
    raise UsageError(
        f"Expected layers with weights of their own; '{path}' of the model '{model.name}' uses "
        f"{variable.name.partition(':')[0]}, {whose}. Copies of the model would not share it: "
        "call one layer in both places, or give each its own weights."
    )


def _weights(layer: _Layer) -> list[tf.Variable]:
    return [each for each in layer.weights if is_variable(each)]


def _ids(layer: _Layer) -> set[int]:
    """ids of the layer's variables and of those inside them (replicas, mixed precision)."""
    found, rest = set(), _weights(layer)
    while rest:
        variable = rest.pop()
        found.add(id(variable))
        replicas = getattr(variable, "values", ())
        rest += replicas if isinstance(replicas, tuple) else ()  # torch: a method of that name
        inner = inner_variable(variable)
        rest += [] if inner is None else [inner]
    return found


def _read(node: Any, copy: Callable[[_Layer], _Layer]) -> list[tf.Variable]:
    """The variables that a copy of the layer reads in this call and does not hold."""
    layer = unwrapped(layer_of(node))
    if layer in _passed or getattr(layer, "dynamic", False) or not _is_opaque(layer):
        return []
    created = set()

    def creator(make: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
        variable = make(**kwargs)
        created.add(id(variable))
        return variable

    def call(training: Any, *tensors: Any) -> Any:
        pairs = zip(inputs_of(node), tensors, strict=True)
        given = {id(old): tensor for old, tensor in pairs}
        more = {"training": True} if training and takes(new)["training"] else {}

        def again(*args: Any, **kwargs: Any) -> Any:
            return new(*args, **{**kwargs, **more})

        outputs = called_again(node, again, lambda old: given[id(old)]), new.losses
        for weight in new.trainable_weights:
            if weight.constraint is not None:
                weight.constraint(weight)
        return outputs

    if not (isinstance(layer, keras.layers.Layer) or on_tensorflow(layer)):
        new = copy(layer)
        seen = read_in(lambda *tensors: call(False, *tensors), inputs_of(node))
        return [variable for variable in seen if id(variable) not in _ids(new)]
    specs = [spec_of(tensor) for tensor in inputs_of(node)]
    found: list[tf.Variable] = []
    with tf.variable_creator_scope(creator):
        new = copy(layer)
        for training in (False, True):
            # Errors of the layer's own code are raised when the copy itself is called.
            with contextlib.suppress(Exception):
                traced = tf.function(call, autograph=False).get_concrete_function(training, *specs)
                found += traced.graph.variables
    return [variable for variable in found if id(variable) not in created | _ids(new)]


def _is_opaque(layer: _Layer) -> bool:
    """Whether a layer runs code that is not Keras' own."""
    return any(map(_has_own_code, parts_of(layer)))


def _has_own_code(part: _Layer) -> bool:
    if isinstance(part, layer_classes("Lambda")):
        return True
    return any(is_foreign(each) for each in (part, *vars(part).values()))


def is_foreign(thing: Any) -> bool:
    """Whether a function, or the class of an object, is a user's own."""
    kind = thing if isinstance(thing, FunctionType) else type(thing)
    return str(kind.__module__).partition(".")[0] not in _KNOWN
