"""Soft labels: the target of the training loss is not all on the true class."""

import dataclasses

import tensorflow as tf

from lottery_tf.common.log import log
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.losses.from_keras import changed
from lottery_tf.tweaks.settings import LabelSmoothingSettings
from lottery_tf.tweaks.tweak import Tweak


def warn_of_another_loss(model: keras.Model, parameter: str, what: str) -> None:
    """Logs that ``what`` has no effect, if ``model`` is compiled without a cross-entropy of ours
    that has this ``parameter``."""
    losses = tf.nest.flatten(getattr(model, "loss", None))
    trained = any(losses) or getattr(model, "optimizer", None) is not None
    if trained and not any(getattr(loss, parameter, 0) for loss in losses):
        log.warning(
            "%s has no effect: the model '%s' is compiled with another loss; compile with "
            "loss=recipe.loss().",
            *(what, model.name),
        )


@dataclasses.dataclass(frozen=True)
class LabelSmoothing(LabelSmoothingSettings, Tweak):
    """Label smoothing (Szegedy et al. 2016, arXiv 1512.00567), in training only.

    Raises:
      UsageError: if ``epsilon`` is outside [0, 1).
    """

    def attach(self, model: keras.Model) -> None:
        if self.epsilon:
            warn_of_another_loss(model, "label_smoothing", "label_smoothing")

    def loss(self, loss: keras.losses.Loss | None = None) -> keras.losses.Loss:
        asks = ("to smooth the labels of", "label smoothing", keras_of(loss))
        return changed(loss, *asks, label_smoothing=self.epsilon)
