"""The linear network through which SynFlow's synaptic flow goes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.compat import (
    TFOpLambda,
    both,
    calls_in,
    ends_of,
    function_of,
    has_losses,
    input_layers,
    input_like,
    inputs_of,
    is_keras3,
    keras,
    keras_of,
    layer_of,
    outputs_of,
    producer_of,
    rename,
)
from lottery_tf.graph.copies import copy_layer, rebuild, reconnected
from lottery_tf.graph.layers import computes_as_keras, named_variables, nodes, unwrapped
from lottery_tf.losses.derivatives import as_watched, is_offset

_ACTIVATIONS = both("Activation", "Softmax", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU")
# By the last name of a TensorFlow or Keras function that a model calls on its tensors, and by the
# class of one of Keras 3.
_FUNCTIONS = {
    *("elu", "gelu", "hard_sigmoid", "leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu"),
    *("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
    "clip_by_value",
}
_FUNCTIONS3 = {
    *("Elu", "Celu", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu"),
    *("LogSigmoid", "LogSoftmax", "Mish", "ReLU", "Relu", "Relu6", "Selu", "Sigmoid", "Silu"),
    *("SoftShrink", "Softmax", "Softplus", "Softsign", "Sparsemax", "SparsePlus", "SparseSigmoid"),
    *("Squareplus", "Tanh", "TanhShrink", "Threshold", "Clip"),
}
_CASTS = ("cast", "Cast", "SaturateCast", "ConvertToTensor")
# What multiplies activations with each other, which no linear network does.
_PRODUCTS = both(
    *("Multiply", "Dot", "Attention", "AdditiveAttention", "MultiHeadAttention"),
    "GroupQueryAttention",
)
_PRODUCT_FUNCTIONS = (
    *("math.multiply", "linalg.matmul", "einsum", "tensordot"),
    *("Multiply", "Matmul", "Einsum", "Tensordot", "Dot", "DotProductAttention"),
)


class Flow:
    """The linear network of a ``Network``, traced once."""

    def __init__(self, network: Network):
        for tensor in network.model.inputs:
            if None in tensor.shape[1:]:
                raise UsageError(
                    f"Expected inputs of a known shape for synflow's input of ones; '{tensor.name}'"
                    f" of the model '{network.model.name}' has {tuple(tensor.shape)}: build it "
                    "with that shape."
                )
        products = {layer_of(node).name: 0 for _, node in nodes(network.model) if _multiplies(node)}
        if products:
            log.warning(
                "synflow: what flows is multiplied in %s of '%s', so that its scores do not add up "
                "there as in a linear network.",
                *(some(list(products)), network.model.name),
            )
        self.model = rebuild(network.model, _linear, _with_wide_inputs)  # pruned weights are 0
        variables = named_variables(self.model)
        for name, variable in variables.items():
            variable.assign(tf.zeros_like(variable) if is_offset(name) else tf.abs(variable))
        self.weights = {n: as_watched(self.model, variables[n]) for n in network.weights}
        self.ones = tf.nest.map_structure(
            lambda tensor: tf.ones([1, *tensor.shape[1:]], tensor.dtype), ends_of(self.model)[0]
        )
        self.compute = tf.function(self._compute)

    def _compute(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs = tf.nest.flatten(self.model(self.ones, training=False))
            flow = tf.add_n([tf.cast(tf.reduce_sum(output), tf.float64) for output in outputs])
        gradients = tape.gradient(flow, weights, unconnected_gradients="zero")
        return flow, [tf.abs(w * g) for w, g in zip(weights, gradients, strict=True)]

    def scores(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, weight in self.weights.items():
            weight.assign(np.abs(values[name]).astype(np.float64))
        _, scores = self.compute()
        return {name: each.numpy() for name, each in zip(self.weights, scores, strict=True)}


def _multiplies(node: Any) -> bool:
    """Whether a call multiplies two tensors of the model."""
    layer = unwrapped(layer_of(node))
    if function_of(layer) in _PRODUCT_FUNCTIONS:
        return len(inputs_of(node)) > 1
    # GLU multiplies one half of what it takes with the other.
    return isinstance(layer, _PRODUCTS) or function_of(layer) == "Glu"


def _with_wide_inputs(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model:
    """A copy that takes floating inputs in float64: a nested model would cast them to float32."""
    inputs = []
    for layer in input_layers(part):
        floating = tf.as_dtype(layer.get_config()["dtype"]).is_floating
        inputs.append(input_like(layer, **({"dtype": "float64"} if floating else {})))
    if is_keras3(part):
        passing = {
            id(each): functools.partial(_passed, each)
            for each in calls_in(part)
            if _passes(layer_of(each))
        }
        return reconnected(part, copy_of, passing, inputs)
    if isinstance(part, keras.Sequential) or has_losses(part):
        return keras.models.clone_model(part, inputs, clone_function=copy_of)
    return reconnected(part, copy_of, {}, inputs)


def _passes(layer: Any) -> bool:
    """Whether a layer, or a function, of Keras 3 is an activation or a cast."""
    if function_of(layer) in (*_FUNCTIONS3, *_CASTS):
        return computes_as_keras(layer)
    return isinstance(layer, _ACTIVATIONS)


def _passed(node: Any, run: Callable[[], Any], tensor: Callable[[Any], Any]) -> Any:
    """What the linear network has in the place of such a call: what the call takes, in float64."""
    taken, given = inputs_of(node)[0], outputs_of(node)[0]
    if tf.as_dtype(taken.dtype).is_floating:
        return tensor(taken)
    if not tf.as_dtype(given.dtype).is_floating:
        return run()
    wide = keras_of(taken).ops.cast(tensor(taken), "float64")  # whole numbers
    rename(producer_of(wide), layer_of(node).name)
    return wide


def _linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer in float64, without its mask and activation."""
    layer = unwrapped(layer)
    if isinstance(layer, _ACTIVATIONS):
        return keras.layers.Activation("linear", name=layer.name, dtype="float64")
    if type(layer) is TFOpLambda:
        return TFOpLambda(_linear_function(layer), name=layer.name, dtype="float64")
    config = layer.get_config()
    change = {"dtype": "float64"} if "dtype" in config else {}
    if "activation" in config and not isinstance(layer, both("RNN")):
        change["activation"] = "linear"
    return copy_layer(layer, **change)


def _linear_function(layer: TFOpLambda) -> Callable[..., Any]:
    """What ``layer`` calls, in float64; the identity if it is an activation or a cast."""
    name = (layer.symbol or "").rpartition(".")[2]

    def wide(value: Any) -> Any:
        floating = tf.is_tensor(value) and value.dtype.is_floating
        return tf.cast(value, tf.float64) if floating else value

    @functools.wraps(layer.function)
    def function(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tf.nest.map_structure(wide, (args, kwargs))
        if name in _FUNCTIONS or name in _CASTS:
            return args[0]
        return layer.function(*args, **kwargs)

    return function
