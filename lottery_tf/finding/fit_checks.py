"""Checks of a user's data and losses, before anything is trained."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import added_losses, keras, keras_of, on_tensorflow
from lottery_tf.graph.fit_data import batches
from lottery_tf.graph.layers import assign, check_of_its_keras, keys_of_outputs
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import reason
from lottery_tf.losses.objective import Objective, no_losses
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import Trainer


def check_own_losses(model: keras.Model, spec: Any, ticket: Ticket) -> None:
    """Raises UsageError unless a call of the model adds a loss (``add_loss``)."""
    inputs = spec[0] if isinstance(spec, tuple) else spec
    zeros = tf.nest.map_structure(
        lambda each: tf.zeros([n or 1 for n in each.shape], each.dtype), inputs
    )
    try:
        model(zeros, training=True)
        added = added_losses(model)
    except Exception:  # an error with zeros as inputs does not mean that the data are wrong
        added = [None]
    assign(model, ticket.weights)  # BatchNorm has seen zeros
    if not added:
        raise UsageError(no_losses(model, "train_data"))


def optimizer_of(model: keras.Model, given: Any) -> keras.optimizers.Optimizer:
    """The user's optimizer, or the one of that name with Keras' defaults.

    Raises:
      UsageError: for what is neither, or of another Keras than the model.
    """
    check_of_its_keras(model, optimizer=given)
    optimizers, optimizer = keras_of(model).optimizers, given
    if isinstance(given, str):
        with contextlib.suppress(ValueError):  # which is told below
            optimizer = optimizers.get(given)
    if not isinstance(optimizer, optimizers.Optimizer):
        raise UsageError(
            f"Expected an optimizer of {keras_of(model).__name__} such as keras.optimizers.Adam(), "
            f"or its name, got {given!r}; those of keras.optimizers.legacy are not taken."
        )
    return optimizer


def outputs_without_labels(model: keras.Model, spec: Any) -> list[str]:
    """The names of outputs that labels by name leave out; their losses are 0, as in ``compile``."""
    labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not isinstance(labels, Mapping):
        return []
    return [name for name in keys_of_outputs(model) if name not in labels]


def batches_with_end(data: Any, model: keras.Model) -> tf.data.Dataset:
    """``dev_data`` as finite batches that can be read several times."""
    if inspect.isgenerator(data):
        raise UsageError(
            "Expected dev_data that can be read after each round; a generator can be read only "
            "once: give arrays, a tf.data.Dataset or a keras.utils.Sequence."
        )
    if getattr(data, "num_batches", 0) is None:  # an endless PyDataset
        raise UsageError(
            "Expected dev_data with an end; their num_batches is None: let it return the number of "
            "batches."
        )
    found = batches(data, model, "dev_data")
    if found.cardinality() in (tf.data.INFINITE_CARDINALITY, 0):
        raise UsageError(
            f"Expected dev_data with an end, and a batch before it; they have "
            f"{'none' if found.cardinality() else 'no batch'}: give dev_data.take(n)."
        )
    return found


def check_measurable(trainer: Trainer, data: tf.data.Dataset) -> None:
    """Raises UsageError if the first batch of ``dev_data`` does not fit the model and the loss.

    ``evaluate`` is not called, as it would change the first ``fit``: tf_keras' Nadam counts how
    often its step is traced.
    """
    model, loss = trainer.model, trainer.model.loss or None  # tf_keras has {} for none
    try:
        with step_checks():
            batch = next(iter(data))
        x, *labels = batch if isinstance(batch, tuple) else (batch,)
        outputs = model(x, training=False)
        if loss is not None and not labels:
            raise ValueError("there are no labels for the loss.")
        if loss is not None and on_tensorflow(model):
            Objective(model, loss, trainer.loss_weights).of_computed(outputs, *labels)
    except UsageError:
        raise
    except Exception as error:  # Keras, TensorFlow or the user's own loss may raise anything
        raise UsageError(
            f"Expected dev_data that fit the model '{model.name}' and the loss; for the first "
            f"batch Keras says: {reason(error)}"
        ) from error
