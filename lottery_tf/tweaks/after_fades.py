"""A callback that waits until the tweaks of a recipe have faded."""

from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph.compat import Callback, keras, parts_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import check_of_its_keras
from lottery_tf.tweaks.fade import FadingTweak
from lottery_tf.tweaks.recipe import Recipe

_KINDS = keras.callbacks.Callback | keras3.callbacks.Callback


class AfterFades(Callback):
    """Holds a callback back until every fade of a recipe is over.

    While a tweak has an effect the model in training is not yet the finished one. A "best" epoch
    from that time cannot be finished: ``recipe.finish`` refuses it. So ``ModelCheckpoint``,
    ``EarlyStopping`` and the like are given to ``fit`` in this::

        best = keras.callbacks.ModelCheckpoint("best.keras", "val_accuracy", save_best_only=True)
        model.fit(…, callbacks=[*recipe.callbacks(), lt.AfterFades(best, recipe)])

    During the fades the callback is not told of the ends of epochs and batches. The end of the
    epoch in which the last fade ends is the first that it is told of. Everything else is handed on
    at once. A recipe without fades holds nothing back.

    Args:
      callback: what is to wait; a callback of the model's Keras.
      recipe: the recipe that has prepared the model.

    Raises:
      UsageError: for arguments of another kind. In ``fit``, for a callback of another Keras than
        the model's. After the first epoch, if the recipe's own callbacks are not in ``fit``.
    """

    def __init__(self, callback: Any, recipe: Recipe):
        super().__init__()
        if not isinstance(callback, _KINDS):
            raise UsageError(
                "Expected a callback of Keras to hold back, such as ModelCheckpoint(…), not "
                f"{callback!r}."
            )
        if not isinstance(recipe, Recipe):
            raise UsageError(
                f"Expected the lt.Recipe that has prepared the model, not {recipe!r}: say "
                "lt.AfterFades(callback, recipe)."
            )
        self.callback, self.recipe = callback, recipe
        self.over = False

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if not isinstance(self.callback, Callback):  # ours are of both
            check_of_its_keras(model, callback=self.callback)
        self.callback.set_model(model)

    def _look(self) -> None:
        """Notes whether the fades are over, which they then stay."""
        self.over = self.over or self.recipe.progress(self.model) >= 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.over = False  # another model than before, it may be
        self._look()
        self.callback.on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.over:
            self._check_counted()
            self._look()
        if self.over:
            self.callback.on_epoch_end(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.over:
            self.callback.on_train_batch_end(batch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self.over:
            log.warning(
                "%s was held back to the end of fit, as the recipe's fades are not over: they have "
                "gone %.0f %% of their way. Train on, or shorten the fades (share=…).",
                *(type(self.callback).__name__, 100 * self.recipe.progress(self.model)),
            )
        self.callback.on_train_end(logs)

    def _check_counted(self) -> None:
        """Raises UsageError for fading layers that nobody has told how long they have."""
        parts = list(parts_of(self.model))
        for tweak in self.recipe.tweaks:
            if not isinstance(tweak, FadingTweak) or tweak.kept:
                continue
            layers = [each for each in parts if isinstance(each, tweak.layer_class)]
            if any(int(layer.length.numpy()) < 0 for layer in layers):
                raise UsageError(
                    f"Expected the recipe's own callbacks in fit, by which {type(tweak).__name__} "
                    "fades; they are not there: say "
                    "callbacks=[*recipe.callbacks(), lt.AfterFades(callback, recipe)]."
                )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_train_batch_begin(batch, logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_epoch_begin(epoch, logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_test_begin(logs)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_test_end(logs)

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.callback.on_test_batch_end(batch, logs)
