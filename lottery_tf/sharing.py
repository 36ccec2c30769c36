"""Weights that several places of a model use, which a copy would tear apart.

A copy is made layer by layer. A weight that two layers hold would become two, and one that a layer
uses without holding it would go on being that of the model given.
"""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import tensorflow as tf

from lottery_tf.errors import UsageError
from lottery_tf.graph import Held, named_layers, nodes, unwrapped
from lottery_tf.keras import keras

_KNOWN = ("tf_keras.", "keras.", "tensorflow.", "lottery_tf.")


def check_untied(model: keras.Model) -> None:
    """Raises UsageError if two layers hold one weight, or one uses a weight that it does not hold.

    The latter is looked for in what may do so: Lambda layers, layers and functions of the user's
    own, and operations on the model's tensors.
    """
    holders: dict[int, str] = {}
    for path, layer in named_layers(model).items():
        for variable in _weights(layer):
            other = holders.setdefault(id(variable), path)
            if other != path:
                _refuse(model, path, variable, f"which '{other}' holds too")
        holders |= dict.fromkeys(_ids(layer), path)
    for _, node in nodes(model):
        if isinstance(node.layer, keras.Model):
            continue  # its own calls are among the nodes
        own, path = _ids(node.layer), unwrapped(node.layer).name
        for variable in _used(node):
            if id(variable) not in own:
                owner = holders.get(id(variable))
                whose = f"which '{owner}' holds" if owner else "which no layer of it holds"
                _refuse(model, path, variable, whose)


def _refuse(model: keras.Model, path: str, variable: tf.Variable, whose: str) -> None:
    raise UsageError(
        f"Expected layers with weights of their own; '{path}' of the model '{model.name}' uses "
        f"{variable.name.partition(':')[0]}, {whose}, and copies of the model would not share it: "
        "call one layer in both places, or give each its own weights."
    )


def _weights(layer: keras.layers.Layer) -> list[tf.Variable]:
    return [each for each in layer.weights if isinstance(each, tf.Variable)]


def _ids(layer: keras.layers.Layer) -> set[int]:
    """Of the layer's variables and of what these are made of on several devices or in 16 bits."""
    found, rest = set(), _weights(layer)
    while rest:
        variable = rest.pop()
        found.add(id(variable))
        rest += [*getattr(variable, "values", ()), *_inner(variable)]
    return found


def _inner(variable: tf.Variable) -> list[tf.Variable]:
    inner = vars(variable).get("_variable")
    return [inner] if isinstance(inner, tf.Variable) else []


def _used(node: Any) -> Iterator[tf.Variable]:
    """The variables that one call of a layer takes or, where it is not known, reads."""
    arguments = tf.nest.flatten((node.call_args, node.call_kwargs))
    yield from (each for each in arguments if isinstance(each, tf.Variable))
    if not _is_opaque(unwrapped(node.layer)):
        return

    def call(*tensors):
        pairs = zip(node.keras_inputs, tensors, strict=True)
        held = {str(id(old)): Held(new) for old, new in pairs}
        args, kwargs = node.map_arguments(held)
        return node.layer(*args, **kwargs)

    specs = [tensor.type_spec for tensor in node.keras_inputs]
    yield from tf.function(call, autograph=False).get_concrete_function(*specs).graph.variables


def _is_opaque(layer: keras.layers.Layer) -> bool:
    """Whether a layer runs code that is not Keras' own."""
    for part in layer._flatten_layers():
        functions = [each for each in vars(part).values() if isinstance(each, FunctionType)]
        modules = [type(part).__module__, *(str(each.__module__) for each in functions)]
        if isinstance(part, keras.layers.Lambda) or not all(
            f"{module}.".startswith(_KNOWN) for module in modules
        ):
            return True
    return False
