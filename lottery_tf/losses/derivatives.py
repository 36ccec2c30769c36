"""A model as its loss is differentiated, once or twice: no noise, and the derivatives right.

What the scores of pruning at initialisation and the search for scales share.
"""

import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    both,
    differentiate_by,
    in_place_of,
    keras,
    mask_of,
    moments_by,
    on_tensorflow,
    output_names,
    tf_variable,
    unfuse,
)
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import computes_as_keras
from lottery_tf.graph.ops import ops_for
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.cross_entropy import checked_labels
from lottery_tf.losses.divergence import at_least_float32
from lottery_tf.masks.wrapper import remake

_DROPOUT = both("Dropout", "GaussianDropout", "AlphaDropout")
_BIASED = both("Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D", "Dense")
_LOSSES = (keras.losses.Loss, keras3.losses.Loss)


def _register_missing_gradients() -> None:
    """Has TensorFlow know second derivatives that it lacks: of images made larger or smaller in
    any way, of which it holds some to be 0, and of softsign."""

    def resized(resize: Any) -> Any:
        def gradient(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
            how = {n: op.get_attr(n) for n in ("align_corners", "half_pixel_centers")}
            size = tf.shape(op.inputs[0])[1:3]
            return [tf.cast(resize(images=grad, size=size, **how), grad.dtype), None]

        return gradient

    def bilinear(op: tf.Operation, grad: tf.Tensor) -> list[Any]:
        """As TensorFlow's own, of which it holds the gradient to be 0."""
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

    Dropout layers drop nothing; other noise (GaussianNoise, in recurrent layers) is taken as it
    comes. Layers of mixed precision compute in that of their variables: nothing scales the loss.
    """
    return remake(model, _differentiable_layer)


def _differentiable_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = {"rate": 0.0} if isinstance(layer, _DROPOUT) else {}
    if layer.compute_dtype != layer.variable_dtype and "dtype" in layer.get_config():
        config["dtype"] = layer.variable_dtype
    copy = copy_layer(layer, **config)
    if not on_tensorflow(copy):
        return copy  # what follows mends derivatives of TensorFlow's
    unfuse(copy)
    # Of a user's own subclass it is not known what its call does with the bias.
    if isinstance(copy, _BIASED) and copy.use_bias and computes_as_keras(copy):
        _add_bias_by_plus(copy)
    if isinstance(copy, both("BatchNormalization")):
        moments_by(copy, _moments)
    # One of Keras 3 that divides alone takes its variance in another way, which is right; so does
    # the GroupNormalization of tf_keras.
    if type(copy) in both("LayerNormalization") and not getattr(copy, "rms_scaling", False):
        copy.call = functools.partial(_normalised, copy)
    if type(copy) is keras3.layers.GroupNormalization:
        copy.call = functools.partial(_normalised_in_groups, copy)
    return copy


def _normalised(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """What a LayerNormalization gives."""
    shape = [1] * inputs.shape.rank
    for axis in layer.axis:
        shape[axis] = inputs.shape[axis]
    return _normalised_over(layer, inputs, layer.axis, shape)


def _normalised_in_groups(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """What a GroupNormalization gives."""
    rank, groups = inputs.shape.rank, layer.groups
    sizes = tf.unstack(tf.shape(inputs))  # in a graph too
    axis = layer.axis % rank
    each = inputs.shape[axis] // groups
    grouped = tf.reshape(inputs, [*sizes[:axis], groups, each, *sizes[axis + 1 :]])
    axes = [place for place in range(1, rank + 1) if place != axis]
    shape = [*[1] * axis, groups, each, *[1] * (rank - axis - 1)]
    return tf.reshape(_normalised_over(layer, grouped, axes, shape), sizes)


def _normalised_over(
    layer: keras.layers.Layer, inputs: tf.Tensor, axes: Any, shape: list[int]
) -> tf.Tensor:
    """The inputs of a layer with γ and β, if it has them, normalised over some of their axes.

    Args:
      shape: that of γ and β among the inputs.
    """
    mean, variance = _moments(inputs, axes, keep_dims=True)
    offset, scale = (
        None if each is None else tf.reshape(each, shape) for each in (layer.beta, layer.gamma)
    )
    return tf.nn.batch_normalization(inputs, mean, variance, offset, scale, layer.epsilon)


def _add_bias_by_plus(layer: keras.layers.Layer) -> None:
    """Has ``layer`` add its bias with ``+`` and not with tf.nn.bias_add, as either Keras does.

    oneDNN's graph pass merges the gradient of bias_add with that of some convolution by its kernel
    that has the same gradient of its output. In a second derivative there are two of those, and
    with the wrong one the graph has a cycle: TensorFlow refuses it, now and then.
    """
    theirs = layer.call
    first = getattr(layer, "data_format", None) == "channels_first"

    def call(inputs: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        activation = layer.activation  # of this call: others may look on (inspecting/signal)

        bias = layer.bias[:, None, None] if first else layer.bias

        def biased(outputs: tf.Tensor) -> tf.Tensor:
            return activation(outputs + bias)

        with in_place_of(layer, {"use_bias": False, "bias": None, "activation": biased}):
            return theirs(inputs, **kwargs)

    layer.call = call


def _moments(inputs: tf.Tensor, axes: Any, keep_dims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """tf.nn.moments holds the mean constant in the variance: right for one derivative only."""
    deviation = inputs - tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(deviation), axes, keepdims=keep_dims)
    return tf.reduce_mean(inputs, axes, keepdims=keep_dims), variance


def as_watched(model: keras.Model, variable: tf.Variable) -> tf.Variable:
    """What a tape watches of one of the model's variables.

    Of several replicas' it is the first one's own, which can be differentiated by from outside.
    """
    if not on_tensorflow(model):
        return variable
    return model.distribute_strategy.experimental_local_results(tf_variable(variable))[0]


def losses_of(given: Any, of: ModuleType = keras) -> Any:
    """The Keras losses that are named or given, one or a list or dictionary of several.

    Args:
      given: losses of either Keras, or names of losses.
      of: the Keras that a name is of.
    """

    def named(loss: Any) -> Any:
        try:
            return of.losses.get(loss)
        except ValueError as error:
            raise UsageError(
                f"Expected the name of a Keras loss, such as mean_squared_error, not '{loss}'."
            ) from error

    return tf.nest.map_structure(named, given)


def loss_of(
    model: keras.Model,
    weights: Sequence[Any],
    loss: Any,
    beside: Callable[[], Any] = lambda: None,
) -> Callable[..., Any]:
    """(values, inputs, labels) → (mean loss, None) of a model of another backend than TensorFlow,
    whose weights have those values; what the model would assign to variables is left out.

    Args:
      beside: what is called then, for what stands in the place of None.
    """

    def compute(values: Sequence[Any], x: Any, y: Any) -> tuple[Any, Any]:
        with keras3.StatelessScope(list(zip(weights, values, strict=True))):
            outputs = model(x, training=True)
            return mean_loss(loss, y, outputs, output_names(model)), beside()

    return compute


def mean_loss(loss: Any, labels: Any, outputs: Any, names: list[str]) -> tf.Tensor:
    """The sum over the outputs of their mean losses. [], at least float32.

    Args:
      loss: a Keras loss, or one for each output: a sequence, or a dictionary by ``names`` that may
        leave some out.
      labels: a tensor, or one for each output in the same ways.
      outputs: what the model gives.
      names: the model's ``output_names``, which ``compat`` knows.

    Raises:
      ValueError: if losses or labels are not as many as outputs, or of other names.
    """
    if isinstance(outputs, dict):
        names = sorted(outputs)  # as tf.nest does
    if not tf.nest.is_nested(loss):
        loss = [loss] * len(names)
    losses, labels = _of_each("losses", loss, names), _of_each("labels", labels, names)
    means = []
    for name, loss, y, output in zip(names, losses, labels, tf.nest.flatten(outputs), strict=True):
        if loss is None:
            continue
        if y is None:
            raise ValueError(f"There are no labels for {name}.")
        # Not loss(…), which refuses to take the mean under a strategy.
        loss = loss.call if isinstance(loss, _LOSSES) else loss
        ops, mask = ops_for(output), mask_of(output)
        output = ops.cast(output, at_least_float32(output.dtype))
        if ops.ndim(y) == ops.ndim(output) - 1 and output.shape[-1] == 1:
            y = y[..., None]
        each = loss(y, output)
        if mask is None or ops.ndim(mask) != ops.ndim(each):
            means.append(ops.mean(each))
        else:  # of the steps that are no padding, as Keras has it
            mask = ops.cast(mask, each.dtype)
            means.append(ops.divide_no_nan(ops.sum(each * mask), ops.sum(mask)))
    if not means:
        raise ValueError("There is a loss for none of the outputs.")
    return functools.reduce(operator.add, means)


def _of_each(what: str, given: Any, names: list[str]) -> list[Any]:
    """What is ``given`` for each output: by name, where it may be left out, or in their order."""
    if isinstance(given, dict):
        if not given.keys() <= set(names):
            raise ValueError(f"There are {what} for {', '.join(given)} of {', '.join(names)}.")
        return [given.get(name) for name in names]
    given = tf.nest.flatten(given)
    if len(given) != len(names):
        raise ValueError(f"There are {what} for {len(given)} of {len(names)} outputs.")
    return given


def batches_of(data: Any, who: str, again: bool = True) -> Iterator[tuple[Any, Any]]:
    """An iterator of the batches (inputs, labels) of ``data``.

    Args:
      data: a ``tf.data.Dataset``.
      who: what needs it, for the error.
      again: whether finite data are read again and again.

    Raises:
      UsageError: if it is none, is empty, or has batches of another form.
    """
    check_batches(data, who)
    stream = iter(data.repeat() if again else data)
    with step_checks():
        first = next(stream, None)
    if first is None:
        raise UsageError("Expected a dataset of batches (inputs, labels), not an empty one.")
    return itertools.chain([first], stream)


def labelled_batches(
    data: tf.data.Dataset, model: keras.Model, loss: Any, who: str, again: bool = True
) -> Iterator[tuple[Any, Any]]:
    """``batches_of`` for a model and its loss, whose labels are checked first where its backend's
    step cannot refuse them."""
    return batches_of(
        data if on_tensorflow(model) else checked_labels(data, model, loss), who, again
    )


def check_batches(data: Any, who: str) -> None:
    """Raises UsageError unless it is a dataset of pairs."""
    if not isinstance(data, tf.data.Dataset):
        raise UsageError(
            f"Expected training data for {who}, a tf.data.Dataset of batches (inputs, labels), not "
            f"{data if data is None else type(data).__name__}."
        )
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
        raise UsageError(
            f"Expected a dataset of batches (inputs, labels), not of {data.element_spec}: map it "
            "to pairs, without sample weights."
        )


def mistakes_with(model: keras.Model) -> tuple[type[Exception], ...]:
    """What a backend raises for data that do not fit a model and its loss."""
    known = (KeyError, ValueError, tf.errors.InvalidArgumentError)
    return known if on_tensorflow(model) else (*known, TypeError, RuntimeError)


def reason(error: Exception) -> str:
    """The last line of an error of TensorFlow's that is not about the place in its graph.

    Keras 3 prints it bold, and then what a layer was called with.
    """
    told = re.split(r"\n\s*Arguments received by ", re.sub(r"\x1b\[\d*m", "", str(error)))[0]
    lines = [line.strip() for line in told.splitlines()]
    told_of = [line for line in lines if line and not line.startswith("[[")]
    return told_of[-1] if told_of else type(error).__name__


def is_offset(name: str) -> bool:
    """Whether a variable is added: a bias, BatchNorm's β or moving mean, by its last name."""
    own = name.rpartition("/")[2]
    return "bias" in own or own.startswith("moving_mean") or own.partition("_")[0] == "beta"
