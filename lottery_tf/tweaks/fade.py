"""Fades: what a tweak adds to the training is gone before the training ends."""

import dataclasses
import math
import weakref
from typing import Any, ClassVar

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph.compat import keras, parts_of
from lottery_tf.graph.keras3 import WHOLE
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import fading
from lottery_tf.graph.ops import is_tensor, ops_for
from lottery_tf.graph.prepared_step import Step, make_prepared_step, prepared_step
from lottery_tf.losses.evaluating import evaluated_model
from lottery_tf.tweaks.settings import FadingSettings
from lottery_tf.tweaks.tweak import Attach, Tweak


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A value that goes from ``start`` to ``end`` while the progress p goes from 0 to 1.

    linear: start + (end − start)·p; cosine: the same with (1 − cos πp)/2 in the place of p;
    exponential: start·(end/start)^p, for values above 0; constant: start. From p = 1 on it is
    exactly ``end``.

    >>> [Schedule(1.0, 0.0, "linear").at(p) for p in (0, 0.25, 1, 2)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: float
    end: float
    curve: str = "linear"

    def __post_init__(self) -> None:
        if self.curve == "exponential" and min(self.start, self.end) <= 0:
            raise UsageError(
                "Expected values above 0 for an exponential curve, not "
                f"{self.start:g} to {self.end:g}: choose linear or cosine."
            )

    def at(self, progress: float | tf.Tensor) -> Any:
        """The value at ``progress``: a float for a number, a float32 tensor for a tensor."""
        if not is_tensor(progress):
            return float(self.at(tf.constant(progress, tf.float32)))
        ops = ops_for(progress)
        p = ops.clip(progress, 0.0, 1.0)
        if self.curve == "constant":
            value = self.start + 0.0 * p
        elif self.curve == "exponential":
            value = self.start * ops.exp(p * math.log(self.end / self.start))
        else:
            p = (1 - ops.cos(math.pi * p)) / 2 if self.curve == "cosine" else p
            value = self.start + (self.end - self.start) * p
        return ops.where(p < 1, value, self.end)


class Fading:
    """What fades: its effect follows a ``Schedule`` over the steps of training and then is gone.

    It counts the steps itself, in variables that every checkpoint holds, so that a fade goes on
    where it was. ``FadingTweak`` counts them up within the training step: no retracing, and exact
    whatever the number of steps in an execution.

    It is a layer once it is one of a Keras too: a class that says what fades derives from this one,
    and one for each Keras from that class and from ``FadingLayer`` or ``FadingLayer3``.

    Args:
      start, end, curve: of the schedule.
      **kwargs: as any layer of that Keras.

    Attributes:
      fading_tweak: the name of the tweak whose ``finish`` takes the layer off.
      step: the steps that it has been trained. int64 [].
      length: those that the fade lasts; -1: not known yet. int64 [].
    """

    fading_tweak: ClassVar[str] = "a fade"
    step: Any
    length: Any
    # As any layer of Keras has them.
    name: str
    dtype_policy: Any

    def __init__(self, start: float, end: float, curve: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.schedule = Schedule(start, end, curve)

    def progress(self) -> tf.Tensor:
        """Share of the fade that is behind; 1 from its last step on. float32 []."""
        ops = ops_for(self)
        step, length = ops.cast(self.step, "float32"), ops.cast(self.length, "float32")
        share = ops.divide_no_nan(step, length)
        return ops.where(self.is_over(), 1.0, ops.where(length < 0, 0.0, share))

    def is_over(self) -> tf.Tensor:
        """Whether the layer has no effect any more. bool []."""
        return (self.length >= 0) & (self.step >= self.length)

    def value(self) -> tf.Tensor:
        """The schedule's value at the present step. float32 []."""
        model = evaluated_model("test_step", "predict_step")
        if model is not None and not _is_counted(model, type(self)):
            _tell_of(model)
        return self.schedule.at(self.progress())

    def present(self) -> float:
        """The like, as a number."""
        return float(self.schedule.at(self.progress()))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]  # of the layer
        return {**config, **dataclasses.asdict(self.schedule)}


class FadingLayer(Fading, keras.layers.Layer):
    """What fades, as a layer of tf_keras."""

    def build(self, input_shape: Any) -> None:
        def counter(name: str, value: int) -> tf.Variable:
            return self.add_weight(
                f"{name}_{type(self).__name__.lower()}",
                shape=(),
                dtype=tf.int64,
                initializer=keras.initializers.Constant(value),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        self.step, self.length = counter("step", 0), counter("length", -1)
        super().build(input_shape)


class FadingLayer3(Fading, keras3.layers.Layer):
    """What fades, as a layer of Keras 3.

    It has its variables from the start: a layer whose activation it is may not call it before it is
    saved or copied.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)

        def counter(name: str, value: int) -> keras3.Variable:
            return self.add_weight(
                name=f"{name}_{self.fading_tweak}",
                shape=(),
                dtype=WHOLE,
                initializer=keras3.initializers.Constant(value),
                autocast=False,
                trainable=False,
                aggregation="only_first_replica",
            )

        self.step, self.length = counter("step", 0), counter("length", -1)


def _is_counted(model: keras.Model, layers: type[Fading]) -> bool:
    """Whether the steps of ``model`` are counted for its layers of a class."""
    prepared = prepared_step(model)
    return prepared is not None and any(issubclass(layers, each) for each in prepared.around)


_warned: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def _tell_of(model: keras.Model) -> None:
    """Logs a line, once for each model, of one that no recipe of this process trains."""
    if model not in _warned:
        _warned.add(model)
        names = sorted(fading(model))
        log.warning(
            "%s: it is as it was saved in training, with %s still in it; once that has faded, "
            'lt.Recipe("%s").finish(model) gives the finished model.',
            *(model.name, " and ".join(names), ",".join(names)),
        )


@dataclasses.dataclass(frozen=True)
class FadingTweak(FadingSettings, Tweak):
    """A tweak that lives in fading layers.

    A subclass says which class of layers they are, and what their value is called in logs.

    Attributes:
      layer_class: that class; of layers of both Kerases what they derive from.
    """

    layer_class: ClassVar[type[Fading]]

    @property
    def value_name(self) -> str:
        """What the layers' value is called in logs."""
        raise NotImplementedError

    @property
    def kept(self) -> bool:
        """Whether the layers stay as they begin, and ``finish`` leaves in what they compute."""
        return False

    def check_kept(self, model: keras.Model) -> None:
        """Has what stays in the finished model made once, and logs a line of it; nothing if
        nothing stays. Else the end of the training would be the first to fail."""
        if self.kept and self.layers(model):
            self.restore(model)
            log.info(
                "%s: %s stays in the finished model, which is then another architecture than that "
                "of the ticket.",
                *(model.name, self.layer_class.fading_tweak),
            )

    def check_fresh(self, model: keras.Model) -> None:
        """Raises UsageError if the tweak is on ``model`` already."""
        if self.layers(model):
            raise UsageError(
                f"Expected a model without {type(self).__name__}; '{model.name}' was prepared with "
                "it already: train that model, or prepare the one that it was made from."
            )

    def layers(self, model: keras.Model) -> list[Fading]:
        """The fading layers of this tweak in ``model``, inside other layers too."""
        return [each for each in parts_of(model) if isinstance(each, self.layer_class)]

    def attach(self, model: keras.Model) -> None:
        layers = self.layers(model)
        if not layers or _is_counted(model, self.layer_class):
            return

        def counted(step: Step, data: Any) -> dict[str, Any]:
            logs = step(data)
            for layer in layers:
                layer.step.assign_add(1)
            return logs

        make_prepared_step(model).around[self.layer_class] = counted

    def callbacks(self, steps: int | None = None) -> list[keras.callbacks.Callback]:
        return [Fade(self, steps)]

    def progress(self, model: keras.Model) -> float:
        if self.kept:
            return 1.0
        return min((float(layer.progress()) for layer in self.layers(model)), default=1.0)


class Fade(Attach):
    """Tells the fading layers of a tweak how long they have, and logs their value an epoch.

    The value goes into the epoch's ``logs``, where callbacks that come later (TensorBoard) and the
    history find it.
    """

    tweak: FadingTweak

    def __init__(self, tweak: FadingTweak, steps: int | None):
        super().__init__(tweak)
        self.steps = steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.steps is not None:
            self._begin(self.steps)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Only the first epoch's number says where fit begins, which initial_epoch decides.
        if self.steps is not None or not self._is_new():
            return
        if self.params.get("steps") is None:
            raise UsageError(
                "Expected data of a known number of batches, for the fade to end in time: say "
                "fit(steps_per_epoch=…), or callbacks(steps=…) with the steps of the whole "
                "training."
            )
        self._begin((self.params["epochs"] - epoch) * self.params["steps"])

    def _is_new(self) -> bool:
        return not self.tweak.kept and any(
            layer.length.numpy() < 0 for layer in self.tweak.layers(self.model)
        )

    def _begin(self, steps: int) -> None:
        if self._is_new():
            for layer in self.tweak.layers(self.model):
                layer.length.assign(round(self.tweak.share * steps))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        layers = self.tweak.layers(self.model)
        if layers and logs is not None:
            furthest = max(layers, key=lambda layer: layer.schedule.start)
            logs[self.tweak.value_name] = float(furthest.value())
