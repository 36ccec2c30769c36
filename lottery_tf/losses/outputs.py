"""The kind of a model's outputs: logits, probabilities that add up to 1, or something else.

It is read from the layers that make the outputs. An unknown kind is not guessed: a cross-entropy on
logits takes any numbers, and would apply a softmax to probabilities without an error.
"""

import enum
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import (
    arguments_of,
    function_of,
    inputs_of,
    is_model,
    keras,
    layer_classes,
)
from lottery_tf.graph.compat import outputs_of as outputs_of_call
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import Call, calls, computes_as_keras

# tf_keras' graphs name functions as TensorFlow does, those of Keras 3 by the classes of keras.ops.
_SOFTMAX = (
    *(keras.activations.softmax, tf.nn.softmax, keras.backend.softmax),
    *(keras3.activations.softmax, keras3.ops.softmax),
)
_SIGMOIDS = (
    *(keras.activations.sigmoid, keras.activations.hard_sigmoid, tf.sigmoid),
    *(keras.backend.sigmoid, keras.backend.hard_sigmoid),
    *(keras3.activations.sigmoid, keras3.activations.hard_sigmoid),
    *(keras3.ops.sigmoid, keras3.ops.hard_sigmoid),
)
_SIGMOID_FUNCTIONS = ("math.sigmoid", "Sigmoid", "HardSigmoid")
_LINEAR = (None, keras.activations.linear, tf.identity, keras3.activations.linear)
# The logarithms of probabilities are logits of them: softmax(log p) = p.
_LOG_SOFTMAX = (
    *(tf.nn.log_softmax, tf.math.log_softmax),
    *(keras3.activations.log_softmax, keras3.ops.log_softmax),
)
_LOG_SOFTMAX_FUNCTIONS = ("nn.log_softmax", "math.log_softmax", "LogSoftmax")
# Layers and functions that may give any real number, whatever their input.
_KERNELS = layer_classes(
    *("Dense", "EinsumDense", "Embedding", "Conv1D", "Conv2D", "Conv3D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("SeparableConv1D", "SeparableConv2D", "DepthwiseConv1D", "DepthwiseConv2D"),
    *("LocallyConnected1D", "LocallyConnected2D"),
)
_NORMALISATIONS = layer_classes("BatchNormalization", "LayerNormalization", "GroupNormalization")
_PRODUCTS = ("linalg.matmul", "einsum", "tensordot", "Matmul", "Einsum", "Tensordot", "Dot")
# Those that keep logits as logits, and probabilities as such if the number of classes stays.
_SAME = layer_classes(
    *("Reshape", "Flatten", "RepeatVector", "Average", "Masking", "Dropout", "SpatialDropout1D"),
    *("SpatialDropout2D", "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Resizing"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
    *("AveragePooling1D", "AveragePooling2D", "UpSampling1D", "UpSampling2D"),
    *("Cropping1D", "Cropping2D", "Identity"),
)
_SAME_FUNCTIONS = (
    *("cast", "identity", "reshape", "stop_gradient", "ensure_shape", "compat.v1.squeeze"),
    *("squeeze", "expand_dims", "debugging.check_numerics", "__operators__.getitem"),
    *("image.resize", "compat.v1.gather", "gather", "tile", "broadcast_to"),
    *("Cast", "ConvertToTensor", "Reshape", "StopGradient", "Squeeze", "ExpandDims", "GetItem"),
    *("Resize", "Take", "Tile", "BroadcastTo"),
)
# Those that give logits if at least one input is logits and none is probabilities.
_SUMS = layer_classes(
    *("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Rescaling", "Permute"),
    *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
)
_SUM_FUNCTIONS = (
    *(f"math.{name}" for name in ("add", "subtract", "multiply", "truediv", "divide", "negative")),
    *(f"math.reduce_{name}" for name in ("mean", "sum", "max", "min")),
    *("math.maximum", "math.minimum", "math.add_n", "math.scalar_mul", "nn.bias_add", "stack"),
    *("__operators__.add", "compat.v1.transpose", "transpose"),
    *("Add", "Subtract", "Multiply", "TrueDivide", "Divide", "Negative", "Mean", "Sum", "Max"),
    *("Min", "Maximum", "Minimum", "Stack", "Transpose"),
)
_CONCATENATIONS = ("concat", "Concatenate")


class Outputs(enum.Enum):
    """The content of an output's last axis."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    SIGMOIDS = "a probability of each class on its own"
    UNKNOWN = "neither logits nor a softmax that is known"


def outputs_of(model: keras.Model) -> dict[str, Outputs]:
    """Name of each layer that makes an output of the model → the output's kind."""
    return {call.path: _made_by(call) for call in calls(model)[1]}


def _made_by(call: Call) -> Outputs:
    """The kind of a layer call's output."""
    layer = call.layer
    wrappers, both_ways = layer_classes("Wrapper"), layer_classes("Bidirectional")
    while isinstance(layer, wrappers) and not isinstance(layer, both_ways):
        layer = layer.layer  # a pruning wrapper, TimeDistributed
    if is_model(layer):
        return _one_of(set(outputs_of(layer).values()))
    if not computes_as_keras(layer):
        return Outputs.UNKNOWN  # the user's own
    function, activation = function_of(layer), getattr(layer, "activation", None)
    softmaxes = layer_classes("Softmax")
    softmax = next((x for x in (layer, activation) if isinstance(x, softmaxes)), None)
    if softmax is not None or function in ("nn.softmax", "Softmax"):
        axis = _argument(call, 1, ("axis",), -1) if softmax is None else softmax.axis
        last = axis in (None, -1, len(outputs_of_call(call.node)[0].shape) - 1)
        return Outputs.PROBABILITIES if last else Outputs.UNKNOWN
    if activation in _SOFTMAX:
        return Outputs.PROBABILITIES
    if activation in _SIGMOIDS or function in _SIGMOID_FUNCTIONS:
        return Outputs.SIGMOIDS
    if activation in _LOG_SOFTMAX or function in _LOG_SOFTMAX_FUNCTIONS:
        return Outputs.LOGITS
    if isinstance(layer, _NORMALISATIONS):
        return Outputs.LOGITS
    if isinstance(layer, _KERNELS) and activation in _LINEAR:
        return Outputs.LOGITS
    before = {_made_by(each) for each in call.before}
    linear = type(layer) in layer_classes("Activation") and activation in _LINEAR
    if linear or isinstance(layer, _SAME) or function in _SAME_FUNCTIONS:
        split = _classes_of(call, "in") != _classes_of(call, "out")  # no longer adding up to 1
        return Outputs.UNKNOWN if split and before != {Outputs.LOGITS} else _one_of(before)
    if function in ("clip_by_value", "Clip"):
        bounds = (
            _argument(call, 1, ("clip_value_min", "x_min"), 0),
            _argument(call, 2, ("clip_value_max", "x_max"), 0),
        )
        inside = all(isinstance(bound, int | float) and 0 <= bound <= 1 for bound in bounds)
        return Outputs.UNKNOWN if inside and before == {Outputs.LOGITS} else _one_of(before)
    if isinstance(layer, layer_classes("Concatenate")) or function in _CONCATENATIONS:
        return Outputs.LOGITS if before == {Outputs.LOGITS} else Outputs.UNKNOWN
    # A product with a constant, such as a matrix of weights, may give any real numbers.
    with_weights = function in _PRODUCTS and len(inputs_of(call.node)) == 1
    sums = isinstance(layer, _SUMS) or function in (*_SUM_FUNCTIONS, *_PRODUCTS)
    if not before & {Outputs.PROBABILITIES} and (
        with_weights or (sums and Outputs.LOGITS in before)
    ):
        return Outputs.LOGITS
    return Outputs.UNKNOWN


def _one_of(kinds: set[Outputs]) -> Outputs:
    return kinds.pop() if len(kinds) == 1 else Outputs.UNKNOWN


def _argument(call: Call, place: int, names: tuple[str, ...], default: Any) -> Any:
    """An argument of a function's call, by place or by name; Keras 3's operation may hold it."""
    args, kwargs = arguments_of(call.node)
    if len(args) > place:
        return args[place]
    held = {**vars(call.layer), **kwargs}
    return next((held[name] for name in names if name in held), default)


def _classes_of(call: Call, side: str) -> set[int | None]:
    """The last dimensions of a call's inputs ("in") or outputs ("out")."""
    tensors = inputs_of(call.node) if side == "in" else outputs_of_call(call.node)
    return {tensor.shape[-1] for tensor in tensors}
