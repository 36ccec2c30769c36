"""What every tweak of the retraining is: a plug-in that the finished model shows no trace of."""

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

    A subclass is a frozen dataclass; its fields, made by ``common.settings.setting``, are its
    parameters. One of this library has them in ``tweaks.settings``, by which it has flags. It
    overrides those that it needs of ``change`` (or ``apply``), ``attach``, ``loss``, ``callbacks``,
    ``progress`` and ``restore``. The order of use is ``prepare``,
    ``compile(loss=tweak.loss(loss))``, ``fit(callbacks=tweak.callbacks())``, ``finish``.
    """

    # Whether what ``change`` does is in the finished model; then it comes before what fades.
    permanent: ClassVar[bool] = False
    # Of those that are permanent: which comes first.
    rank: ClassVar[int] = 1

    def prepare(
        self, model: keras.Model, data: Any = None, loss: Any = None, loss_weights: Any = None
    ) -> keras.Model:
        """The model to train with this tweak on; ``Recipe.prepare`` does it for several."""
        return put_on([self.for_loss(loss, loss_weights)], model, data)

    def for_loss(self, loss: Any, loss_weights: Any = None) -> "Tweak":
        """The tweak for a training by a loss, as ``compile`` takes it; few look at it."""
        return self

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        """``model`` itself, or a changed copy of it.

        Args:
          model: a built Sequential or functional model, masked or dense, not yet compiled.
          data: a ``tf.data.Dataset`` of training batches, for tweaks that look at them.
        """
        return model

    def apply(
        self, model: keras.Model, data: tf.data.Dataset | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """What ``change`` returns, and what was learned on the way, as JSON knows it.

        The prepared model keeps it, for ``learned`` and ``result.json``; a tweak keeps nothing.
        """
        return self.change(model, data), {}

    def learned(self, model: keras.Model) -> dict[str, Any]:
        """What was learned when ``model`` was prepared with this tweak; most learn nothing."""
        prepared = prepared_step(model)
        return {} if prepared is None else dict(prepared.learned.get(type(self), {}))

    def attach(self, model: keras.Model) -> None:
        """Puts on ``model`` itself what a copy of it would not have; a second time does nothing.

        It comes after the changes of all tweaks, and again as ``fit`` begins: a model that was
        loaded from a file has lost it.
        """

    def loss(self, loss: keras.losses.Loss | None = None) -> keras.losses.Loss:
        """The training loss, made from ``loss``; most change nothing of it.

        Without ``loss`` tweaks of the labels take the cross-entropy on logits, that of tf_keras;
        which of logits and probabilities the model gives, what it is to be trained by and which
        Keras it is of, ``Recipe.loss`` knows alone.
        """
        return loss

    def callbacks(self, steps: int | None = None) -> list[keras.callbacks.Callback]:
        """Callbacks that ``fit`` needs; put them before those that log or save.

        Args:
          steps: length of the whole training. Default: the epochs of ``fit`` times its steps of an
            epoch.
        """
        return [Attach(self)]

    def progress(self, model: keras.Model) -> float:
        """The way that the tweak has gone, from 0 to 1, where it has no effect any more and
        ``finish`` can take it off."""
        return 1.0

    def restore(self, model: keras.Model) -> keras.Model:
        """``model``, or a copy without what ``change`` has added; it may be called at any time."""
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
                f"{way}: train (on) with fit(callbacks=recipe.callbacks()); if a callback has put "
                "back weights from within the fade, give fit lt.AfterFades(callback, recipe)."
            )


def put_on(tweaks: Sequence[Tweak], model: keras.Model, data: Any = None) -> keras.Model:
    """The model to train with all of ``tweaks`` on, as ``Recipe.prepare`` has it.

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
        # Else the copy at the end would be the first to fail, with all the training spent.
        without_wrappers(model)
    for tweak in tweaks:
        tweak.attach(prepared)
    if learned:
        make_prepared_step(prepared).learned = learned
    return prepared


def taken_off(tweaks: Sequence[Tweak], model: keras.Model) -> keras.Model:
    """``model`` without ``tweaks``; a UsageError if one of them has still an effect."""
    check_graph(model)
    for tweak in tweaks:
        tweak.check_progress(model)
    for tweak in reversed(tweaks):
        model = tweak.restore(model)
    return model


class Attach(Callback):
    """Puts a tweak on the model that is trained."""

    def __init__(self, tweak: Tweak):
        super().__init__()
        self.tweak = tweak

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        check_of_its_keras(model, loss=getattr(model, "loss", None))
        before = _around(model)
        self.tweak.attach(model)
        if _around(model) != before:
            # Keras keeps the function that a training before has compiled.
            model.train_function = None


def _around(model: keras.Model) -> dict[type, Any]:
    prepared = prepared_step(model)
    return {} if prepared is None else dict(prepared.around)
