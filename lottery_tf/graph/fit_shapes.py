"""Whether data fit a model, before anything is computed on them."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import one_of
from lottery_tf.graph.compat import (
    is_graph_network,
    is_keras3,
    is_model,
    keras,
    keras_of,
    on_tensorflow,
    spec_of,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import input_names


def make_ready(model: keras.Model, data: tf.data.Dataset, what: str) -> None:
    """Builds an unbuilt Sequential for batches, and refuses data whose inputs it cannot take.

    Args:
      what: the name of the data, for errors.

    Raises:
      UsageError: for single examples in place of batches, and for inputs of another shape, number,
        name or type than the model's, unless Keras takes them all the same.
    """
    if not is_model(model):
        return
    spec = data.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(model, keras_of(model).Sequential) and not is_graph_network(model):
        _build(model, inputs, what)
    if not is_graph_network(model):
        return  # check_graph will say what is wrong with it
    wanted = dict(zip(input_names(model), map(spec_of, model.inputs), strict=True))
    _check_batched(model, spec, inputs, wanted, what)
    given = _by_name(inputs, list(wanted))
    if given and all(_fits(given[name], whole) for name, whole in wanted.items()):
        return
    refusal = _refusal(model, inputs, given, wanted, what)
    if not given and not isinstance(inputs, Mapping):
        raise refusal  # Keras 3 would leave out those that are too many
    try:
        _call_with(model, inputs)
    except Exception as error:  # layers raise different types for wrong inputs
        raise refusal from error


def _check_batched(
    model: keras.Model, spec: Any, inputs: Any, wanted: Mapping[str, Any], what: str
) -> None:
    """Raises UsageError for single examples."""
    shapes = [tf.TensorShape(getattr(each, "shape", None)) for each in tf.nest.flatten(inputs)]
    wholes = [each.shape for each in wanted.values()]
    in_order = not isinstance(inputs, Mapping) and len(shapes) == len(wholes)
    known = in_order and all(each.rank is not None for each in (*shapes, *wholes))
    single = any(getattr(each, "shape", None) == [] for each in tf.nest.flatten(spec))
    if known and not single:
        pairs = list(zip(shapes, wholes, strict=True))
        single = all(_is_one_of(each, whole) for each, whole in pairs)
        single &= not all(_fits_shape(each, whole) for each, whole in pairs)
    if single:
        raise UsageError(
            f"Expected {what} as batches; they are single examples of shape {tuple(shapes[0])}, "
            f"but the model '{model.name}' takes {tuple(wholes[0])}: give {what}.batch(n)."
        )


def _is_one_of(shape: tf.TensorShape, whole: tf.TensorShape) -> bool:
    """Whether it is the shape of a single example. An unknown size is that of a batch, rather."""
    known = all(size or not wanted for size, wanted in zip(shape, whole[1:], strict=False))
    return known and shape.is_compatible_with(whole[1:])


def _by_name(inputs: Any, names: list[str]) -> dict[str, Any]:
    """The name of each of a model's inputs → its spec in the data; empty if they have others."""
    if isinstance(inputs, Mapping):
        return {name: inputs[name] for name in names} if names and {*names} <= {*inputs} else {}
    found = tf.nest.flatten(inputs)
    return dict(zip(names, found, strict=True)) if len(found) == len(names) else {}


def _fits(given: Any, wanted: Any) -> bool:
    """Whether inputs of the spec ``given`` surely fit an input of a model."""
    texts = [each.dtype == tf.string for each in (given, wanted) if hasattr(each, "dtype")]
    shape = tf.TensorShape(getattr(given, "shape", None))
    return len({*texts}) < 2 and _fits_shape(shape, tf.TensorShape(wanted.shape))


def _fits_shape(shape: tf.TensorShape, whole: tf.TensorShape) -> bool:
    """Whether Keras accepts ``shape`` for an input of shape ``whole``; it may add an axis of 1."""
    if None in (shape.rank, whole.rank):
        return True
    added = whole.rank == shape.rank + 1 and whole[-1] == 1 and shape.concatenate([1])
    return shape.is_compatible_with(whole) or bool(added and added.is_compatible_with(whole))


def _call_with(model: keras.Model, inputs: Any) -> None:
    """Calls the model: symbolically on TensorFlow, elsewhere with zeros, as ``fit`` calls it."""
    if on_tensorflow(model):
        tf.function(model).get_concrete_function(inputs)
        return
    if any(None in each.shape[1:] for each in tf.nest.flatten(inputs)):
        return  # the training will say
    zeros = tf.nest.map_structure(
        lambda each: keras3.ops.zeros((each.shape[0] or 1, *each.shape[1:]), each.dtype.name),
        inputs,
    )
    model(zeros, training=False)


def _refusal(
    model: keras.Model, inputs: Any, given: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> UsageError:
    """What is told of inputs that do not fit."""
    by_name = isinstance(inputs, Mapping) or len(wanted) > 1
    cure = "change the data, or the model's Input."
    if isinstance(inputs, Mapping) and not given:
        cure = "name them as the model's inputs."
    elif len(tf.nest.flatten(inputs)) != len(wanted):
        cure = "a tuple is (inputs, labels), a list is several inputs."
    return UsageError(
        f"Expected {what} whose inputs fit the model '{model.name}', which takes "
        f"{_described(wanted, by_name)}; theirs are {_described(given or inputs, by_name)}: {cure}"
    )


def _described(inputs: Any, by_name: bool) -> str:
    """The shapes and types of inputs in words, with their names if asked for."""
    named = inputs if isinstance(inputs, Mapping) else dict(enumerate(tf.nest.flatten(inputs)))

    def described(each: Any) -> str:
        known = getattr(each, "shape", None) is not None and each.shape.rank is not None
        shape = tuple(each.shape) if known else "of unknown shape"
        return f"{shape} {each.dtype.name}" if hasattr(each, "dtype") else f"{each}"

    parts = [
        f"'{name}' {described(each)}" if by_name and isinstance(name, str) else described(each)
        for name, each in named.items()
    ]
    return one_of(parts, "and") if parts else "none"


def _build(model: keras.Model, inputs: Any, what: str) -> None:
    found = tf.nest.flatten(inputs)
    shape = tf.TensorShape(getattr(found[0], "shape", None))
    if len(found) != 1 or not shape.rank or not shape[1:].is_fully_defined():
        return  # check_graph will say that it is not built
    try:
        if is_keras3(model):
            model.build((None, *shape[1:]))
        else:
            for examples in (1, 2):  # two batch sizes tell Keras that any size will do
                model(tf.zeros([examples, *shape[1:]], found[0].dtype))
    except Exception as error:  # its layers may raise anything
        raise UsageError(
            f"Expected {what} for which the Sequential '{model.name}' can be built; for inputs of "
            f"shape {tuple(shape)} Keras says: {error}"
        ) from error
