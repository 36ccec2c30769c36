"""The base class of tweaks: plug-ins of a retraining that leave no trace in the finished model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import Callback, keras
from lottery_tf.graph.fit_data import batches
from lottery_tf.graph.layers import check_graph, check_of_its_keras
from lottery_tf.graph.prepared_step import make_prepared_step, prepared_step
from lottery_tf.masks.wrapper import masked_by_us, without_wrappers


@dataclasses.dataclass(frozen=True)
class Tweak:
    """Changes how a ticket is retrained; usable alone, with others, and on any model.

    A subclass is a frozen dataclass. Its fields, made by ``common.settings.setting``, are its
    parameters; those of this library's tweaks are in ``tweaks.settings``, which makes their flags.
    It overrides what it needs of ``change`` (or ``apply``), ``attach``, ``loss``, ``callbacks``,
    ``progress`` and ``restore``. The order of use is ``prepare``,
    ``compile(loss=tweak.loss(loss))``, ``fit(callbacks=tweak.callbacks())``, ``finish``.
    """

    # Whether the effect of ``change`` stays in the finished model; then fading ones come later.
    permanent: ClassVar[bool] = False
    # The order of permanent tweaks; the lowest comes first.
    rank: ClassVar[int] = 1

    def prepare(
        self, model: keras.Model, data: Any = None, loss: Any = None, loss_weights: Any = None
    ) -> keras.Model:
        """The model to train with this tweak on; ``Recipe.prepare`` does it for several."""
        return put_on([self.for_loss(loss, loss_weights)], model, data)

    def for_loss(self, loss: Any, loss_weights: Any = None) -> "Tweak":
        """The tweak for a training by a loss, as ``compile`` takes it. Few tweaks depend on it."""
        return self

    def for_training_by(self, optimizer: str) -> "Tweak":
        """The tweak for a training by an optimizer, by its name in lower case, such as ``adam``.
        Few tweaks depend on it."""
        return self

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        """``model`` itself, or a changed copy of it.

        Args:
          model: a built Sequential or functional model, masked or dense, not yet compiled.
          data: a ``tf.data.Dataset`` of training batches, for tweaks that need them.
        """
        return model

    def apply(
        self, model: keras.Model, data: tf.data.Dataset | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """The result of ``change``, and what was learned by it, as JSON values.

        The prepared model stores the latter, for ``learned`` and ``result.json``; a tweak does not.
        """
        return self.change(model, data), {}

    def learned(self, model: keras.Model) -> dict[str, Any]:
        """What was learned when ``model`` was prepared with this tweak; usually nothing."""
        prepared = prepared_step(model)
        return {} if prepared is None else dict(prepared.learned.get(type(self), {}))

    def attach(self, model: keras.Model) -> None:
        """Puts on ``model`` itself what a copy of it would lack; a second call does nothing.

        It is called after the changes of all tweaks, and again when ``fit`` begins, as a model from
        a file lacks it.
        """

    def loss(self, loss: keras.losses.Loss | None = None) -> keras.losses.Loss:
        """The training loss, made from ``loss``; most tweaks return it unchanged.

        Without ``loss`` tweaks of the labels start from tf_keras' cross-entropy on logits. Only
        ``Recipe.loss`` knows the model's loss, its Keras, and whether it gives logits.
        """
        return loss

    def callbacks(self, steps: int | None = None) -> list[keras.callbacks.Callback]:
        """Callbacks that ``fit`` needs; put them before those that log or save.

        Args:
          steps: the steps of the whole training. Default: the epochs of ``fit`` times its steps of
            an epoch.
        """
        return [Attach(self)]

    def progress(self, model: keras.Model) -> float:
        """How far the tweak has faded, from 0 to 1.

        At 1 it has no effect any more, and ``finish`` can take it off."""
        return 1.0

    def restore(self, model: keras.Model) -> keras.Model:
        """``model``, or a copy without what ``change`` has added. It may be called at any time."""
        return model

    def finish(self, model: keras.Model) -> keras.Model:
        """The model without the tweak: the architecture that went into ``prepare``.

        Raises:
          UsageError: if the tweak still has an effect, so that the model would compute something
            else without it.
        """
        return taken_off([self], model)

    def check_progress(self, model: keras.Model) -> None:
        """Raises UsageError while the tweak has an effect."""
        progress = self.progress(model)
        if progress < 1:
            way = f"has gone {100 * progress:.0f} % of its way" if progress else "has not begun"
            raise UsageError(
                f"Expected a model whose training is past the fade of {type(self).__name__}, which "
                f"{way}: train (on) with fit(callbacks=recipe.callbacks()). If a callback has "
                "restored weights from within the fade, give fit lt.AfterFades(callback, recipe)."
            )


def put_on(tweaks: Sequence[Tweak], model: keras.Model, data: Any = None) -> keras.Model:
    """The model to train with all of ``tweaks`` on, as in ``Recipe.prepare``.

    Raises:
      UsageError: if the model has no graph of layers, or layers that cannot be copied.
    """
    if data is not None:
        data = batches(data, model, "data", seed=0)
    check_graph(model)
    prepared = masked_by_us(model)
    learned: dict[type, dict[str, Any]] = {}
    for tweak in sorted(tweaks, key=lambda each: (not each.permanent, each.rank)):
        prepared, found = tweak.apply(prepared, data)
        if found:
            learned[type(tweak)] = found
    if prepared is model:
        # Try a copy now: else the one at the end could fail, and the training would be lost.
        without_wrappers(model)
    for tweak in tweaks:
        tweak.attach(prepared)
    if learned:
        make_prepared_step(prepared).learned = learned
    return prepared


def taken_off(tweaks: Sequence[Tweak], model: keras.Model) -> keras.Model:
    """``model`` without ``tweaks``; UsageError if one of them still has an effect."""
    check_graph(model)
    for tweak in tweaks:
        tweak.check_progress(model)
    for tweak in reversed(tweaks):
        model = tweak.restore(model)
    return model


class Attach(Callback):
    """A callback that puts a tweak on the model that is trained."""

    def __init__(self, tweak: Tweak):
        super().__init__()
        self.tweak = tweak

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        check_of_its_keras(model, loss=getattr(model, "loss", None))
        before = _step_hooks(model)
        self.tweak.attach(model)
        if _step_hooks(model) != before:
            # Keras would reuse the function that an earlier training has compiled.
            model.train_function = None


def _step_hooks(model: keras.Model) -> dict[type, Any]:
    prepared = prepared_step(model)
    return {} if prepared is None else dict(prepared.around)
