"""How much a network computes: the multiply-adds of its kernels.

A weight of a kernel takes part in one multiply-add at each position of its layer's images or
sequences, so that what is left of the kernel costs

    FLOPs = 2 · positions · kept weights

A multiply-add is two floating-point operations.
"""

import math

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import both, inputs_of, keras, outputs_of
from lottery_tf.graph.layers import Call, calls, check_graph, unwrapped, variable_names
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import kernel_attributes

TRANSPOSED = both("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


def count_flops(model: keras.Model, masks: Masks | None = None) -> dict[str, int]:
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
            kernel = getattr(layer, attribute)
            name = names[id(kernel)]
            mask = None if masks is None else masks.get(name)
            kept = math.prod(kernel.shape) if mask is None else int(np.count_nonzero(mask))
            found[name] = found.get(name, 0) + 2 * _positions(call) * kept
    return found


def _positions(call: Call) -> int:
    """How often each weight of the called layer's kernels takes part, for one example."""
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
    if None in axes:
        raise UsageError(
            f"Expected a model of inputs of a fixed size, whose FLOPs can be counted; "
            f"'{call.path}' reads {inputs}: give keras.Input all sizes but the batch's."
        )
    return math.prod(axes) // shared
