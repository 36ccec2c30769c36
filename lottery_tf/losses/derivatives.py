"""Models prepared to differentiate their loss, once or twice: without noise, correctly.

The scores of pruning at initialisation and the search for scales share this.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    differentiate_by,
    in_place_of,
    keras,
    layer_classes,
    moments_by,
    on_tensorflow,
    tf_variable,
    unfuse,
)
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import computes_as_keras
from lottery_tf.masks.wrapper import remake

_DROPOUT = layer_classes("Dropout", "GaussianDropout", "AlphaDropout")
_BIASED = layer_classes("Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D", "Dense")
_LOSSES = (keras.losses.Loss, keras3.losses.Loss)


def _register_missing_gradients() -> None:
    """Registers second derivatives that TensorFlow lacks, or takes to be 0.

    They are those of all ways to resize an image, and of softsign."""

    def resized(resize: Any) -> Any:
        def gradient(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
            how = {n: op.get_attr(n) for n in ("align_corners", "half_pixel_centers")}
            size = tf.shape(op.inputs[0])[1:3]
            return [tf.cast(resize(images=grad, size=size, **how), grad.dtype), None]

        return gradient

    def bilinear(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
        """TensorFlow's own gradient, but with a gradient of its own, which TensorFlow sets to 0."""
        how = {n: op.get_attr(n) for n in ("align_corners", "half_pixel_centers")}
        image = op.inputs[0]

        @tf.custom_gradient
        def back(given: tf.Tensor) -> Any:
            size = tf.shape(given)[1:3]
            found = tf.raw_ops.ResizeBilinearGrad(grads=given, original_image=image, **how)
            return found, lambda g: tf.raw_ops.ResizeBilinear(images=g, size=size, **how)

        return [back(grad), None]

    def translated(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
        how = {"kernel_type": op.get_attr("kernel_type"), "antialias": op.get_attr("antialias")}
        size, (scale, translation) = tf.shape(op.inputs[0])[1:3], op.inputs[2:]
        again = tf.raw_ops.ScaleAndTranslate(
            images=grad, size=size, scale=scale, translation=translation, **how
        )
        return [again, None, None, None]

    def softsign(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
        given, x = op.inputs
        slope = 1 / tf.square(1 + tf.abs(x))
        return [grad * slope, -2 * grad * given * tf.sign(x) * slope / (1 + tf.abs(x))]

    for name, gradient in (
        ("ResizeNearestNeighborGrad", resized(tf.raw_ops.ResizeNearestNeighbor)),
        ("ResizeBilinear", bilinear),
        ("ResizeBicubicGrad", resized(tf.raw_ops.ResizeBicubic)),
        ("ScaleAndTranslateGrad", translated),
        ("SoftsignGrad", softsign),
    ):
        differentiate_by(name, gradient)


_register_missing_gradients()


def differentiable(model: keras.Model) -> keras.Model:
    """A copy of ``model``, its masks on, to differentiate with ``training=True``.

    Dropout layers drop nothing; other noise (GaussianNoise, noise in recurrent layers) stays.
    Layers of mixed precision compute in their variables' dtype, as the loss is not scaled here.
    """
    return remake(model, _differentiable_layer)


def _differentiable_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = {"rate": 0.0} if isinstance(layer, _DROPOUT) else {}
    if layer.compute_dtype != layer.variable_dtype and "dtype" in layer.get_config():
        config["dtype"] = layer.variable_dtype
    copy = copy_layer(layer, **config)
    if not on_tensorflow(copy):
        return copy  # the rest corrects TensorFlow's derivatives only
    unfuse(copy)
    # What the call of a user's own subclass does with the bias is not known.
    if isinstance(copy, _BIASED) and copy.use_bias and computes_as_keras(copy):
        _add_bias_by_plus(copy)
    if isinstance(copy, layer_classes("BatchNormalization")):
        moments_by(copy, _moments)
    # Keras 3 with rms_scaling, and tf_keras' GroupNormalization, compute the variance in another
    # way, which is differentiated correctly.
    rms = getattr(copy, "rms_scaling", False)
    if type(copy) in layer_classes("LayerNormalization") and not rms:
        copy.call = functools.partial(_normalised, copy)
    if type(copy) is keras3.layers.GroupNormalization:
        copy.call = functools.partial(_normalised_in_groups, copy)
    return copy


def _normalised(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """The output of a LayerNormalization."""
    shape = [1] * inputs.shape.rank
    for axis in layer.axis:
        shape[axis] = inputs.shape[axis]
    return _normalised_over(layer, inputs, layer.axis, shape)


def _normalised_in_groups(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """The output of a GroupNormalization."""
    rank, groups = inputs.shape.rank, layer.groups
    sizes = tf.unstack(tf.shape(inputs))  # works in a graph too
    axis = layer.axis % rank
    each = inputs.shape[axis] // groups
    grouped = tf.reshape(inputs, [*sizes[:axis], groups, each, *sizes[axis + 1 :]])
    axes = [place for place in range(1, rank + 1) if place != axis]
    shape = [*[1] * axis, groups, each, *[1] * (rank - axis - 1)]
    return tf.reshape(_normalised_over(layer, grouped, axes, shape), sizes)


def _normalised_over(
    layer: keras.layers.Layer, inputs: tf.Tensor, axes: Any, shape: list[int]
) -> tf.Tensor:
    """The inputs of a layer normalised over some axes, with its γ and β, if it has them.

    Args:
      shape: the shape of γ and β for broadcasting over the inputs.
    """
    mean, variance = _moments(inputs, axes, keep_dims=True)
    offset, scale = (
        None if each is None else tf.reshape(each, shape) for each in (layer.beta, layer.gamma)
    )
    return tf.nn.batch_normalization(inputs, mean, variance, offset, scale, layer.epsilon)


def _add_bias_by_plus(layer: keras.layers.Layer) -> None:
    """Makes ``layer`` add its bias with ``+``, not with tf.nn.bias_add as both Kerases do.

    oneDNN's graph pass merges the gradient of bias_add with the kernel gradient of a convolution
    that has the same output gradient. In a second derivative there are two such convolutions. With
    the wrong one the graph has a cycle, and TensorFlow sometimes refuses it.
    """
    theirs = layer.call
    first = getattr(layer, "data_format", None) == "channels_first"

    def call(inputs: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        activation = layer.activation  # read at each call: inspecting/signal replaces it

        bias = layer.bias[:, None, None] if first else layer.bias

        def biased(outputs: tf.Tensor) -> tf.Tensor:
            return activation(outputs + bias)

        with in_place_of(layer, {"use_bias": False, "bias": None, "activation": biased}):
            return theirs(inputs, **kwargs)

    layer.call = call


def _moments(inputs: tf.Tensor, axes: Any, keep_dims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Moments for two derivatives: in tf.nn.moments the variance takes the mean as constant."""
    deviation = inputs - tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(deviation), axes, keepdims=keep_dims)
    return tf.reduce_mean(inputs, axes, keepdims=keep_dims), variance


def as_watched(model: keras.Model, variable: tf.Variable) -> tf.Variable:
    """The variable that a tape has to watch for one of the model's variables.

    With several replicas it is the first one's own, so that it works outside of a replica.
    """
    if not on_tensorflow(model):
        return variable
    return model.distribute_strategy.experimental_local_results(tf_variable(variable))[0]


def value_of(
    model: keras.Model,
    weights: Sequence[Any],
    objective: Callable[[Any], Any],
    beside: Callable[[], Any] = lambda: None,
) -> Callable[..., Any]:
    """A function (values, batch) → (objective, None) for models on JAX or torch.

    It computes the objective with these values of the weights. Changes that the model would make
    to its variables are dropped.

    Args:
      objective: function of a batch.
      beside: called afterwards; its result takes the place of None.
    """

    def compute(values: Sequence[Any], batch: Any) -> tuple[Any, Any]:
        pairs = list(zip(weights, values, strict=True))
        with keras3.StatelessScope(pairs, collect_losses=True):
            return objective(batch), beside()

    return compute


def mistakes_with(model: keras.Model) -> tuple[type[Exception], ...]:
    """The exceptions that a backend raises for data that do not fit a model and its loss."""
    known = (KeyError, ValueError, tf.errors.InvalidArgumentError)
    return known if on_tensorflow(model) else (*known, TypeError, RuntimeError)


@contextlib.contextmanager
def missing_derivatives_told(model: keras.Model, advice: str) -> Iterator[None]:
    """Raises a UsageError for an operation in the block that TensorFlow cannot differentiate.

    Args:
      advice: a sentence that says what to do, the last of the error.
    """
    try:
        yield
    except Exception as error:  # AutoGraph replaces a LookupError by a type of its own
        if "gradient registry" not in str(error):
            raise
        raise UsageError(
            f"Expected operations in '{model.name}' that can be differentiated as often as "
            f"needed; TensorFlow says: {reason(error)}. {advice}"
        ) from error


def reason(error: Exception) -> str:
    """The last line of TensorFlow's error that does not name a place in the graph.

    Keras adds the arguments of the layer's call, and Keras 3 prints the line bold.
    """
    told = re.split(
        r"\n\s*(?:Call arguments|Arguments) received by ", re.sub(r"\x1b\[\d*m", "", str(error))
    )[0]
    lines = [line.strip() for line in told.splitlines()]
    told_of = [line for line in lines if line and not line.startswith("[[")]
    return told_of[-1] if told_of else type(error).__name__


def is_offset(name: str) -> bool:
    """Whether a variable is an offset by its last name: a bias, BatchNorm's β or moving mean."""
    own = name.rpartition("/")[2]
    return "bias" in own or own.startswith("moving_mean") or own.partition("_")[0] == "beta"
