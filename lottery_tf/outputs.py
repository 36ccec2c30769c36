"""What a model's outputs are: logits, probabilities that add up to 1, or something else.

It is read from the layers that make them. What is not known is not guessed: a cross-entropy on
logits takes anything, and trains on probabilities by a softmax of them.
"""

import enum

import tensorflow as tf

from lottery_tf.graph import Call, calls
from lottery_tf.keras import keras

_layers, _activations = keras.layers, keras.activations
_SOFTMAX = (_activations.softmax, tf.nn.softmax, keras.backend.softmax)
_LINEAR = (None, _activations.linear, tf.identity)
# The logarithms of probabilities are logits of them: softmax(log p) = p.
_LOG_SOFTMAX = (tf.nn.log_softmax, tf.math.log_softmax)
# What gives any real number, whatever comes in.
_KERNELS = (
    *(_layers.Dense, _layers.EinsumDense, _layers.Embedding),
    *(_layers.Conv1D, _layers.Conv2D, _layers.Conv3D),
    *(_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose),
    *(_layers.SeparableConv1D, _layers.SeparableConv2D),
    *(_layers.DepthwiseConv1D, _layers.DepthwiseConv2D),
    *(_layers.LocallyConnected1D, _layers.LocallyConnected2D),
)
_NORMALISATIONS = (
    *(_layers.BatchNormalization, _layers.LayerNormalization, _layers.GroupNormalization),
)
_MATRIX = ("linalg.matmul", "einsum", "nn.log_softmax", "math.log_softmax", "tensordot")
# What leaves logits logits, and probabilities probabilities.
_SAME = (
    *(_layers.Reshape, _layers.Flatten, _layers.Dropout, _layers.SpatialDropout1D),
    *(_layers.SpatialDropout2D, _layers.ActivityRegularization, _layers.Average, _layers.Masking),
    *(_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D),
    *(_layers.AveragePooling1D, _layers.AveragePooling2D),
    *(_layers.UpSampling1D, _layers.UpSampling2D, _layers.Cropping1D, _layers.Cropping2D),
)
_SAME_FUNCTIONS = ("cast", "identity", "reshape", "stop_gradient", "clip_by_value", "ensure_shape")
_SAME_FUNCTIONS += ("compat.v1.squeeze", "squeeze", "expand_dims", "debugging.check_numerics")
# What leaves logits logits, if only one of its inputs is that.
_SUMS = (_layers.Add, _layers.Subtract, _layers.Multiply)
_SUM_FUNCTIONS = (
    *(f"math.{name}" for name in ("add", "subtract", "multiply", "truediv", "divide", "negative")),
    *("__operators__.add", "nn.bias_add", "math.scalar_mul", "math.add_n"),
)


class Outputs(enum.Enum):
    """What the last axis of an output holds."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    UNKNOWN = "neither logits nor a softmax that is known"


def outputs_of(model: keras.Model) -> dict[str, Outputs]:
    """Name of each layer that makes outputs of the model → what they are."""
    return {call.path: _made_by(call) for call in calls(model)[1]}


def _made_by(call: Call) -> Outputs:
    """What a layer's call gives."""
    layer = call.layer
    while isinstance(layer, _layers.Wrapper) and not isinstance(layer, _layers.Bidirectional):
        layer = layer.layer  # a pruning wrapper, TimeDistributed
    if not type(layer).call.__module__.startswith("tf_keras."):
        return Outputs.UNKNOWN  # the user's own
    symbol, activation = getattr(layer, "symbol", None), getattr(layer, "activation", None)
    fused = activation if isinstance(activation, _layers.Layer) else None
    if isinstance(layer, _layers.Softmax) or isinstance(fused, _layers.Softmax):
        axis = (fused or layer).axis
        last = axis in (-1, len(call.node.output_shapes) - 1)
        return Outputs.PROBABILITIES if last else Outputs.UNKNOWN
    if symbol == "nn.softmax" or activation in _SOFTMAX:
        return Outputs.PROBABILITIES
    if symbol in _MATRIX or activation in _LOG_SOFTMAX:
        return Outputs.LOGITS
    if isinstance(layer, _NORMALISATIONS):
        return Outputs.LOGITS
    if isinstance(layer, _KERNELS) and activation in _LINEAR:
        return Outputs.LOGITS
    before = {_made_by(each) for each in call.before}
    linear = type(layer) is _layers.Activation and activation in _LINEAR
    if linear or isinstance(layer, _SAME) or symbol in _SAME_FUNCTIONS:
        if before == {Outputs.PROBABILITIES} and _classes_of(call, "in") != _classes_of(
            call, "out"
        ):
            return Outputs.UNKNOWN  # they no longer add up to 1
        return before.pop() if len(before) == 1 else Outputs.UNKNOWN
    if isinstance(layer, _SUMS) or symbol in _SUM_FUNCTIONS:
        return Outputs.LOGITS if Outputs.LOGITS in before else Outputs.UNKNOWN
    if isinstance(layer, _layers.Concatenate) or symbol == "concat":
        return Outputs.LOGITS if before == {Outputs.LOGITS} else Outputs.UNKNOWN
    return Outputs.UNKNOWN


def _classes_of(call: Call, side: str) -> set[int | None]:
    """The last dimensions of what a call takes, or of what it gives."""
    tensors = call.node.keras_inputs if side == "in" else tf.nest.flatten(call.node.outputs)
    return {tensor.shape[-1] for tensor in tensors}
