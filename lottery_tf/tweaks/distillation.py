"""Distillation: a ticket learns from the dense network in which it was found."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of, on_tensorflow, scope_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import check_tensorflow
from lottery_tf.graph.ops import as_tensors
from lottery_tf.graph.prepared_step import Step, make_prepared_step, prepared_step
from lottery_tf.losses.cross_entropy import taught_by
from lottery_tf.losses.from_keras import changed
from lottery_tf.tweaks import teacher as teachers
from lottery_tf.tweaks.settings import DistillationSettings
from lottery_tf.tweaks.soft_labels import warn_of_another_loss
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class Distillation(DistillationSettings, Tweak):
    """The KD ticket (arXiv 2101.03255 v1): soft labels from a trained model, in training only.

    With the teacher's logits z_t, the ticket's logits z and the labels y the loss is

        (1−λ)·CE(y, softmax(z)) + λ·τ²·KL(softmax(z_t/τ) ‖ softmax(z/τ)),

    CE has smoothed labels if ``LabelSmoothing`` is in the recipe too. For a binary cross-entropy
    (one unit, or several labels) the softmax is a sigmoid, and KL is the mean over the labels. The
    teacher runs in inference mode on each training batch; for data that do not change,
    ``with_logits`` computes its logits only once. Its outputs may be logits, or probabilities, as
    softmax(log p) = p. The teacher is not changed, and is not part of the trained model, its
    variables or its checkpoints.

    In a program ``teacher`` may also be a built model, even a subclassed one, of either Keras. The
    field then holds a text with the model's name and the sum of its weights. A file that holds
    code, such as a Lambda layer, is refused unless ``allow_code`` is True.

    Raises:
      UsageError: for λ or τ out of range. In ``prepare``: for a model of several outputs, and if
        the teacher is missing, holds code or does not fit the model.
    """

    # Not a part of the tweak's identity.
    allow_code: bool = dataclasses.field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher", teachers.source_of(self.teacher))
        super().__post_init__()

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        if len(model.outputs) != 1:
            raise UsageError(
                f"Expected a model with one output for distillation, '{model.name}' has "
                f"{len(model.outputs)}: leave the distillation out of the recipe."
            )
        return model

    def attach(self, model: keras.Model) -> None:
        if self.weight:
            warn_of_another_loss(model, "distillation_weight", "distillation")
        held = _teaching_of(model)
        if held is not None and held.source == self.teacher:
            return
        with scope_of(model):
            teacher = self._load()
            teacher.check_fits(model)
        make_prepared_step(model).around[Distillation] = _Teaching(self._given(), teacher)

    def loss(self, loss: keras.losses.Loss | None = None) -> keras.losses.Loss:
        config = {"distillation_weight": self.weight, "temperature": self.temperature}
        return changed(loss, "to distil with", "distillation", keras_of(loss), **config)

    @property
    def sha256(self) -> str:
        """SHA-256 of the teacher: of its weights, its file, or its folder's files."""
        return teachers.source_sha256(self._given())

    def logits(self, batches: tf.data.Dataset, model: keras.Model | None = None) -> np.ndarray:
        """The teacher's logits of each example, float32 [N, C].

        Args:
          batches: finite data, of tuples with the teacher's inputs as first part.
          model: a model that was prepared with this tweak, and so has the teacher. Default: the
            teacher is loaded.
        """
        held = None if model is None else _teaching_of(model)
        teacher = self._load() if held is None else held.teacher
        if on_tensorflow(teacher.model):
            compute = tf.function(teacher.logits, reduce_retracing=True)
            found = [compute(batch[0]).numpy() for batch in batches]
        else:
            logits = (teacher.logits(as_tensors(batch[0])) for batch in batches)
            found = [keras3.ops.convert_to_numpy(each) for each in logits]
        return np.concatenate(found).astype(np.float32)

    def with_logits(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """``data`` with the teacher's logits, which are computed once and kept in memory.

        Use it for ``fit`` of the model that ``prepare`` has returned; the teacher then does not run
        at each step. Images and logits are kept as they are in the first epoch: so do not augment
        before, and shuffle afterwards.

        Args:
          data: finite data, in batches (inputs, labels) or (inputs, labels, sample weights).

        Returns:
          batches {"batch": the batch of ``data``, "teacher_logits": float32 [batch, C]}.

        Raises:
          UsageError: for a teacher on another backend than TensorFlow; ``fit`` would look at the
            shapes of such a batch before it is split.
        """
        teacher = self._load()
        check_tensorflow(teacher.model, "the logits of a teacher beside data")

        def beside(*batch: Any) -> dict[str, Any]:
            return {"batch": batch, "teacher_logits": tf.cast(teacher.logits(batch[0]), tf.float32)}

        return data.map(beside).cache()

    def _given(self) -> str:
        if self.teacher is None:
            raise UsageError(
                "Expected a teacher for the distillation, none was given: pass "
                "`distillation_teacher`, or Distillation(teacher=…) with a keras.Model or a path."
            )
        return self.teacher

    def _load(self) -> teachers.Teacher:
        """The teacher, in the present strategy's scope."""
        return teachers.load(self._given(), self.allow_code)


@dataclasses.dataclass(frozen=True, eq=False)
class _Teaching:
    """Wraps a training step, to give the loss a teacher's logits of the batch."""

    source: str
    teacher: teachers.Teacher

    def __call__(self, step: Step, data: Any) -> dict[str, tf.Tensor]:
        if isinstance(data, dict) and data.keys() == {"batch", "teacher_logits"}:
            batch, logits = data["batch"], data["teacher_logits"]
        else:
            batch = data
            logits = self.teacher.logits(keras3.utils.unpack_x_y_sample_weight(data)[0])
        with taught_by(logits, self.teacher.kind):
            return step(batch)


def _teaching_of(model: keras.Model) -> _Teaching | None:
    """The ``_Teaching`` that was put on a model; None if there is none."""
    prepared = prepared_step(model)
    held = None if prepared is None else prepared.around.get(Distillation)
    return held if isinstance(held, _Teaching) else None
