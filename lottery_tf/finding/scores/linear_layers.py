"""Layers of SynFlow's linear network. Its flow is never negative, and may be of any size.

Keras' own layers compute in float64, since the flow grows exponentially with the depth. A user's
own layer, or one without a kernel for float64 in TensorFlow, computes in its own precision. Its
inputs and gradients are divided by a power of two before, and the results multiplied by it; for a
linear layer this changes nothing.

Products of activations square the flow, again and again with the depth, which exceeds even float64.
Behind a product that might get too large for the next one, the flow is divided by a power of two,
taken as a constant. That scales the scores of all weights alike, except for a shortcut around the
product, which then counts for more.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from lottery_tf.graph.compat import TFOpLambda, keras, layer_classes, parts_of, take_as_given
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import computes_as_keras, unwrapped
from lottery_tf.graph.parts import in_places_of, variables_at
from lottery_tf.masks.prunable import ATTENTION

_Call: TypeAlias = Callable[..., Any]

ACTIVATIONS = layer_classes("Activation", "Softmax", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU")
# By the last name of a TensorFlow or Keras function that a model calls on its tensors.
_FUNCTIONS = {
    *("elu", "gelu", "hard_sigmoid", "leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu"),
    *("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
    "clip_by_value",
}
# Layers that multiply activations with each other, which is not linear.
PRODUCTS = layer_classes(
    *("Multiply", "Dot", "Attention", "AdditiveAttention", "MultiHeadAttention"),
    "GroupQueryAttention",
)
_PRODUCTS = {"multiply", "matmul", "einsum", "tensordot"}
CASTS = ("cast", "Cast", "SaturateCast", "ConvertToTensor")
# Layers that encode words or numbers: no flow passes through them, it begins behind them.
_ENCODERS = layer_classes(
    *("StringLookup", "IntegerLookup", "Hashing", "HashedCrossing", "TextVectorization"),
    *("CategoryEncoding", "Discretization"),
)
# Layers that multiply numbers by constants and add others.
_SHIFTS = layer_classes("Normalization", "Rescaling")
# Layers that centre or scale each example by itself, which is not linear.
_NORMS = layer_classes(
    *("LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization")
)
# Layers that TensorFlow computes only in 32 bits on some devices.
_NARROW = layer_classes("AveragePooling3D", "MaxPooling3D")
_NARROW_FUNCTIONS = {"avg_pool3d", "max_pool3d", "pool", "avg_pool", "max_pool"}
# Their activations stay, as they keep the flow through gates and many steps finite.
_RECURRENT = {
    *("LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell"),
    *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
}
_GATED_CELLS = layer_classes("LSTMCell", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_CONSTANT = 1e-14  # a variance of Normalization up to this is 0: the square of its epsilon
_LARGE = 2.0**60  # between its inverse and this, numbers are not rescaled
_SQUARED = 2.0**450  # the same for products, in float64


def linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer without its mask and activation, in float64 if possible."""
    layer = unwrapped(layer)
    if isinstance(layer, ACTIVATIONS):
        return keras.layers.Activation("linear", name=layer.name, dtype="float64")
    if type(layer) is TFOpLambda:
        return TFOpLambda(_linear_function(layer), name=layer.name, dtype="float64")
    if isinstance(layer, _ENCODERS):
        return _patched(copy_layer(layer), _beginning)
    if isinstance(layer, layer_classes("MaxPooling3D")) and computes_as_keras(layer):
        copy = copy_layer(layer, **_wide("MaxPooling3D", layer.get_config()))
        copy.call = functools.partial(_max_pool_3d, copy)
        return copy
    if isinstance(layer, _NARROW) or not all(map(computes_as_keras, parts_of(layer))):
        copy = copy_layer(layer, **_linear_activation(layer))
        for part in parts_of(copy):
            _make_positive(part)
        return _patched(copy, _rescaled)
    # A subclass with Keras' own call counts as the class of Keras.
    kind = next(k for k in type(layer).__mro__ if k.__module__.startswith(("tf_keras.", "keras.")))
    copy = copy_layer(layer, **_wide(kind.__name__, layer.get_config()))
    for part in parts_of(copy):
        _make_positive(part)
        if isinstance(part, layer_classes("Embedding")):
            _patched(part, _mean_row)
    if isinstance(copy, ATTENTION):
        copy.call = _by_products(copy, copy.call)
    if isinstance(copy, PRODUCTS):
        copy.call = _held_in_range(copy.call)
    return copy


def _max_pool_3d(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """MaxPooling3D by pooling height and width, then depth, in two dimensions each.

    With ones as inputs all maxima are ties. One of them has to take the flow; the gradient of
    TensorFlow's kernel for three dimensions gives it to each of them on processors without AVX-512.
    """
    first = layer.data_format == "channels_first"
    x = tf.transpose(x, [0, 2, 3, 4, 1]) if first else x
    depth, *area = layer.pool_size
    stride, *steps = layer.strides
    padding = layer.padding.upper()
    b, d, h, w, c = tf.unstack(tf.shape(x))
    x = tf.nn.max_pool2d(tf.reshape(x, [b * d, h, w, c]), area, steps, padding)
    h, w = tf.unstack(tf.shape(x))[1:3]
    x = tf.nn.max_pool2d(tf.reshape(x, [b, d, h * w, c]), [depth, 1], [stride, 1], padding)
    x = tf.reshape(x, [b, tf.shape(x)[1], h, w, c])
    return tf.transpose(x, [0, 4, 1, 2, 3]) if first else x


class InRange(keras3.layers.Layer):
    """A layer that is put behind a product of a function of Keras 3."""

    def call(self, product: tf.Tensor) -> tf.Tensor:
        return in_range(product)


def in_range(product: tf.Tensor) -> tf.Tensor:
    """A product, divided by a power of two if its square would exceed float64's range."""
    if not product.dtype.is_floating:
        return product
    largest = tf.cast(tf.reduce_max(tf.abs(product)), tf.float64)
    return product / tf.cast(_scale(largest, _SQUARED), product.dtype)


def _held_in_range(theirs: _Call) -> _Call:
    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = theirs(*args, **kwargs)
        return tf.nest.map_structure(in_range, found)

    return call


def _scale(largest: tf.Tensor, most: float) -> tf.Tensor:
    """The power of two to divide numbers by, given the largest of them.

    It is 1 if the largest is between 1/``most`` and ``most``."""
    usual = (largest < most) & (largest > 1 / most)
    return tf.stop_gradient(tf.where(usual, tf.ones([], tf.float64), _power(largest)))


def multiplies(layer: Any) -> bool:
    """Whether a layer has gates, which multiply activations."""
    return any(isinstance(part, _GATED_CELLS) for part in parts_of(layer))


def _linear_activation(layer: keras.layers.Layer) -> dict[str, Any]:
    """The change that removes the activation of Keras' own layer; a user's own layer keeps its."""
    own = not computes_as_keras(layer)
    return {} if own or "activation" not in layer.get_config() else {"activation": "linear"}


def _wide(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The changes in a layer's config for float64 without activations, also for its parts."""
    found: dict[str, Any] = {"dtype": "float64"} if "dtype" in config else {}
    if "activation" in config and kind not in _RECURRENT:
        found["activation"] = "linear"
    if kind in ("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"):
        # With dropout it calls its Softmax on the scores, instead of a fused kernel.
        found["dropout"] = config.get("dropout") or 0.5
    for name, value in config.items():
        if name != "dtype" and isinstance(value, dict | list):
            found[name] = _wide_within(value)
    return found


def _wide_within(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide_within(each) for each in value]
    if not isinstance(value, dict):
        return value
    config = value.get("config")
    if isinstance(config, dict) and {"dtype", "name"} <= config.keys():  # a layer's
        return {**value, "config": {**config, **_wide(value["class_name"], config)}}
    return {name: _wide_within(each) for name, each in value.items()}


def _patched(layer: Any, change: Callable[[Any, _Call], _Call]) -> Any:
    """The layer with ``change(layer, its call)`` as its call, on inputs without a cast."""
    layer.call = change(layer, layer.call)
    take_as_given(layer)
    return layer


def _beginning(layer: Any, theirs: _Call) -> _Call:
    """Ones instead of an encoding, as the network's inputs are ones; numbers stay as they are."""

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = theirs(*args, **kwargs)
        numbers = layer.get_config()["output_mode"] == "int"
        return found if numbers else tf.ones_like(found, tf.float64)

    return call


def _make_positive(part: Any) -> None:
    """Has a layer of Keras multiply its inputs by absolute factors, and do nothing else to them.

    What it subtracts, like a bias, could turn the sign of the flow."""
    if not computes_as_keras(part):
        return
    if isinstance(part, _SHIFTS):
        _patched(part, _unshifted)
    if isinstance(part, _NORMS):
        _patched(part, _by_gamma)


def _unshifted(layer: Any, theirs: _Call) -> _Call:
    """x times the factor of a layer that computes x · factor + constant."""

    @functools.wraps(theirs)
    def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        factor = tf.abs(theirs(tf.ones_like(x)) - theirs(tf.zeros_like(x)))
        if isinstance(layer, layer_classes("Normalization")) and not layer.invert:
            # A feature that is the same in all examples says nothing; Keras divides it by 1e-7.
            varies = tf.cast(layer.variance, x.dtype) > _CONSTANT
            factor = tf.where(varies, factor, tf.zeros_like(factor))
        return factor * x

    return call


def _by_gamma(layer: Any, theirs: _Call) -> _Call:
    """x · |γ|, without a normalisation."""

    @functools.wraps(theirs)
    def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        is_rms = isinstance(layer, layer_classes("RMSNormalization"))
        gamma = layer.scale if is_rms else getattr(layer, "gamma", None)
        if gamma is None:
            return x
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        shape = [1] * len(x.shape)
        for axis in axes:
            shape[axis] = x.shape[axis]
        return x * tf.cast(tf.abs(tf.reshape(gamma, shape)), x.dtype)

    return call


def _mean_row(layer: Any, theirs: _Call) -> _Call:
    """Looks up the mean of all rows, for any input.

    The row of a masked padding is left out.
    """

    def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        rows = tf.convert_to_tensor(layer.embeddings)[1 if layer.mask_zero else 0 :]
        places = tf.ones(tf.shape(inputs), rows.dtype)
        return places[..., None] * tf.reduce_mean(rows, 0)

    return call


def _by_products(layer: Any, theirs: _Call) -> _Call:
    """Attention without a softmax: scores weigh the values, with the mean over the keys.

    A softmax over equal scores would give queries and keys no flow at all.
    """

    def scores(inputs: tf.Tensor, mask: Any = None, **kwargs: Any) -> tf.Tensor:
        seen = inputs if mask is None else inputs * tf.cast(mask, inputs.dtype)
        return seen / tf.cast(tf.shape(inputs)[-1], inputs.dtype)

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        for part in parts_of(layer):  # Keras makes them when the layer is built
            if isinstance(part, layer_classes("Softmax")):
                part.call = scores
        return theirs(*args, **kwargs)

    return call


def _rescaled(layer: Any, theirs: _Call) -> _Call:
    """Computes a layer in its own precision, on float64 inputs that may exceed its range."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = _Rescaling((args, kwargs))
        tensors = {p: tf.convert_to_tensor(each) for p, each in variables_at(layer).items()}
        read = {p: given.read(each) for p, each in tensors.items() if each.dtype.is_floating}
        with in_places_of(layer, read):
            args, kwargs = given.taken()
            return given.left(theirs(*args, **kwargs))

    return functools.wraps(theirs)(call)


class _Rescaling:
    """f(x) as s · f(x / s), with gradients divided by t on the way back: both powers of two.

    Args:
      arguments: those of the call, in any structure; the largest number in them decides s.
    """

    def __init__(self, arguments: Any):
        self.arguments = arguments
        floats = [each for each in tf.nest.flatten(arguments) if _is_floating(each)]
        wide = [tf.reduce_max(tf.abs(tf.cast(each, tf.float64))) for each in floats]
        largest = tf.reduce_max(tf.stack(wide)) if wide else tf.ones([], tf.float64)
        self.s = _scale(largest, _LARGE)
        self.t = tf.ones([], tf.float64)

    def taken(self) -> Any:
        """The arguments, divided by s, in 32 bits."""
        return tf.nest.map_structure(
            lambda each: self._enter(each) if _is_floating(each) else each, self.arguments
        )

    def _enter(self, tensor: tf.Tensor) -> tf.Tensor:
        dtype = tensor.dtype

        @tf.custom_gradient
        def enter(x: tf.Tensor) -> Any:
            narrow = tf.cast(tf.cast(x, tf.float64) / self.s, tf.float32)
            return narrow, lambda g: tf.cast(tf.cast(g, tf.float64) * self.t, dtype)

        return enter(tensor)

    def left(self, outputs: Any) -> Any:
        """The layer's outputs, multiplied by s, in float64."""
        return tf.nest.map_structure(
            lambda each: self._leave(each) if _is_floating(each) else each, outputs
        )

    def _leave(self, tensor: tf.Tensor) -> tf.Tensor:
        dtype = tensor.dtype

        @tf.custom_gradient
        def leave(y: tf.Tensor) -> Any:
            def back(g: tf.Tensor) -> tf.Tensor:
                self.t = _power(tf.reduce_max(tf.abs(g)))
                return tf.cast(g / self.t, dtype)

            return tf.cast(y, tf.float64) * self.s, back

        return leave(tensor)

    def read(self, tensor: tf.Tensor) -> tf.Tensor:
        """A weight, unchanged, with its gradient rescaled."""

        @tf.custom_gradient
        def read(w: tf.Tensor) -> Any:
            return tf.identity(w), lambda g: g * tf.cast(self.s * self.t, w.dtype)

        return read(tensor)


def _power(largest: tf.Tensor) -> tf.Tensor:
    """The largest power of two up to a number; 1 for 0."""
    exponent = tf.floor(tf.math.log(largest) / tf.math.log(tf.constant(2.0, tf.float64)))
    one = tf.ones([], tf.float64)
    return tf.where(largest > 0, tf.pow(2 * one, tf.where(largest > 0, exponent, 0 * one)), one)


def _is_floating(value: Any) -> bool:
    return tf.is_tensor(value) and value.dtype.is_floating


def _linear_function(layer: TFOpLambda) -> _Call:
    """The function of ``layer`` in float64; the identity if it is an activation or a cast."""
    name = (layer.symbol or "").rpartition(".")[2]

    def wide(value: Any) -> Any:
        return tf.cast(value, tf.float64) if _is_floating(value) else value

    @functools.wraps(layer.function)
    def function(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tf.nest.map_structure(wide, (args, kwargs))
        if name in _FUNCTIONS or name in CASTS:
            return args[0]
        if name in _NARROW_FUNCTIONS:
            given = _Rescaling((args, kwargs))
            args, kwargs = given.taken()
            return given.left(layer.function(*args, **kwargs))
        if name == "one_hot":
            return tf.ones_like(layer.function(*args, **kwargs), tf.float64)
        found = layer.function(*args, **kwargs)
        tensors = [each for each in tf.nest.flatten((args, kwargs)) if _is_floating(each)]
        return in_range(found) if name in _PRODUCTS and len(tensors) > 1 else found

    return function
