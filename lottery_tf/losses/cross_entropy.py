"""The cross-entropy for finding and retraining, with soft labels if asked for."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    keras,
    unconverted,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import is_floating, ops_for, widened
from lottery_tf.graph.step_checks import check_in_step
from lottery_tf.losses.divergence import at_least_float32, divergence, logits_of
from lottery_tf.losses.evaluating import evaluated_model
from lottery_tf.losses.outputs import Outputs


@dataclasses.dataclass(frozen=True)
class _Taught:
    """A teacher's logits of a batch, and the kind of its outputs."""

    logits: Any
    kind: Outputs


# Of the current batch, in the thread that traces or runs the step. A variable is needed because
# Keras calls a compiled loss with nothing but labels and outputs.
_taught: contextvars.ContextVar[_Taught | None] = contextvars.ContextVar("taught", default=None)


class SoftLabelled:
    """A cross-entropy that takes soft labels in training, if asked for.

    CE is the cross-entropy of labels y smoothed by ε; z_t and z are the logits of a teacher and of
    the model. The loss is (Hinton et al. 2015, arXiv 1503.02531; KD ticket, arXiv 2101.03255 v1):

        (1−λ)·CE(y, z) + λ·τ²·KL(p(z_t/τ) ‖ p(z/τ)),

    where p turns logits into probabilities. The divergence is computed in float32, or in float64
    if the outputs are float64. Smoothing and teacher are left out while Keras evaluates any model,
    by ``evaluate``, ``test_on_batch`` or the validation of ``fit``.

    A subclass is a loss of one Keras, and defines CE, z and KL.

    Args:
      from_logits: True if the model's outputs are logits, False for probabilities.
      label_smoothing: ε in [0, 1); 0 is the plain cross-entropy.
      distillation_weight: λ in [0, 1]; above 0 the loss has to be called within ``taught_by``.
      temperature: τ > 0.
      name, **kwargs: as for any loss of that Keras.

    Raises:
      UsageError: if λ > 0 and there are no teacher's logits, or they fit only another loss.
    """

    of: ClassVar[ModuleType]  # its Keras
    called: ClassVar[str]  # its default name
    not_taught_by: ClassVar[tuple[Outputs, ...]]  # outputs that a teacher may not have
    _hard: Callable[..., Any]  # (y_true, y_pred, ε) → CE, [batch, …]
    logits: Callable[..., Any]  # y_pred → z
    _divergence: Callable[..., Any]  # (z, z_t) → KL, of the shape of CE

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        distillation_weight: float = 0.0,
        temperature: float = 1.0,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(name=name or self.called, **kwargs)  # type: ignore[call-arg]  # of the loss
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.distillation_weight = distillation_weight
        self.temperature = temperature

    @unconverted
    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        ops = ops_for(y_pred)
        y_pred = ops.convert_to_tensor(y_pred)
        evaluated = evaluated_model()
        hard = self._hard(y_true, y_pred, 0.0 if evaluated else self.label_smoothing)
        if not self.distillation_weight or evaluated:
            return hard
        taught = _taught.get()
        if taught is None:
            raise UsageError(
                "Expected a teacher's logits of the batch for the distillation; only the training "
                "step of a model that the recipe has prepared has them. Train that model with fit "
                "or train_on_batch, with callbacks=recipe.callbacks() if it was loaded from a "
                "file. In a loop of your own call the loss within "
                "lottery_tf.losses.cross_entropy.taught_by(teacher_logits)."
            )
        if taught.kind in self.not_taught_by:
            raise UsageError(
                f"Expected a teacher for the {self.called.replace('_', ' ')} that the model is "
                f"trained by; this one gives {taught.kind.value}: give a teacher that was trained "
                "by the same loss, or compile with the teacher's loss."
            )
        student = y_pred if self.from_logits else self.logits(y_pred)
        student = ops.cast(student, at_least_float32(student.dtype))
        teacher = ops.cast(taught.logits, student.dtype)
        soft = self._divergence(student / self.temperature, teacher / self.temperature)
        soft *= self.distillation_weight * self.temperature**2
        return (1 - self.distillation_weight) * ops.cast(hard, soft.dtype) + soft

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),  # type: ignore[misc]  # of the loss
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
            "distillation_weight": self.distillation_weight,
            "temperature": self.temperature,
        }


class _CrossEntropy(SoftLabelled):
    """Cross-entropy for integer or one-hot labels; in training with soft labels, if asked for.

    ``CrossEntropy`` is a loss of tf_keras, ``CrossEntropy3`` the same of Keras 3. Arguments and
    distillation are those of ``SoftLabelled``, where p is the softmax.

    With smoothing ε over C classes the target is 1−ε for the true class and ε/(C−1) for each
    other one, the paper's form (arXiv 2101.03255). Keras' own loss spreads ε over all C classes and
    smooths the evaluation too; its ``label_smoothing`` of ε·C/(C−1) equals this ε.

    Call arguments:
      y_true: integers of shape [batch] or [batch, 1], or one-hot rows [batch, C].
      y_pred: float [batch, C].

    Raises:
      UsageError: as ``SoftLabelled``.
      tf.errors.InvalidArgumentError: for integer labels outside 0 … C − 1. Under XLA and JAX,
        which cannot raise, the loss is NaN. With torch it is a UsageError.
    """

    called = "cross_entropy"
    not_taught_by = (Outputs.SIGMOIDS,)

    def logits(self, y_pred: tf.Tensor) -> tf.Tensor:
        return logits_of(y_pred, self.of.backend.epsilon())

    def _divergence(self, student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
        return divergence(student, teacher)

    def _hard(self, y_true: tf.Tensor, y_pred: tf.Tensor, smoothing: float) -> tf.Tensor:
        """The cross-entropy with the labels. [batch]."""
        classes = y_pred.shape[-1]
        ops = ops_for(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        same_rank = ops.ndim(y_true) == ops.ndim(y_pred)
        one_hot = same_rank and y_true.shape[-1] == classes
        unknown = same_rank and y_true.shape[-1] is None  # e.g. labels from a Python generator

        if same_rank and y_true.shape[-1] not in (None, 1, classes):
            raise UsageError(
                f"Expected labels as whole numbers or as rows of {classes}, the model's classes; "
                f"got rows of {y_true.shape[-1]}: give the model as many outputs."
            )

        def integers() -> tf.Tensor:
            found = ops.reshape(y_true, ops.shape(y_pred)[:-1])
            return found if is_floating(found) else widened(found)

        def within(labels: tf.Tensor) -> tf.Tensor:
            return ops.clip(labels, 0, classes - 1)  # check_classes tells of labels outside

        def as_one_hot() -> tf.Tensor:
            found, known = integers(), ops.cast(within(integers()), "int32")
            return check_classes(ops.one_hot(known, classes, dtype=y_pred.dtype), found, classes)

        if not (one_hot or unknown or smoothing):
            found = integers()
            each = self.of.losses.sparse_categorical_crossentropy(
                within(found), y_pred, from_logits=self.from_logits
            )
            return check_classes(each, found, classes)
        if unknown:
            rows = ops.shape(y_true)[-1] == classes
            target = ops.cond(rows, lambda: ops.cast(y_true, y_pred.dtype), as_one_hot)
            target = tf.ensure_shape(target, y_pred.shape)
        else:
            target = ops.cast(y_true, y_pred.dtype) if one_hot else as_one_hot()
        if smoothing:
            target = target * (1 - smoothing) + (1 - target) * (smoothing / (classes - 1))
        return self.of.losses.categorical_crossentropy(target, y_pred, from_logits=self.from_logits)


@keras.saving.register_keras_serializable("lottery_tf")
class CrossEntropy(_CrossEntropy, keras.losses.Loss):
    __doc__ = _CrossEntropy.__doc__
    of = keras


@keras3.saving.register_keras_serializable("lottery_tf", "CrossEntropy")
class CrossEntropy3(_CrossEntropy, keras3.losses.Loss):
    __doc__ = _CrossEntropy.__doc__
    of = keras3


AnyCrossEntropy: TypeAlias = CrossEntropy | CrossEntropy3


def cross_entropy(of: ModuleType) -> type[AnyCrossEntropy]:
    """Our class of the cross-entropy for that Keras."""
    return CrossEntropy3 if of is keras3 else CrossEntropy


def check_classes(value: tf.Tensor, labels: tf.Tensor, classes: int) -> tf.Tensor:
    """``value``, unless one of the ``labels`` is not a class; then as ``check_in_step``.

    ``labels`` are numbers of any dtype.
    """
    ops, floating = ops_for(labels), is_floating(labels)
    # A dtype of few bits may be too small for the number of classes.
    labels = widened(labels)
    whole = labels == ops.round(labels) if floating else True
    return check_in_step(
        value,
        (labels >= 0) & (labels < ops.cast(classes, labels.dtype)) & whole,
        f"Expected labels that are classes of the model, whole numbers from 0 to {classes - 1}; "
        "number them so, or give the model more outputs. The batch has labels from",
        *(ops.min(labels), "to", ops.max(labels)),
    )


@contextlib.contextmanager
def taught_by(logits: tf.Tensor, kind: Outputs = Outputs.LOGITS) -> Iterator[None]:
    """Within the block a cross-entropy has a teacher's logits [batch, C] of the batch.

    Args:
      kind: the kind of the teacher's outputs, by which the loss checks whether they fit it.
    """
    token = _taught.set(_Taught(logits, kind))
    try:
        yield
    finally:
        _taught.reset(token)
