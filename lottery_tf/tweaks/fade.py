"""Fades: the effect of a tweak is gone before the training ends."""

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph.compat import Callback, keras, on_jax, parts_of
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

    linear: start + (end − start)·p; cosine: the same with (1 − cos πp)/2 instead of p;
    exponential: start·(end/start)^p, for values above 0; constant: start. From p = 1 on the value
    is exactly ``end``.

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
    """The base of what fades: an effect that follows a ``Schedule`` over the steps of training.

    The count of steps is in variables of its own, which every checkpoint holds, so that a fade
    goes on after an interruption. ``FadingTweak`` increases it within the training step. Nothing is
    traced anew, and the count is exact whatever the number of steps in an execution.

    A subclass defines what fades. For each Keras there is a class of layers that derives from that
    subclass and from ``FadingLayer`` or ``FadingLayer3``.

    Args:
      start, end, curve: the schedule's.
      **kwargs: as for any layer of that Keras.

    Attributes:
      fading_tweak: the name of the tweak that takes the layer off in ``finish``.
      step: how many steps it has been trained. int64 [].
      length: how many steps the fade lasts; -1 if not known yet. int64 [].
    """

    fading_tweak: ClassVar[str] = "a fade"
    step: Any
    length: Any
    # Attributes of any layer of Keras.
    name: str
    dtype_policy: Any

    def __init__(self, start: float, end: float, curve: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.schedule = Schedule(start, end, curve)

    def progress(self) -> tf.Tensor:
        """Share of the fade that is done; 1 from its last step on. float32 []."""
        ops = ops_for(self)
        step, length = ops.cast(self.step, "float32"), ops.cast(self.length, "float32")
        share = ops.divide_no_nan(step, length)
        return ops.where(self.is_over(), 1.0, ops.where(length < 0, 0.0, share))

    def is_over(self) -> tf.Tensor:
        """Whether the fade has ended. bool []."""
        return (self.length >= 0) & (self.step >= self.length)

    def value(self) -> tf.Tensor:
        """The schedule's value at the present step. float32 []."""
        model = evaluated_model("train_step", "test_step", "predict_step")
        if model is not None and not _is_counted(model, type(self)):
            _tell_of(model, self)
        return self.schedule.at(self.progress())

    def present(self) -> float:
        """``value`` as a Python number."""
        return float(self.schedule.at(self.progress()))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]  # of the layer
        return {**config, **dataclasses.asdict(self.schedule)}


class FadingLayer(Fading, keras.layers.Layer):
    """The base of fading layers of tf_keras."""

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
    """The base of fading layers of Keras 3.

    Its variables are made in the constructor: as another layer's activation it may not be called
    before it is saved or copied.
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
    """Whether the training step of ``model`` counts steps for its layers of a class."""
    prepared = prepared_step(model)
    return prepared is not None and any(issubclass(layers, each) for each in prepared.around)


_warned: weakref.WeakSet[keras.Model] = weakref.WeakSet()


_warned_in_training: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def _tell_of(model: keras.Model, layer: Fading) -> None:
    """Logs a line if no recipe of this process trains the model that ``layer`` is in.

    It does so once for each model, and once more if the model is then trained like that.
    """
    training = evaluated_model("test_step", "predict_step") is None
    if model in _warned_in_training or (model in _warned and not training):
        return
    if not any(each is layer for each in parts_of(model)):  # in another model, such as a teacher
        return
    (_warned_in_training if training else _warned).add(model)
    names = sorted(fading(model))
    what, recipe = " and ".join(names), f'lt.Recipe("{",".join(names)}")'
    faded = _has_faded(model)
    if faded:
        advice = f"which has faded: {recipe}.finish(model) gives the finished model."
    else:
        state = {False: "which has not faded", None: "which may not have faded"}[faded]
        advice = (
            f"{state}{' and stands still in this training' * training}: train on with "
            f"fit(callbacks=recipe.callbacks()) until recipe.progress(model) is 1, then finish "
            f"it, where recipe is {recipe} or your own."
        )
    log.warning("%s: it was saved in training and still has %s in it, %s", model.name, what, advice)


def _has_faded(model: keras.Model) -> bool | None:
    """Whether all fades of ``model`` are over; None where a traced step has no numbers of them."""
    if on_jax(model) or tf.distribute.has_strategy():
        return None
    with tf.init_scope():
        return not unfaded(model)


def unfaded(model: keras.Model, tweaks: Sequence[Tweak] = ()) -> dict[str, float]:
    """Name → progress of each fade in ``model`` that is not over and is of none of ``tweaks``."""
    own = tuple(each.layer_class for each in tweaks if isinstance(each, FadingTweak))
    found: dict[str, float] = {}
    for layer in parts_of(model):
        if isinstance(layer, Fading) and not isinstance(layer, own):
            progress = float(layer.progress())
            if progress < 1:
                found[layer.fading_tweak] = min(progress, found.get(layer.fading_tweak, 1.0))
    return found


def check_no_other(model: keras.Model, tweaks: Sequence[Tweak], uncounted: bool = False) -> None:
    """Raises UsageError if ``model`` has a fade that is not over and is of none of ``tweaks``.

    Args:
      model: a model that may be prepared.
      tweaks: those of the recipe that is asked.
      uncounted: only for fades whose steps the training step of ``model`` does not count.
    """
    found = unfaded(model, tweaks)
    if uncounted:
        counted = {
            each.fading_tweak
            for each in parts_of(model)
            if isinstance(each, Fading) and _is_counted(model, type(each))
        }
        found = {name: progress for name, progress in found.items() if name not in counted}
    if found:
        way = " and ".join(
            f"{name} ({100 * progress:.0f} % of its way)" if progress else f"{name} (not begun)"
            for name, progress in sorted(found.items())
        )
        raise UsageError(
            f"Expected the recipe that '{model.name}' was prepared with; the model is within the "
            f"fade of {way}, which this recipe has not: use "
            f'lt.Recipe("{",".join(sorted(found))}"), with the other tweaks of the training.'
        )


class NoOther(Callback):
    """Refuses to train a model with a fade that none of a recipe's tweaks takes on."""

    def __init__(self, tweaks: Sequence[Tweak]):
        super().__init__()
        self.tweaks = tweaks

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # By now the callbacks of all recipes that are given to fit have had their tweaks attached.
        check_no_other(self.model, self.tweaks, uncounted=True)


@dataclasses.dataclass(frozen=True)
class FadingTweak(FadingSettings, Tweak):
    """A tweak that is made of fading layers.

    A subclass says of which class the layers are, and how logs name their value.

    Attributes:
      layer_class: that class, the common base of the layers of both Kerases.
    """

    layer_class: ClassVar[type[Fading]]

    @property
    def value_name(self) -> str:
        """The name of the layers' value in logs."""
        raise NotImplementedError

    @property
    def kept(self) -> bool:
        """Whether the layers stay as they begin, and ``finish`` keeps what they compute."""
        return False

    def check_kept(self, model: keras.Model) -> None:
        """Makes the finished model once if the layers are ``kept``, and logs a line.

        So an error comes before the training, not at its end."""
        if self.kept and self.layers(model):
            self.restore(model)
            log.info(
                "%s: %s stays in the finished model, so that its architecture is not the ticket's.",
                *(model.name, self.layer_class.fading_tweak),
            )

    def check_fresh(self, model: keras.Model) -> None:
        """Raises UsageError if the tweak is on ``model`` already."""
        if self.layers(model):
            raise UsageError(
                f"Expected a model without {type(self).__name__}; '{model.name}' was prepared with "
                "it already: train that model, or prepare the original one."
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
            # Where the data end, TensorFlow would count a batch that never comes, as Keras' own
            # count of steps does.
            parts = tf.nest.flatten(data, expand_composites=True)
            with tf.control_dependencies([each for each in parts if tf.is_tensor(each)]):
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
    """Sets the length of the fade in a tweak's layers, and logs their value each epoch.

    The value goes into the epoch's ``logs``, for the history and for later callbacks such as
    TensorBoard.
    """

    tweak: FadingTweak

    def __init__(self, tweak: FadingTweak, steps: int | None):
        super().__init__(tweak)
        self.steps = steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.steps is not None:
            self._begin(self.steps)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # fit begins at initial_epoch, which only the first epoch's number tells.
        if self.steps is not None or not self._is_new():
            return
        if self.params.get("steps") is None:
            raise UsageError(
                "Expected data of a known number of batches, so that the fade can end in time: "
                "give fit(steps_per_epoch=…), or callbacks(steps=…) with the steps of the whole "
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
