"""The linear network in which SynFlow measures the synaptic flow."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.finding.scores.linear_layers import (
    ACTIVATIONS,
    CASTS,
    PRODUCTS,
    InRange,
    linear,
    multiplies,
)
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.compat import (
    calls_in,
    ends_of,
    function_of,
    has_losses,
    input_layers,
    input_like,
    inputs_of,
    is_keras3,
    is_layer,
    keras,
    keras_of,
    layer_of,
    outputs_of,
    producer_of,
    rename,
)
from lottery_tf.graph.copies import rebuild, reconnected
from lottery_tf.graph.layers import (
    check_tensorflow,
    computes_as_keras,
    named_variables,
    nodes,
    unwrapped,
)
from lottery_tf.losses.derivatives import as_watched, is_offset

# Keyed by the class of a function of Keras 3 that a model calls on its tensors.
_FUNCTIONS3 = {
    *("Elu", "Celu", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu"),
    *("LogSigmoid", "LogSoftmax", "Mish", "ReLU", "Relu", "Relu6", "Selu", "Sigmoid", "Silu"),
    *("SoftShrink", "Softmax", "Softplus", "Softsign", "Sparsemax", "SparsePlus", "SparseSigmoid"),
    *("Squareplus", "Tanh", "TanhShrink", "Threshold", "Clip"),
}
_PRODUCT_FUNCTIONS = (
    *("math.multiply", "linalg.matmul", "einsum", "tensordot"),
    *("Multiply", "Matmul", "Einsum", "Tensordot", "Dot", "DotProductAttention"),
)


class Flow:
    """The linear network of a ``Network``, traced once."""

    def __init__(self, network: Network):
        check_tensorflow(network.model, "synflow")
        for tensor in network.model.inputs:
            if None in tensor.shape[1:]:
                raise UsageError(
                    f"Expected inputs of a known shape for synflow's input of ones; '{tensor.name}'"
                    f" of the model '{network.model.name}' has {tuple(tensor.shape)}: build it "
                    "with that shape."
                )
        multiply = (node for _, node in nodes(network.model) if _multiplies(node))
        if products := list(dict.fromkeys(layer_of(node).name for node in multiply)):
            log.warning(
                "synflow: %s of '%s' multiply activations, so that the scores do not add up there "
                "as in a linear network.",
                *(some(products), network.model.name),
            )
        self.model = rebuild(network.model, linear, _with_wide_inputs)  # pruned weights are 0
        self.name = network.model.name
        variables = named_variables(self.model)
        for name, variable in variables.items():
            variable.assign(tf.zeros_like(variable) if is_offset(name) else tf.abs(variable))
        self.weights = {n: as_watched(self.model, variables[n]) for n in network.weights}
        self.ones = tf.nest.map_structure(_ones_for, ends_of(self.model)[0])
        self.compute = tf.function(self._compute)

    def _compute(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The flow to each output, and each weight's part of all of it."""
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs = tf.nest.flatten(self.model(self.ones, training=False))
            flows = [tf.cast(tf.reduce_sum(output), tf.float64) for output in outputs]
            flow = tf.add_n(flows)
            # Scaled to a sum of 1, gradients by weights fit into 32 bits.
            whole = tf.stop_gradient(flow)
            share = tf.math.divide_no_nan(flow, whole)
        gradients = tape.gradient(share, weights, unconnected_gradients="zero")
        pairs = zip(weights, gradients, strict=True)
        return tf.stack(flows), [tf.abs(tf.cast(w * g, tf.float64)) * whole for w, g in pairs]

    def scores(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, weight in self.weights.items():
            weight.assign(tf.cast(np.abs(values[name]), weight.dtype))
        flows, scores = self.compute()
        if np.any(flows.numpy() < 0):  # what matters most there would have the lowest score
            raise UsageError(
                f"Expected a positive flow for synflow; that of '{self.name}' is negative, as "
                "the model subtracts (`x - 1`) or turns signs: do it by a Rescaling layer, or to "
                "the data."
            )
        return {name: each.numpy() for name, each in zip(self.weights, scores, strict=True)}


def _ones_for(tensor: Any) -> tf.Tensor:
    """The input of ones; a word for an input of texts."""
    shape = [1, *tensor.shape[1:]]
    return tf.fill(shape, "1") if tensor.dtype == "string" else tf.ones(shape, tensor.dtype)


def _multiplies(node: Any) -> bool:
    """Whether a call multiplies two tensors of the model."""
    layer = unwrapped(layer_of(node))
    if function_of(layer) in _PRODUCT_FUNCTIONS:
        return len(inputs_of(node)) > 1
    # GLU multiplies one half of its input with the other.
    if isinstance(layer, PRODUCTS) or function_of(layer) == "Glu":
        return True
    return is_layer(layer) and multiplies(layer)


def _with_wide_inputs(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model:
    """A copy that takes floating inputs in float64; a nested model would cast them to float32."""
    inputs = []
    for layer in input_layers(part):
        floating = tf.as_dtype(layer.get_config()["dtype"]).is_floating
        inputs.append(input_like(layer, **({"dtype": "float64"} if floating else {})))
    if is_keras3(part):
        passing = {
            id(each): functools.partial(_passed, each)
            for each in calls_in(part)
            if _passes(layer_of(each))
        } | {
            id(each): _in_range
            for each in calls_in(part)
            if not is_layer(layer_of(each)) and _multiplies(each)
        }
        return reconnected(part, copy_of, passing, inputs)
    if isinstance(part, keras.Sequential) or has_losses(part):
        return keras.models.clone_model(part, inputs, clone_function=copy_of)
    return reconnected(part, copy_of, {}, inputs)


def _passes(layer: Any) -> bool:
    """Whether a layer or function of Keras 3 is an activation or a cast."""
    if function_of(layer) in (*_FUNCTIONS3, *CASTS):
        return computes_as_keras(layer)
    return isinstance(layer, ACTIVATIONS)


def _in_range(run: Callable[[], Any], tensor: Callable[[Any], Any]) -> Any:
    return InRange(dtype="float64")(run())


def _passed(node: Any, run: Callable[[], Any], tensor: Callable[[Any], Any]) -> Any:
    """The linear network's tensor instead of such a call: the call's input, in float64."""
    taken, given = inputs_of(node)[0], outputs_of(node)[0]
    if tf.as_dtype(taken.dtype).is_floating:
        return tensor(taken)
    if not tf.as_dtype(given.dtype).is_floating:
        return run()
    wide = keras_of(taken).ops.cast(tensor(taken), "float64")  # integers too
    rename(producer_of(wide), layer_of(node).name)
    return wide
