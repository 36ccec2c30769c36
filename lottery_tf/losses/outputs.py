"""What a model's outputs are: logits, probabilities that add up to 1, or something else.

It is read from the layers that make them. What is not known is not guessed: a cross-entropy on
logits takes anything, and trains on probabilities by a softmax of them.
"""

import enum
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import inputs_of, keras
from lottery_tf.graph.layers import Call, calls

_layers, _activations = keras.layers, keras.activations
_SOFTMAX = (_activations.softmax, tf.nn.softmax, keras.backend.softmax)
_SIGMOIDS = (
    *(_activations.sigmoid, _activations.hard_sigmoid, tf.sigmoid, keras.backend.sigmoid),
    keras.backend.hard_sigmoid,
)
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
_PRODUCTS = ("linalg.matmul", "einsum", "tensordot")
# What leaves logits logits, and probabilities probabilities as long as there are as many.
_SAME = (
    *(_layers.Reshape, _layers.Flatten, _layers.RepeatVector, _layers.Average, _layers.Masking),
    *(_layers.Dropout, _layers.SpatialDropout1D, _layers.SpatialDropout2D, _layers.GaussianDropout),
    *(_layers.GaussianNoise, _layers.ActivityRegularization, _layers.Resizing),
    *(_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D),
    *(_layers.GlobalAveragePooling3D, _layers.AveragePooling1D, _layers.AveragePooling2D),
    *(_layers.UpSampling1D, _layers.UpSampling2D, _layers.Cropping1D, _layers.Cropping2D),
)
_SAME_FUNCTIONS = (
    *("cast", "identity", "reshape", "stop_gradient", "ensure_shape", "compat.v1.squeeze"),
    *(
        "squeeze",
        "expand_dims",
        "debugging.check_numerics",
        "__operators__.getitem",
        "image.resize",
    ),
    *("compat.v1.gather", "gather", "tile", "broadcast_to"),
)
# What leaves logits logits, if only one of its inputs is that and none is probabilities.
_SUMS = (
    *(_layers.Add, _layers.Subtract, _layers.Multiply, _layers.Maximum, _layers.Minimum),
    *(_layers.Rescaling, _layers.Permute, _layers.MaxPooling1D, _layers.MaxPooling2D),
    *(_layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D),
)
_SUM_FUNCTIONS = (
    *(f"math.{name}" for name in ("add", "subtract", "multiply", "truediv", "divide", "negative")),
    *(f"math.reduce_{name}" for name in ("mean", "sum", "max", "min")),
    *("math.maximum", "math.minimum", "math.add_n", "math.scalar_mul", "nn.bias_add", "stack"),
    *("__operators__.add", "compat.v1.transpose", "transpose"),
)


class Outputs(enum.Enum):
    """What the last axis of an output holds."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    SIGMOIDS = "a probability of each class on its own"
    UNKNOWN = "neither logits nor a softmax that is known"


def outputs_of(model: keras.Model) -> dict[str, Outputs]:
    """Name of each layer that makes outputs of the model → what they are."""
    return {call.path: _made_by(call) for call in calls(model)[1]}


def _made_by(call: Call) -> Outputs:
    """What a layer's call gives."""
    layer = call.layer
    while isinstance(layer, _layers.Wrapper) and not isinstance(layer, _layers.Bidirectional):
        layer = layer.layer  # a pruning wrapper, TimeDistributed
    if isinstance(layer, keras.Model):
        return _one_of(set(outputs_of(layer).values()))
    if not type(layer).call.__module__.startswith("tf_keras."):
        return Outputs.UNKNOWN  # the user's own
    symbol, activation = getattr(layer, "symbol", None), getattr(layer, "activation", None)
    softmax = next((x for x in (layer, activation) if isinstance(x, _layers.Softmax)), None)
    if softmax is not None or symbol == "nn.softmax":
        axis = _argument(call, 1, "axis", -1) if softmax is None else softmax.axis
        last = axis in (None, -1, len(call.node.output_shapes) - 1)
        return Outputs.PROBABILITIES if last else Outputs.UNKNOWN
    if activation in _SOFTMAX:
        return Outputs.PROBABILITIES
    if activation in _SIGMOIDS or symbol == "math.sigmoid":
        return Outputs.SIGMOIDS
    if activation in _LOG_SOFTMAX or symbol in ("nn.log_softmax", "math.log_softmax"):
        return Outputs.LOGITS
    if isinstance(layer, _NORMALISATIONS):
        return Outputs.LOGITS
    if isinstance(layer, _KERNELS) and activation in _LINEAR:
        return Outputs.LOGITS
    before = {_made_by(each) for each in call.before}
    linear = type(layer) is _layers.Activation and activation in _LINEAR
    if linear or isinstance(layer, _SAME) or symbol in _SAME_FUNCTIONS:
        split = _classes_of(call, "in") != _classes_of(call, "out")  # no longer adding up to 1
        return Outputs.UNKNOWN if split and before != {Outputs.LOGITS} else _one_of(before)
    if symbol == "clip_by_value":
        bounds = _argument(call, 1, "clip_value_min", 0), _argument(call, 2, "clip_value_max", 0)
        inside = all(isinstance(bound, int | float) and 0 <= bound <= 1 for bound in bounds)
        return Outputs.UNKNOWN if inside and before == {Outputs.LOGITS} else _one_of(before)
    if isinstance(layer, _layers.Concatenate) or symbol == "concat":
        return Outputs.LOGITS if before == {Outputs.LOGITS} else Outputs.UNKNOWN
    # A product with what is not of the model, a matrix of weights, gives any real numbers.
    with_weights = symbol in _PRODUCTS and len(inputs_of(call.node)) == 1
    sums = isinstance(layer, _SUMS) or symbol in (*_SUM_FUNCTIONS, *_PRODUCTS)
    if not before & {Outputs.PROBABILITIES} and (
        with_weights or (sums and Outputs.LOGITS in before)
    ):
        return Outputs.LOGITS
    return Outputs.UNKNOWN


def _one_of(kinds: set[Outputs]) -> Outputs:
    return kinds.pop() if len(kinds) == 1 else Outputs.UNKNOWN


def _argument(call: Call, place: int, name: str, default: Any) -> Any:
    """What a function was called with, by place or by name."""
    args, kwargs = call.node.call_args, call.node.call_kwargs
    return args[place] if len(args) > place else kwargs.get(name, default)


def _classes_of(call: Call, side: str) -> set[int | None]:
    """The last dimensions of what a call takes, or of what it gives."""
    tensors = inputs_of(call.node) if side == "in" else tf.nest.flatten(call.node.outputs)
    return {tensor.shape[-1] for tensor in tensors}
