"""What every tweak of the retraining is: a plug-in that the finished model shows no trace of."""

import dataclasses

from lottery_tf.keras import keras


@dataclasses.dataclass(frozen=True)
class Tweak:
    """Changes how a ticket is retrained; usable alone, with others, and on any model.

    A subclass is a frozen dataclass; its fields, made by ``lottery_tf.settings.setting``, are its
    parameters and its flags. It overrides those of the four methods that it needs. The order is
    ``prepare``, ``compile(loss=tweak.loss())``, ``fit(callbacks=tweak.callbacks())``, ``finish``.
    """

    def prepare(self, model: keras.Model, data=None) -> keras.Model:
        """The model to train: ``model`` itself, or one that computes with its layers.

        Args:
          model: a built Sequential or functional model, masked or dense, not yet compiled.
          data: a ``tf.data.Dataset`` of training batches, for tweaks that look at them.
        """
        return model

    def loss(self, loss: keras.losses.Loss | None = None) -> keras.losses.Loss:
        """The training loss, made from ``loss`` (default: cross-entropy)."""
        return loss

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Callbacks that ``fit`` needs."""
        return []

    def finish(self, model: keras.Model) -> keras.Model:
        """The model without the tweak: the architecture that went into ``prepare``."""
        return model
