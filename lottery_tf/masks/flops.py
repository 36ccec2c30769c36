"""How much a network computes: the multiply-adds of its kernels.

A weight of a kernel takes part in one multiply-add at each position of its layer's images or
sequences, so that what is left of the kernel costs

    FLOPs = 2 · positions · kept weights

A multiply-add is two floating-point operations.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import both, inputs_of, keras, outputs_of
from lottery_tf.graph.layers import (
    Call,
    calls,
    check_graph,
    input_names,
    unwrapped,
    variable_names,
)
from lottery_tf.graph.sized_calls import calls_at
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import kernel_attributes

TRANSPOSED = both("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


# The size that ImageNet's networks are compared at, in the place of one that is left open.
OPEN_SIZE = 224


def count_flops(
    model: keras.Model,
    masks: Masks | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    """FLOPs of each kernel for one example, those of pruned weights left out.

    Counted are convolutions (transposed, separable and depthwise ones too), Dense and
    EinsumDense, in nested models too and at each call of a shared layer. Padding counts as any
    input, as it does in TensorFlow's profiler. Biases, normalisation, activations, pooling,
    products of two activations (attention), and the weights of other layers (recurrent ones,
    layers that hold other layers, a user's own) are not counted.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, name="conv")])
    >>> count_flops(model)  # 2 x 2 positions, 18 weights
    {'conv/kernel': 144}

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3, wrapped or not; a wrapper's
        masks do not matter.
      masks: name of a weight → mask. Default: nothing is pruned.
      input_shape: the shape of an example, as in ``keras.Input``, or name of an input → its shape.
        Default: the model's own; what that leaves open is taken to be of size 224, of which a line
        is logged.

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
            kernel = getattr(layer, attribute)
            name = names[id(kernel)]
            mask = None if masks is None else masks.get(name)
            kept = math.prod(kernel.shape) if mask is None else int(np.count_nonzero(mask))
            found[name] = found.get(name, 0) + 2 * _positions(call) * kept
    return found


def _calls(
    model: keras.Model, given: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> list[Call]:
    """The calls of the layers at the sizes that are ``given``, or that the model has."""
    found = calls(model)[0]
    counted = [call for call in found if kernel_attributes(unwrapped(call.layer))]
    if given is None and all(None not in _axes(call)[0] for call in counted):
        return found  # a size that is open need not matter
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
            "%s: FLOPs are counted at the shape %s of %s, whose size is open; count_flops takes an "
            "input_shape.",
            *(model.name, ", ".join(str(shapes[name]) for name in opened), some(opened)),
        )
    return calls_at(model, list(shapes.values()))


def _positions(call: Call) -> int:
    """How often each weight of the called layer's kernels takes part, for one example."""
    axes, shared = _axes(call)
    sizes = [size for size in axes if size is not None]
    if len(sizes) < len(axes):
        raise UsageError(
            f"Expected layers whose FLOPs can be counted at the inputs' size; '{call.path}' is "
            "called at one that hangs on more than that."
        )
    return math.prod(sizes) // shared


def _axes(call: Call) -> tuple[tuple[int | None, ...], int]:
    """The sizes of the axes at each place of which a weight takes part, and of how many of these
    places it meets one alone."""
    layer = unwrapped(call.layer)
    inputs, outputs = (
        tuple(tensors[0].shape) for tensors in (inputs_of(call.node), outputs_of(call.node))
    )
    shared = 1
    if isinstance(layer, both("EinsumDense")):
        # Along axes that the input has in common with the kernel each weight meets one value.
        labels, kernel = layer.equation.partition("->")[0].split(",")
        sizes = zip(kernel, layer.kernel.shape, strict=True)
        axes, shared = inputs[1:], math.prod(size for label, size in sizes if label in labels)
    elif isinstance(layer, both("Dense")):
        axes = inputs[1:-1]
    elif not hasattr(layer, "data_format"):
        raise UsageError(
            f"Expected kinds of layers whose FLOPs are known; '{call.path}' is a "
            f"{type(layer).__name__}: leave its weights dense."
        )
    else:
        # A transposed convolution spreads each input over its kernel.
        images = inputs if isinstance(layer, TRANSPOSED) else outputs
        axes = images[2:] if layer.data_format == "channels_first" else images[1:-1]
    return axes, shared
