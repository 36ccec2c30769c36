"""The optimizers and learning rates of the commands, made from their settings."""

from types import ModuleType
from typing import Any, ClassVar

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.steps import parse_steps
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.training.settings import TrainingSettings


class _CoupledL2:
    """Adds λ·w to the gradient, as PyTorch's ``weight_decay`` does: momentum sees the decay.

    Keras' own ``weight_decay`` is decoupled (AdamW). Pruned weights are 0 and stay 0.
    """

    def __init__(self, *args: Any, l2: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.l2 = l2

    def update_step(self, gradient: tf.Tensor, variable: Any, *rate: Any) -> Any:
        if self.l2:
            gradient = gradient + tf.cast(self.l2, variable.dtype) * variable
        # Keras 3 passes the learning rate too.
        return super().update_step(gradient, variable, *rate)  # type: ignore[misc]  # of theirs

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]  # of the optimizer
        return {**config, "l2": self.l2}


@keras.saving.register_keras_serializable("lottery_tf")
class SGD(_CoupledL2, keras.optimizers.SGD):
    """Keras' SGD with the coupled L2 penalty of the reference's protocol."""


@keras.saving.register_keras_serializable("lottery_tf")
class Adam(_CoupledL2, keras.optimizers.Adam):
    """Keras' Adam with a coupled L2 penalty."""


@keras3.saving.register_keras_serializable("lottery_tf", "SGD")
class SGD3(_CoupledL2, keras3.optimizers.SGD):
    """``SGD`` for Keras 3."""


@keras3.saving.register_keras_serializable("lottery_tf", "Adam")
class Adam3(_CoupledL2, keras3.optimizers.Adam):
    """``Adam`` for Keras 3."""


class _WarmUp:
    """``schedule`` times (t + 1)/``steps`` for the first ``steps`` steps (Goyal et al. 2017)."""

    of: ClassVar[ModuleType]  # its Keras

    def __init__(self, schedule: Any, steps: int):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step: Any) -> tf.Tensor:
        share = (tf.cast(step, tf.float32) + 1) / self.steps
        return self.schedule(step) * tf.minimum(1.0, share)

    def get_config(self) -> dict[str, Any]:
        schedule = self.of.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_WarmUp":
        schedule = cls.of.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["steps"])


@keras.saving.register_keras_serializable("lottery_tf")
class WarmUp(_WarmUp, keras.optimizers.schedules.LearningRateSchedule):
    __doc__ = _WarmUp.__doc__
    of = keras


@keras3.saving.register_keras_serializable("lottery_tf", "WarmUp")
class WarmUp3(_WarmUp, keras3.optimizers.schedules.LearningRateSchedule):
    __doc__ = _WarmUp.__doc__
    of = keras3


def learning_rate_schedule(
    settings: TrainingSettings, steps_per_epoch: int, of: ModuleType = keras
) -> Any:
    """The schedule over the steps from 0 to T, for tf_keras or Keras 3."""
    schedules = of.optimizers.schedules
    total, rate = settings.steps(steps_per_epoch), settings.learning_rate
    if settings.schedule == "cosine":
        schedule = schedules.CosineDecay(rate, total)
    else:
        drops = settings.milestones if settings.schedule == "step" else (settings.train_for,)
        # At the boundary itself Keras still has the old value; here the drop comes at that step.
        boundaries = [parse_steps(text, steps_per_epoch) - 1 for text in drops]
        if boundaries != sorted(set(boundaries)):
            raise UsageError(f"Expected `milestones` in rising order, not {','.join(drops)}.")
        rates = [rate * settings.decay**i for i in range(len(boundaries) + 1)]
        schedule = schedules.PiecewiseConstantDecay(boundaries, rates)
    warmup = parse_steps(settings.warmup, steps_per_epoch)
    if not warmup:
        return schedule
    return (WarmUp3 if of is keras3 else WarmUp)(schedule, warmup)


def make_optimizer(
    settings: TrainingSettings, steps_per_epoch: int, of: ModuleType = keras
) -> keras.optimizers.Optimizer:
    """A new optimizer with its schedule, for tf_keras or Keras 3."""
    rate = learning_rate_schedule(settings, steps_per_epoch, of)
    return _MAKERS[settings.optimizer](settings, rate, of)


def _sgd(settings: TrainingSettings, rate: Any, of: ModuleType) -> keras.optimizers.Optimizer:
    kind = SGD3 if of is keras3 else SGD
    return kind(rate, settings.momentum, settings.nesterov, l2=settings.weight_decay)


def _adam(settings: TrainingSettings, rate: Any, of: ModuleType) -> keras.optimizers.Optimizer:
    return (Adam3 if of is keras3 else Adam)(rate, l2=settings.weight_decay)


def _adamw(settings: TrainingSettings, rate: Any, of: ModuleType) -> keras.optimizers.Optimizer:
    return of.optimizers.AdamW(rate, weight_decay=settings.weight_decay)


_MAKERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}  # the choices of `optimizer`
