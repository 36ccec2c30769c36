"""Soft labels: what the training loss asks for is not all on the true class."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from lottery_tf.errors import UsageError
from lottery_tf.graph import Call, calls
from lottery_tf.keras import keras
from lottery_tf.log import log
from lottery_tf.settings import setting
from lottery_tf.tweaks.divergence import at_least_float32, divergence, logits_of
from lottery_tf.tweaks.evaluating import evaluated_model
from lottery_tf.tweaks.tweak import Tweak

# The teacher's logits of the batch that is trained on, in the thread that traces or runs the step.
_taught = contextvars.ContextVar("taught", default=None)

_LINEAR = keras.activations.linear
_SOFTMAX = (keras.activations.softmax, tf.nn.softmax)


@keras.saving.register_keras_serializable("lottery_tf")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy for integer or one-hot labels; in training with soft labels, if asked for.

    With smoothing ε over C classes the target is 1−ε for the true class and ε/(C−1) for each
    other one, the paper's form (arXiv 2101.03255). Keras' own spreads ε over all C classes and
    smooths the evaluation too: its ``label_smoothing`` of ε·C/(C−1) is this ε.

    With a teacher's logits z_t and the model's z the loss is, CE being the cross-entropy with its
    smoothing (Hinton et al. 2015, arXiv 1503.02531; the KD ticket, arXiv 2101.03255 v1):

        (1−λ)·CE(y, z) + λ·τ²·KL(softmax(z_t/τ) ‖ softmax(z/τ))

    The divergence is computed in float32, or in float64 where the outputs are that. Smoothing
    and teacher are left out while Keras evaluates a model, whichever it is: by ``evaluate``,
    ``test_on_batch`` and the validation of ``fit``.

    Args:
      from_logits: whether the model's outputs are logits; else probabilities.
      label_smoothing: ε in [0, 1); 0 is the plain cross-entropy.
      distillation_weight: λ in [0, 1]; above 0 the loss is to be called within ``taught_by``.
      temperature: τ > 0.
      name, reduction: as any Keras loss.

    Call arguments:
      y_true: integers of shape [batch] or [batch, 1], or one-hot rows [batch, C].
      y_pred: float [batch, C].

    Raises:
      UsageError: if λ > 0 and there are no logits of a teacher.
    """

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        distillation_weight: float = 0.0,
        temperature: float = 1.0,
        name: str = "cross_entropy",
        reduction: str = keras.losses.Reduction.AUTO,
    ):
        super().__init__(name=name, reduction=reduction)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.distillation_weight = distillation_weight
        self.temperature = temperature

    def call(self, y_true, y_pred):
        y_pred = tf.convert_to_tensor(y_pred)
        hard = self._hard(y_true, y_pred)
        if not self.distillation_weight or evaluated_model():
            return hard
        if _taught.get() is None:
            raise UsageError(
                "Expected a teacher's logits of the batch for the distillation; only the training "
                "step of a model that the recipe has prepared has them: train that model with fit "
                "or train_on_batch, with callbacks=recipe.callbacks() if it was loaded from a "
                "file, and in a loop of your own call the loss within "
                "lottery_tf.tweaks.soft_labels.taught_by(teacher_logits)."
            )
        student = y_pred if self.from_logits else logits_of(y_pred, keras.backend.epsilon())
        student = tf.cast(student, at_least_float32(student.dtype))
        teacher = tf.cast(_taught.get(), student.dtype)
        soft = divergence(student / self.temperature, teacher / self.temperature)
        soft *= self.distillation_weight * self.temperature**2
        return (1 - self.distillation_weight) * tf.cast(hard, soft.dtype) + soft

    def _hard(self, y_true, y_pred):
        """The cross-entropy with the labels, smoothed in training. [batch]."""
        classes = y_pred.shape[-1]
        smoothing = 0.0 if evaluated_model() else self.label_smoothing
        y_true = tf.convert_to_tensor(y_true)
        same_rank = y_true.shape.rank == y_pred.shape.rank
        one_hot = same_rank and y_true.shape[-1] == classes
        unknown = same_rank and y_true.shape[-1] is None  # as a Python generator's labels

        def integers():
            return tf.reshape(y_true, tf.shape(y_pred)[:-1])

        def as_one_hot():
            return tf.one_hot(tf.cast(integers(), tf.int32), classes, dtype=y_pred.dtype)

        if not (one_hot or unknown or smoothing):
            return keras.losses.sparse_categorical_crossentropy(
                integers(), y_pred, from_logits=self.from_logits
            )
        if unknown:
            rows = tf.shape(y_true)[-1] == classes
            target = tf.cond(rows, lambda: tf.cast(y_true, y_pred.dtype), as_one_hot)
            target = tf.ensure_shape(target, y_pred.shape)
        else:
            target = tf.cast(y_true, y_pred.dtype) if one_hot else as_one_hot()
        if smoothing:
            target = target * (1 - smoothing) + (1 - target) * (smoothing / (classes - 1))
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=self.from_logits)

    def get_config(self):
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
            "distillation_weight": self.distillation_weight,
            "temperature": self.temperature,
        }


@contextlib.contextmanager
def taught_by(logits: tf.Tensor) -> Iterator[None]:
    """Within the block ``CrossEntropy`` has a teacher's logits [batch, C] of the batch."""
    token = _taught.set(logits)
    try:
        yield
    finally:
        _taught.reset(token)


def as_cross_entropy(loss: keras.losses.Loss | str) -> CrossEntropy | None:
    """The same cross-entropy as a ``CrossEntropy``; None if it cannot be said as one."""
    loss = keras.losses.get(loss)
    if isinstance(loss, CrossEntropy):
        return loss
    kinds = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
    if type(loss) in kinds:
        config = loss.get_config()
        usual = {"label_smoothing": 0, "axis": -1, "ignore_class": None}
        if any(config.get(name, value) != value for name, value in usual.items()):
            return None
        return CrossEntropy(config["from_logits"], reduction=loss.reduction)
    if loss in (
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.categorical_crossentropy,
    ):
        return CrossEntropy(from_logits=False)
    return None


def changed(
    loss: keras.losses.Loss | str | None, purpose: str, name: str, **config: float
) -> CrossEntropy:
    """``loss`` (default: cross-entropy of logits) as a ``CrossEntropy`` with other ``config``.

    Args:
      loss: a Keras loss or its name.
      purpose, name: what the cross-entropy is for, and who asks for it, for the error.
      **config: of ``CrossEntropy``.

    Raises:
      UsageError: if it is no categorical cross-entropy, or has an option that ours has not.
    """
    plain = CrossEntropy() if loss is None else as_cross_entropy(loss)
    if plain is None:
        raise UsageError(
            f"Expected a categorical cross-entropy {purpose}, not {getattr(loss, 'name', loss)}: "
            "compile with SparseCategoricalCrossentropy or CategoricalCrossentropy without "
            f"label_smoothing, axis or ignore_class of their own, or leave {name} out of the "
            "recipe."
        )
    return CrossEntropy.from_config({**plain.get_config(), **config})


def default_loss(model: keras.Model) -> CrossEntropy:
    """The cross-entropy for ``model``, on logits or on probabilities as its outputs are.

    Raises:
      UsageError: if some outputs are logits and others probabilities, or one has a single unit.
    """
    if any(output.shape[-1] == 1 for output in model.outputs):
        raise UsageError(
            "Expected outputs of several classes for the cross-entropy; the model has one "
            "of a single unit: pass the loss to start from."
        )
    from_logits = {not is_softmax(call) for call in calls(model)[1]}
    if len(from_logits) > 1:
        raise UsageError(
            "Expected outputs that are all logits or all probabilities; the model has "
            "both: pass the loss to start from."
        )
    return CrossEntropy(from_logits.pop())


def is_softmax(call: Call) -> bool:
    """Whether a layer's call gives probabilities."""
    layer = call.layer
    while isinstance(layer, keras.layers.Wrapper):  # a pruning wrapper, TimeDistributed
        layer = layer.layer
    activation, symbol = getattr(layer, "activation", None), getattr(layer, "symbol", None)
    # Under mixed precision a cast of the outputs to float32 often comes last.
    same = isinstance(layer, keras.layers.Reshape) or symbol == "cast"
    if same or (type(layer) is keras.layers.Activation and activation is _LINEAR):
        return bool(call.before) and all(map(is_softmax, call.before))
    return (
        isinstance(layer, keras.layers.Softmax) or activation in _SOFTMAX or symbol == "nn.softmax"
    )


def warn_of_another_loss(model: keras.Model, parameter: str, what: str) -> None:
    """Logs a line if ``model`` is compiled and no loss of it is a cross-entropy with a
    ``parameter``, so that nothing comes of ``what``."""
    losses = tf.nest.flatten(getattr(model, "loss", None))
    if any(losses) and not any(getattr(loss, parameter, 0) for loss in losses):
        log.warning(
            "%s: the model '%s' is compiled with another loss, so that it has no effect; compile "
            "with loss=recipe.loss().",
            *(what, model.name),
        )


@dataclasses.dataclass(frozen=True)
class LabelSmoothing(Tweak):
    """Label smoothing (Szegedy et al. 2016, arXiv 1512.00567), in training only.

    Raises:
      UsageError: if ``epsilon`` is outside [0, 1).
    """

    epsilon: float = setting(0.1, "share of the target that goes to the other classes, in [0, 1)")

    def __post_init__(self):
        if not 0 <= self.epsilon < 1:
            raise UsageError(
                f"Expected a label smoothing epsilon in [0, 1), the share of the target that goes "
                f"to the other classes, not {self.epsilon}."
            )

    def attach(self, model):
        if self.epsilon:
            warn_of_another_loss(model, "label_smoothing", "label_smoothing")

    def loss(self, loss=None):
        purpose = "to smooth the labels of"
        return changed(loss, purpose, "label smoothing", label_smoothing=self.epsilon)
