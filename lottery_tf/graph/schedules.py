"""Schedules of the learning rate: which one an optimizer has, and how it goes on from a step."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import SCHEDULES, Variable, is_keras3, keras, rate_of
from lottery_tf.graph.keras3 import WHOLE
from lottery_tf.graph.keras3 import keras as keras3


def is_schedule(thing: Any) -> bool:
    """Whether it is a ``LearningRateSchedule`` of either Keras."""
    return isinstance(thing, SCHEDULES)


class _From:
    """``schedule`` from a later step on: at the optimizer's step t the rate is that of step k + t.

    A rewound training has the learning rate of step k, but its optimizer counts from 0, as Adam's
    bias correction needs it.

    Args:
      schedule: a schedule of that Keras; None if only k is needed.
      first: k. It is held in a variable, so that it can change without a new trace. int64 [].
    """

    of: ClassVar[ModuleType]  # its Keras

    def __init__(self, schedule: Any, first: int = 0):
        self.schedule, self.first = schedule, self._variable(first)

    def _variable(self, first: int) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        schedule = self.of.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "first": int(self.first.numpy())}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "_From":
        schedule = cls.of.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["first"])


@keras.saving.register_keras_serializable("lottery_tf")
class From(_From, keras.optimizers.schedules.LearningRateSchedule):
    __doc__ = _From.__doc__
    of = keras

    def _variable(self, first: int) -> tf.Variable:
        return tf.Variable(
            first,
            dtype=tf.int64,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def __call__(self, step: Any) -> tf.Tensor:
        return self.schedule(tf.cast(step, tf.int64) + self.first)


@keras3.saving.register_keras_serializable("lottery_tf", "From")
class From3(_From, keras3.optimizers.schedules.LearningRateSchedule):
    __doc__ = _From.__doc__
    of = keras3

    def _variable(self, first: int) -> Any:
        return keras3.Variable(
            first, dtype=WHOLE, trainable=False, aggregation="only_first_replica"
        )

    def __call__(self, step: Any) -> Any:
        return self.schedule(keras3.ops.cast(step, self.first.dtype) + self.first)


def from_step(schedule: Any, step: int) -> Any:
    """A schedule of the learning rate as it goes on from a later step: at step t of the optimizer
    the rate is ``schedule``'s at ``step`` + t.

    For a training of one's own that begins at the step to which a ticket is rewound, as the rounds
    of ``lt.find_tickets`` do. A fixed learning rate needs none.

    >>> import tf_keras as keras
    >>> decay = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=100)
    >>> optimizer = keras.optimizers.SGD(from_step(decay, 50))
    >>> round(float(optimizer.learning_rate), 3)
    0.05

    Args:
      schedule: a ``LearningRateSchedule`` of tf_keras or Keras 3, that from step 0 on.
      step: the step to begin at, such as ``ticket.info["rewind_step"]``; 0 or more.

    Returns:
      a ``LearningRateSchedule`` of the same Keras.

    Raises:
      UsageError: for what is no schedule, and for a step that is no whole number from 0 on.
    """
    if not is_schedule(schedule):
        raise UsageError(
            "Expected a LearningRateSchedule of Keras, such as CosineDecay(…), not "
            f"{schedule!r}: a fixed learning rate is the same from every step on."
        )
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
        raise UsageError(f"Expected a step to begin at, a whole number from 0 on, not {step!r}.")
    return (From3 if is_keras3(schedule) else From)(schedule, int(step))


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that steps: the one whose loss another one scales for float16, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def schedule_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """The schedule of the learning rate; None if the rate is constant."""
    rate = rate_of(innermost(optimizer))
    return rate if is_schedule(rate) else None


def first_step(optimizer: keras.optimizers.Optimizer) -> Variable:
    """Puts a ``From`` around the schedule of the learning rate. Returns its k to set. int64 []."""
    schedule = (From3 if is_keras3(optimizer) else From)(schedule_of(optimizer))
    if schedule.schedule is not None:
        optimizer.learning_rate = schedule
    return schedule.first
