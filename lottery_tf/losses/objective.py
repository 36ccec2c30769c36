"""The objective L of a training, a number for each batch.

The scores of pruning at initialisation, the search for scales and the signal differentiate L.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    added_losses,
    has_losses,
    is_keras3,
    keras,
    keras_of,
    mask_of,
    on_tensorflow,
    output_names,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import is_floating, ops_for
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.divergence import at_least_float32
from lottery_tf.losses.from_keras import default_loss, loss_of
from lottery_tf.losses.labels import aligned_to, are_labelled, checked_labels

_LOSSES = (keras.losses.Loss, keras3.losses.Loss)


class Objective:
    """L: the sum of the mean losses of a model's outputs, and of the losses that a call adds.

    A call adds the losses of ``add_loss`` and of activity regularizers. Regularizers of weights
    are left out, as pruning at initialisation asks what a weight does for the data.

    Args:
      model: the model, called with ``training=True``.
      loss: a Keras loss or its name. Or one for each output, as a list or as a dictionary by name,
        which may leave some out. Default: for data with labels the cross-entropy that fits the
        model's outputs, else none.
      loss_weights: a factor for each output's loss, in the same forms. Default: 1.
      labelled: whether the data have labels.

    Attributes:
      loss: the Keras losses.

    Raises:
      UsageError: for a name of no loss; for a loss without labels; for labels without a loss if
        the model has losses of its own. In a call, for a model without any loss.
    """

    def __init__(
        self, model: keras.Model, loss: Any = None, loss_weights: Any = None, labelled: bool = True
    ):
        check_loss(model, loss, labelled)
        self.model = model
        # An array has one number for each output, as a list has.
        array = isinstance(loss_weights, np.ndarray)
        self.loss_weights = loss_weights.tolist() if array else loss_weights
        given = losses_of(loss, keras_of(model)) or None
        self.loss = default_loss(model) if labelled and given is None else given

    def with_losses(self, change: Callable[[Any], Any]) -> "Objective":
        """The same objective with each loss replaced by what ``change`` makes of it."""
        new = object.__new__(Objective)
        vars(new).update(vars(self), loss=tf.nest.map_structure(change, self.loss))
        return new

    def __call__(self, batch: Any) -> Any:
        """L of a batch. [], at least float32.

        Args:
          batch: inputs, (inputs,), (inputs, labels) or (inputs, labels, weights of the examples).

        Raises:
          ValueError: if the number or the names of losses, labels or weights are not those of the
            outputs.
        """
        x, y, weights = keras3.utils.unpack_x_y_sample_weight(batch)
        outputs = self.model(x, training=True)
        return self.of_computed(outputs, y, weights)

    def of_computed(self, outputs: Any, y: Any, weights: Any = None) -> Any:
        """L for outputs of a model that has just been called; ``y``, ``weights``: of the batch."""
        by_key = isinstance(outputs, dict)
        names = sorted(outputs) if by_key else output_names(self.model)  # in tf.nest's order
        means: list[Any] = []
        if self.loss is not None:
            losses = of_outputs("losses", self.loss, names)
            factors = of_outputs("loss_weights", self.loss_weights, names)
            of_examples = of_outputs("weights of the examples", weights, names)
            labels = _of_each("labels", y, names)
            named = dict(zip(names, tf.nest.flatten(outputs), strict=True))
            means += _means(losses, factors, labels, of_examples, named)
            if not means:
                raise ValueError("There is a loss for none of the outputs.")
        added = [each for loss in added_losses(self.model) for each in tf.nest.flatten(loss)]
        ops = ops_for(self.model)
        means += [ops.cast(ops.sum(each), at_least_float32(each.dtype)) for each in added]
        if not means:
            raise UsageError(no_losses(self.model))
        return functools.reduce(operator.add, means)


def no_losses(model: keras.Model, what: str = "data") -> str:
    """The message for data without labels and a model without losses."""
    return (
        f"Expected {what} with labels, (inputs, labels); they are inputs alone, and "
        f"'{model.name}' has no losses of its own (add_loss)."
    )


def check_loss(model: keras.Model, loss: Any, labelled: bool, what: str = "data") -> None:
    """Raises UsageError if a loss has no labels, or if it is unclear which loss to use."""
    if loss is not None and not labelled:
        raise UsageError(
            f"Expected {what} with labels for the loss, (inputs, labels); they are inputs "
            "alone: give labels, or leave loss out if the model has losses of its own (add_loss)."
        )
    if loss is None and labelled and has_losses(model):
        raise UsageError(
            f"Expected a loss for the labels of '{model.name}', which has losses of its own "
            f"(add_loss): give the loss, or {what} without labels to train by add_loss alone."
        )


def losses_of(given: Any, of: ModuleType = keras) -> Any:
    """The Keras losses that are given or named: one, or a list or dictionary of several.

    Args:
      given: losses of either Keras, or names of losses.
      of: the Keras in which names are looked up.
    """
    return tf.nest.map_structure(lambda loss: loss_of(loss, of), given)


def _means(
    losses: Sequence[Any],
    factors: Sequence[Any],
    labels: Sequence[Any],
    weights: Sequence[Any],
    outputs: Mapping[str, Any],
) -> Iterator[Any]:
    """The mean loss of each output that has one, times its factor. Each [], at least float32."""
    each_output = zip(losses, factors, labels, weights, outputs.items(), strict=True)
    for loss, factor, y, weight, (name, output) in each_output:
        if loss is None:
            continue
        if y is None:
            raise ValueError(f"There are no labels for {name}.")
        ops, mask = ops_for(output), mask_of(output)
        y = ops.convert_to_tensor(y)
        if not _is_of_keras(loss) and (is_floating(y) or is_keras3(loss) or is_keras3(output)):
            y = ops.cast(y, output.dtype)  # as Keras does before it calls a user's own loss
        reduction = getattr(loss, "reduction", None)
        # Not loss(…), which refuses to compute the mean under a strategy.
        loss = loss.call if isinstance(loss, _LOSSES) else loss
        output = ops.cast(output, at_least_float32(output.dtype))
        if ops.ndim(y) == ops.ndim(output) - 1 and output.shape[-1] == 1:
            y = y[..., None]
        each = loss(y, output)
        counted = mask_of(each)  # classes that the loss does not ignore
        if counted is not None:
            counted = ops.cast(counted, each.dtype)
            mask = counted if mask is None else ops.cast(mask, each.dtype) * counted
        if weight is not None:
            weight = aligned_to(ops.cast(ops.convert_to_tensor(weight), each.dtype), each)
            each = each * weight
        if mask is None or ops.ndim(mask) != ops.ndim(each):
            mask = None
        else:  # steps that are not padding, as in Keras
            mask = ops.cast(mask, each.dtype)
            each = each * mask
        if reduction == "sum":
            mean = ops.sum(each)
        elif reduction == "mean_with_sample_weight" and weight is not None:
            counts = ops.zeros_like(each) + weight
            counts = counts if mask is None else counts * mask
            mean = ops.divide_no_nan(ops.sum(each), ops.sum(counts))
        elif mask is None:
            mean = ops.mean(each)
        else:
            mean = ops.divide_no_nan(ops.sum(each), ops.sum(mask))
        yield mean if factor is None else factor * mean


def _is_of_keras(loss: Any) -> bool:
    """Whether a loss is Keras' or ours, not the user's own."""
    kind = type(loss) if isinstance(loss, _LOSSES) else loss
    module = getattr(kind, "__module__", None) or ""
    return module.partition(".")[0] in ("keras", "tf_keras", "lottery_tf")


def _of_each(what: str, given: Any, names: list[str]) -> list[Any]:
    """A list with what is ``given`` for each output; a dictionary may leave outputs out."""
    if isinstance(given, dict):
        if not given.keys() <= set(names):
            raise ValueError(f"There are {what} for {', '.join(given)} of {', '.join(names)}.")
        return [given.get(name) for name in names]
    given = tf.nest.flatten(given)
    if len(given) != len(names):
        raise ValueError(f"There are {what} for {len(given)} of {len(names)} outputs.")
    return given


def of_outputs(what: str, given: Any, names: list[str]) -> list[Any]:
    """``given`` as a list with an entry for each output, None where there is none.

    Args:
      what: its name, for the error.
      given: one for all outputs, or a list or dictionary with one for each; or None.
      names: the outputs.

    Raises:
      ValueError: if the number or the names are not those of the outputs.
    """
    nested = tf.nest.is_nested(given)
    return _of_each(what, given, names) if nested else [given] * len(names)


def batches_of(data: tf.data.Dataset, again: bool = True) -> Iterator[Any]:
    """An iterator of the batches of ``data``; a UsageError if there are none.

    Args:
      again: whether finite data are repeated.
    """
    stream = iter(data.repeat() if again else data)
    with step_checks():
        first = next(stream, None)
    if first is None:
        raise UsageError("Expected a dataset of batches (inputs, labels), not an empty one.")
    return itertools.chain([first], stream)


def objective_on(
    model: keras.Model, data: Any, loss: Any, who: str, loss_weights: Any = None
) -> Objective:
    """The objective of a model on ``data``.

    Args:
      data: a ``tf.data.Dataset``.
      who: what needs the data, for the error.

    Raises:
      UsageError: if it is not a dataset, or has batches of another form.
    """
    if not isinstance(data, tf.data.Dataset):
        raise UsageError(
            f"Expected training data for {who}, a tf.data.Dataset of batches (inputs, labels), not "
            f"{data if data is None else type(data).__name__}."
        )
    if isinstance(data.element_spec, tuple) and not 1 <= len(data.element_spec) <= 3:
        raise UsageError(
            "Expected a dataset of batches (inputs, labels) or (inputs, labels, weights of the "
            f"examples), not of {data.element_spec}."
        )
    return Objective(model, loss, loss_weights, are_labelled(data))


def batches_for(objective: Objective, data: tf.data.Dataset, again: bool = True) -> Iterator[Any]:
    """``batches_of`` for an objective. Labels are checked first if the backend's step cannot."""
    model = objective.model
    return batches_of(
        data if on_tensorflow(model) else checked_labels(data, model, objective.loss), again
    )
