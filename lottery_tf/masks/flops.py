"""How much a network computes: the multiply-adds of its kernels.

A weight of a kernel takes part in one multiply-add at each position of its layer's images or
sequences, so that what is left of the kernel costs

    FLOPs = 2 · positions · kept weights

A multiply-add is two floating-point operations.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import arguments_of, both, inputs_of, keras, outputs_of
from lottery_tf.graph.layers import Call, calls, check_graph, unwrapped, variable_names
from lottery_tf.graph.parts import at
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import ATTENTION, CONVOLUTIONAL_RECURRENT, LOCAL, kernel_attributes

Shape: TypeAlias = tuple[Any, ...]  # of numbers, and None for an open size

TRANSPOSED = both("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


def count_flops(model: keras.Model, masks: Masks | None = None) -> dict[str, int]:
    """FLOPs of each kernel for one example, those of pruned weights left out.

    Counted are convolutions (transposed, separable, depthwise and locally connected ones too),
    Dense and EinsumDense, the kernels of recurrent layers at each step and the projections of
    attention, in nested models too, within Bidirectional and TimeDistributed, and at each call of a
    shared layer. A row of an Embedding is looked up: 0. Padding counts as any input, as it does in
    TensorFlow's profiler, and so do steps that a mask leaves out. Biases, normalisation,
    activations, pooling, products of two activations (attention's scores, gates), and the weights
    of other layers (those that hold other layers, a user's own) are not counted.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, name="conv")])
    >>> count_flops(model)  # 2 x 2 positions, 18 weights
    {'conv/kernel': 144}

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3, wrapped or not; a wrapper's
        masks do not matter.
      masks: name of a weight → mask. Default: nothing is pruned.

    Returns:
      name of the kernel → FLOPs, in the order of computation.

    Raises:
      UsageError: if the model has no graph of layers, or leaves the size of an input open.
    """
    check_graph(model)
    names = variable_names(model)
    found: dict[str, int] = {}
    for call in calls(model)[0]:
        layer = unwrapped(call.layer)
        for attribute in kernel_attributes(layer):
            kernel = at(layer, attribute)
            name = names[id(kernel)]
            mask = None if masks is None else masks.get(name)
            kept = math.prod(kernel.shape) if mask is None else int(np.count_nonzero(mask))
            lookup = attribute.endswith("embeddings")
            each = 0 if lookup else 2 * _positions(call, attribute) * kept
            found[name] = found.get(name, 0) + each
    return found


def _positions(call: Call, path: str) -> int:
    """How often each weight of a kernel of the called layer takes part, for one example."""
    layer = unwrapped(call.layer)
    inputs, outputs = (
        tuple(tensors[0].shape) for tensors in (inputs_of(call.node), outputs_of(call.node))
    )
    *parts, _ = path.split("/")
    if isinstance(layer, ATTENTION):
        inputs = _given_to_attention(call, at(layer, "/".join(parts)).name)
    axes, shared = _axes(layer, parts, inputs, outputs, call.path)
    if None in axes:
        raise UsageError(
            f"Expected a model of inputs of a fixed size, whose FLOPs can be counted; "
            f"'{call.path}' reads {inputs}: give keras.Input all sizes but the batch's."
        )
    return math.prod(axes) // shared


def _given_to_attention(call: Call, name: str) -> Shape:
    """The shape of what an attention layer hands to its projection of that name."""
    args, kwargs = arguments_of(call.node)
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    named = given.get(name, given.get("value")) if name in ("key", "value") else None
    return tuple((given["query"] if named is None else named).shape)


def _axes(
    layer: keras.layers.Layer, parts: list[str], inputs: Shape, outputs: Shape, path: str
) -> tuple[Shape, int]:
    """The sizes whose product, divided by a number, says how often a weight takes part.

    Args:
      layer: a layer, or one within the called layer.
      parts: the way from it to the layer that holds the kernel.
      inputs, outputs: the shapes of what it takes and gives.
      path: of the called layer, for the error.
    """
    if isinstance(layer, both("Bidirectional")):
        return _axes(at(layer, parts[0]), parts[1:], inputs, outputs, path)
    if isinstance(layer, both("TimeDistributed")):
        taken, given = (shape[:1] + shape[2:] for shape in (inputs, outputs))
        axes, shared = _axes(at(layer, parts[0]), parts[1:], taken, given, path)
        return (inputs[1], *axes), shared
    if isinstance(layer, both("RNN")):
        steps = inputs[0 if getattr(layer, "time_major", False) else 1]
        if not isinstance(layer, CONVOLUTIONAL_RECURRENT):
            return (steps,), 1  # at each step, for each of several cells
        images = outputs[2:] if layer.return_sequences else outputs[1:]
        return (steps, *(images[1:] if _channels_first(layer.cell) else images[:-1])), 1
    if isinstance(layer, ATTENTION):
        return inputs[1:-1], 1
    if isinstance(layer, both("EinsumDense")):
        # Along axes that the input has in common with the kernel each weight meets one value.
        labels, kernel = layer.equation.partition("->")[0].split(",")
        sizes = zip(kernel, layer.kernel.shape, strict=True)
        return inputs[1:], math.prod(size for label, size in sizes if label in labels)
    if isinstance(layer, both("Dense")):
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
