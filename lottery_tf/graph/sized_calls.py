"""The calls of a model's layers for given sizes of its inputs, if the model leaves them open."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    call_of,
    called_again,
    calls_in,
    inputs_of,
    is_layer,
    is_model,
    keras,
    keras_of,
    layer_of,
    operation_like,
    outputs_of,
    random_state_kept,
    spec_of,
)
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.layers import Call, named_layers, unwrapped


def calls_at(model: keras.Model, shapes: Sequence[tuple[int | None, ...]]) -> list[Call]:
    """The calls of the layers of ``model``, with nodes that have the shapes for these inputs.

    Copies of the layers are called; nested models are gone through at each of their calls. The
    model stays as it is.

    Args:
      model: a Sequential or functional model; it may be wrapped.
      shapes: the shapes of ``model.inputs``, without the batch.

    Raises:
      UsageError: if the layers cannot be called with these shapes.
    """
    paths = {id(layer): path for path, layer in named_layers(model).items()}
    made: dict[int, Any] = {}
    found: list[Call] = []

    def copy_of(layer: Any) -> Any:
        if id(layer) not in made:
            known = is_layer(layer)
            made[id(layer)] = copy_layer(unwrapped(layer)) if known else operation_like(layer)
        return made[id(layer)]

    def walk(part: keras.Model, tensors: Sequence[Any]) -> list[Any]:
        held = {id(old): new for old, new in zip(part.inputs, tensors, strict=True)}

        def new(old: Any) -> Any:
            return held[id(old)]

        for node in calls_in(part):
            layer = layer_of(node)
            if is_model(layer):
                outputs = walk(layer, [new(each) for each in inputs_of(node)])
            else:
                outputs = tf.nest.flatten(called_again(node, copy_of(layer), new))
                path = paths[id(layer)] if is_layer(layer) else layer.name
                found.append(Call(path, layer, [], node=call_of(outputs[0])))
            held |= {id(o): n for o, n in zip(outputs_of(node), outputs, strict=True)}
        return [new(each) for each in part.outputs]

    of = keras_of(model)
    with random_state_kept():  # a copy draws initial values
        dtypes = [spec_of(each).dtype for each in model.inputs]
        pairs = zip(shapes, dtypes, strict=True)
        inputs = [of.Input(shape, dtype=tf.as_dtype(dtype).name) for shape, dtype in pairs]
        try:
            walk(model, inputs)
        except UsageError:
            raise
        except Exception as error:  # layers raise different types for a wrong size
            raise UsageError(
                f"Expected a size that '{model.name}' can compute; for inputs of "
                f"{', '.join(map(str, shapes))} Keras says: {error}"
            ) from error
    return found
