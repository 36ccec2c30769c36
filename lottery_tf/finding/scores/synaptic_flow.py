"""The linear network through which SynFlow's synaptic flow goes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.compat import TFOpLambda, has_losses, input_layers, inputs_of, keras, layer_of
from lottery_tf.graph.copies import copy_layer, rebuild, reconnected
from lottery_tf.graph.layers import named_variables, nodes, unwrapped
from lottery_tf.losses.derivatives import is_offset

_layers = keras.layers
_ACTIVATIONS = (
    *(_layers.Activation, _layers.Softmax, _layers.ReLU, _layers.LeakyReLU),
    *(_layers.ELU, _layers.ThresholdedReLU),
)
# By the last name of a TensorFlow or Keras function that a model calls on its tensors.
_FUNCTIONS = {
    *("elu", "gelu", "hard_sigmoid", "leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu"),
    *("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
    "clip_by_value",
}
# What multiplies activations with each other, which no linear network does.
_PRODUCTS = (
    *(_layers.Multiply, _layers.Dot, _layers.Attention, _layers.AdditiveAttention),
    _layers.MultiHeadAttention,
)
_PRODUCT_FUNCTIONS = ("math.multiply", "linalg.matmul", "einsum", "tensordot")


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
        # A replica's own variables, as in Network.
        local = self.model.distribute_strategy.experimental_local_results
        self.weights = {name: local(variables[name])[0] for name in network.weights}
        ones = [tf.ones([1, *tensor.shape[1:]], tensor.dtype) for tensor in self.model.inputs]
        self.ones = tf.nest.pack_sequence_as(self.model.input, ones)
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
    if getattr(layer, "symbol", None) in _PRODUCT_FUNCTIONS:
        return len(inputs_of(node)) > 1
    return isinstance(layer, _PRODUCTS)


def _with_wide_inputs(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model:
    """A copy that takes floating inputs in float64: a nested model would cast them to float32."""
    inputs = []
    for layer in input_layers(part):
        config = layer.get_config()
        if tf.as_dtype(config["dtype"]).is_floating:
            config["dtype"] = "float64"
        inputs.append(_layers.InputLayer(**config).output)
    if isinstance(part, keras.Sequential) or has_losses(part):
        return keras.models.clone_model(part, inputs, clone_function=copy_of)
    return reconnected(part, copy_of, {}, inputs)


def _linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer in float64, without its mask and activation."""
    layer = unwrapped(layer)
    if isinstance(layer, _ACTIVATIONS):
        return _layers.Activation("linear", name=layer.name, dtype="float64")
    if type(layer) is TFOpLambda:
        return TFOpLambda(_linear_function(layer), name=layer.name, dtype="float64")
    config = layer.get_config()
    change = {"dtype": "float64"} if "dtype" in config else {}
    if "activation" in config and not isinstance(layer, _layers.RNN):
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
        if name in _FUNCTIONS or name == "cast":
            return args[0]
        return layer.function(*args, **kwargs)

    return function
