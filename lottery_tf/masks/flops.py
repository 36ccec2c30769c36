"""How much a network computes: the multiply-adds of its kernels.

A kernel's weight takes part in one multiply-add at each position of its layer's images or
sequences. So the kept weights of the kernel cost

    FLOPs = 2 · positions · kept weights

A multiply-add is two floating-point operations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import arguments_of, inputs_of, keras, layer_classes, outputs_of
from lottery_tf.graph.layers import (
    Call,
    calls,
    check_graph,
    input_names,
    unwrapped,
    variable_names,
)
from lottery_tf.graph.parts import at
from lottery_tf.graph.sized_calls import calls_at
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import (
    ATTENTION,
    CONVOLUTIONAL_RECURRENT,
    LOCAL,
    TRANSPOSED,
    kernel_attributes,
)

Shape: TypeAlias = tuple[Any, ...]  # numbers; None for an open size

# Used for an open size: networks for ImageNet are compared at it.
OPEN_SIZE = 224


def count_flops(
    model: keras.Model,
    masks: Masks | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    """FLOPs of each kernel for one example, those of pruned weights left out.

    Counted are convolutions of all kinds (also transposed, separable, depthwise and locally
    connected ones), Dense, EinsumDense, the projections of attention, and recurrent layers at each
    step. They are also counted in nested models, within Bidirectional and TimeDistributed, and at
    each call of a shared layer. An Embedding has 0 FLOPs, as it looks its rows up. Padding counts
    as any input, as in TensorFlow's profiler, and so do steps that a mask leaves out.

    Not counted are biases, normalisation, activations, pooling, and products of two activations
    (attention's scores, gates). Other layers (a user's own, and those that hold layers) are not
    counted either.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, name="conv")])
    >>> count_flops(model)  # 2 x 2 positions, 18 weights
    {'conv/kernel': 144}

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3, wrapped or not. Masks of its
        wrappers are ignored.
      masks: name of a weight → mask. Default: nothing is pruned.
      input_shape: the shape of an example, as in ``keras.Input``, or name of an input → its shape.
        Default: the model's own, with 224 for each open size; a line is logged if that matters.

    Returns:
      name of the kernel → FLOPs, in the order of computation.

    Raises:
      UsageError: if the model has no graph of layers, or does not compute at that size.
    """
    check_graph(model)
    names = variable_names(model)
    found: dict[str, int] = {}
    for call in _calls(model, input_shape):
        layer = unwrapped(call.layer)
        for attribute in kernel_attributes(layer):
            kernel = at(layer, attribute)
            name = names[id(kernel)]
            mask = None if masks is None else masks.get(name)
            kept = math.prod(kernel.shape) if mask is None else int(np.count_nonzero(mask))
            found[name] = found.get(name, 0) + 2 * _positions(call, attribute) * kept
    return found


def _calls(
    model: keras.Model, given: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> list[Call]:
    """The calls of the layers at the sizes that are ``given``, or that the model has."""
    found = calls(model)[0]
    kernels = ((call, path) for call in found for path in kernel_attributes(unwrapped(call.layer)))
    if given is None and all(None not in _axes_of(call, path)[0] for call, path in kernels):
        return found  # an open size may not matter
    own = dict(
        zip(input_names(model), (tuple(each.shape[1:]) for each in model.inputs), strict=True)
    )
    if given is not None and not isinstance(given, Mapping):
        given = dict.fromkeys(own, given)
    wanted = {name: tuple(shape) for name, shape in (given or {}).items()}
    fits = wanted.keys() <= own.keys() and all(
        tf.TensorShape(own[name]).is_compatible_with(shape) for name, shape in wanted.items()
    )
    if not fits:
        raise UsageError(
            f"Expected shapes of the inputs of '{model.name}', {own}, without the batch; got "
            f"{given}."
        )
    shapes = own | wanted
    if opened := [name for name, shape in shapes.items() if None in shape]:
        shapes = {n: tuple(OPEN_SIZE if s is None else s for s in e) for n, e in shapes.items()}
        log.info(
            "%s: FLOPs are counted at the shape %s of %s, which has an open size; count_flops "
            "takes an input_shape.",
            *(model.name, ", ".join(str(shapes[name]) for name in opened), some(opened)),
        )
    return calls_at(model, list(shapes.values()))


def _positions(call: Call, path: str) -> int:
    """How often each weight of a kernel of the called layer takes part, for one example."""
    axes, shared = _axes_of(call, path)
    sizes = [size for size in axes if size is not None]
    if len(sizes) < len(axes):
        raise UsageError(
            f"Expected layers whose FLOPs follow from the inputs' size; '{call.path}' has a size "
            "that depends on more than that."
        )
    return math.prod(sizes) // shared


def _axes_of(call: Call, path: str) -> tuple[Shape, int]:
    """The sizes of the axes along which a kernel's weight is used, and a divisor.

    The product of the sizes divided by the divisor says how often a weight takes part."""
    layer = unwrapped(call.layer)
    inputs, outputs = (
        tuple(tensors[0].shape) for tensors in (inputs_of(call.node), outputs_of(call.node))
    )
    *parts, _ = path.split("/")
    if isinstance(layer, ATTENTION):
        inputs = _given_to_attention(call, at(layer, "/".join(parts)).name)
    return _axes(layer, parts, inputs, outputs, call.path)


def _given_to_attention(call: Call, name: str) -> Shape:
    """The shape of the input of an attention layer's projection of that name."""
    args, kwargs = arguments_of(call.node)
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    named = given.get(name, given.get("value")) if name in ("key", "value") else None
    return tuple((given["query"] if named is None else named).shape)


def _axes(
    layer: keras.layers.Layer, parts: list[str], inputs: Shape, outputs: Shape, path: str
) -> tuple[Shape, int]:
    """``_axes_of`` for a layer with these shapes.

    Args:
      layer: the called layer, or one within it.
      parts: the path from ``layer`` to the layer that holds the kernel.
      inputs, outputs: the shapes of its inputs and outputs.
      path: the path of the called layer, for the error.
    """
    if isinstance(layer, layer_classes("Bidirectional")):
        return _axes(at(layer, parts[0]), parts[1:], inputs, outputs, path)
    if isinstance(layer, layer_classes("TimeDistributed")):
        taken, given = (shape[:1] + shape[2:] for shape in (inputs, outputs))
        axes, shared = _axes(at(layer, parts[0]), parts[1:], taken, given, path)
        return (inputs[1], *axes), shared
    if isinstance(layer, layer_classes("RNN")):
        steps = inputs[0 if getattr(layer, "time_major", False) else 1]
        if not isinstance(layer, CONVOLUTIONAL_RECURRENT):
            return (steps,), 1  # once a step, in each of several cells
        images = outputs[2:] if layer.return_sequences else outputs[1:]
        return (steps, *(images[1:] if _channels_first(layer.cell) else images[:-1])), 1
    if isinstance(layer, ATTENTION):
        return inputs[1:-1], 1
    if isinstance(layer, layer_classes("Embedding")):
        return (0,), 1  # rows are looked up
    if isinstance(layer, layer_classes("EinsumDense")):
        # Along axes that input and kernel share, each weight meets one value only.
        labels, kernel = layer.equation.partition("->")[0].split(",")
        sizes = zip(kernel, layer.kernel.shape, strict=True)
        return inputs[1:], math.prod(size for label, size in sizes if label in labels)
    if isinstance(layer, layer_classes("Dense")):
        return inputs[1:-1], 1
    if isinstance(layer, LOCAL):
        return (), 1
    if not hasattr(layer, "data_format"):
        raise UsageError(
            f"Expected kinds of layers whose FLOPs are known; '{path}' is a "
            f"{type(layer).__name__}: leave its weights dense."
        )
    # A transposed convolution spreads each input over its kernel.
    images = inputs if isinstance(layer, TRANSPOSED) else outputs
    return (images[2:] if _channels_first(layer) else images[1:-1]), 1


def _channels_first(layer: keras.layers.Layer) -> bool:
    return layer.data_format == "channels_first"
