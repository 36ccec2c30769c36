"""One run of a comparison in a program: a ticket trained by a recipe, finished and measured."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.summary import in_short
from lottery_tf.finding.fit_checks import optimizer_of
from lottery_tf.graph.compat import is_model, keras, keras_of, on_tensorflow
from lottery_tf.graph.fit_data import Stream, batches
from lottery_tf.graph.layers import check_of_its_keras
from lottery_tf.graph.optimizers import copied, kind_of
from lottery_tf.losses.from_keras import default_loss
from lottery_tf.losses.labels import checked_labels
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.progress import Progress
from lottery_tf.training.retraining import nonzero_parameters
from lottery_tf.training.trainer import evaluate, make_trainer
from lottery_tf.training.trouble import check_finite, check_masks_stay
from lottery_tf.tweaks.recipe import Recipe

# A fit of the user's own: the prepared model, the recipe and the seed → what came of it.
Fit = Callable[[keras.Model, Recipe, int], Any]
_SPLITS = ("test", "dev", "train")


class Trial:
    """One run: a ticket trained by a recipe with a seed, finished and measured."""

    def __init__(
        self,
        ticket: Ticket,
        fit: Fit | None,
        train_data: Any,
        measured: Mapping[str, Any],
        optimizer: Any,
        epochs: int | None,
        steps_per_epoch: int | None,
        loss: Any,
        jit_compile: bool | None,
    ):
        self.ticket, self.fit, self.train_data = ticket, fit, train_data
        self.optimizer, self.epochs, self.steps_per_epoch = optimizer, epochs, steps_per_epoch
        self.loss, self.plain = loss, ticket.build()
        if jit_compile is None and on_tensorflow(self.plain):
            jit_compile = False  # each run is compiled anew, on which XLA spends seconds
        self.jit_compile = jit_compile
        check_of_its_keras(self.plain, loss=loss)
        if fit is None:
            self.optimizer = optimizer_of(self.plain, optimizer)
        if inspect.isgenerator(train_data):
            raise UsageError(
                "Expected train_data that each run can read from the start; a generator is read "
                "once. Give arrays, a keras.utils.Sequence, or a function seed → data."
            )
        self.measured = {
            split: _with_end(data, self.plain, f"{split}_data")
            for split, data in measured.items()
            if data is not None
        }

    def length(self, seed: int) -> tuple[int, int]:
        """The steps of a run, and of an epoch; of a fit of the user's own a run is one."""
        if self.fit is not None:
            return 1, 1
        per_epoch = self._stream(seed).steps_per_epoch
        begin, end = self.ticket.info.get("rewind_step", 0), (self.epochs or 0) * per_epoch
        if end <= begin:
            raise UsageError(
                f"Expected epochs that end behind step {begin}, to which the ticket is rewound; "
                f"{self.epochs} of {per_epoch} steps end at {end}."
            )
        return end - begin, per_epoch

    def _stream(self, seed: int) -> Stream:
        return Stream(self._data(seed), self.plain, "train_data", self.steps_per_epoch, seed)

    def _data(self, seed: int) -> Any:
        return self.train_data(seed) if _is_function(self.train_data) else self.train_data

    def run(self, recipe: Recipe, seed: int, which: str, shown: Progress) -> dict[str, Any]:
        """``test_accuracy``, …, ``nonzero_parameters``: NaN for what is not known."""
        keras_of(self.plain).utils.set_random_seed(seed)
        found = dict.fromkeys((f"{split}_accuracy" for split in _SPLITS), np.nan)
        found["nonzero_parameters"] = np.nan
        if self.fit is None:
            final = self._trained(recipe, seed, which, shown)
        else:
            data = self._data(seed)
            if data is not None:
                data = batches(data, self.plain, "train_data", seed)
            model = recipe.prepare(self.ticket.build(), data, self.loss)
            given = self.fit(model, recipe, seed)
            check_masks_stay(model, self.ticket.masks, which)
            if (told := _accuracies(given)) is not None:
                return {**found, **told}
            final = given if is_model(given) else recipe.finish(model)
        if "test" not in self.measured:
            raise UsageError(
                "Expected test_data to measure the finished models on, or a fit that returns the "
                f"test accuracy; {which} it returned {in_short(repr(given))}."
            )
        check_finite((each.numpy() for each in final.variables), which)
        final.compile(loss=self.loss or default_loss(final), metrics=["accuracy"])
        for split, data in self.measured.items():
            values = evaluate(final, checked_labels(data, final, final.loss))
            if "accuracy" not in values:
                raise UsageError(
                    f"Expected a model with one output, whose accuracy is known; it has "
                    f"{some(list(values))}: give a fit that returns the test accuracy."
                )
            found[f"{split}_accuracy"] = values["accuracy"]
        return {**found, "nonzero_parameters": nonzero_parameters(final)}

    def _trained(self, recipe: Recipe, seed: int, which: str, shown: Progress) -> keras.Model:
        """The finished model of the training of ``find_tickets``."""
        stream = self._stream(seed)
        recipe = recipe.for_training_by(kind_of(self.optimizer).lower())
        trainer = make_trainer(
            self.ticket,
            recipe,
            lambda start: labelled(start),
            stream.steps_per_epoch,
            copied(self.optimizer),
            self.loss,
            data=stream(0),
            jit_compile=self.jit_compile,
        )
        labelled = stream.mapped(
            lambda data: checked_labels(data, trainer.model, trainer.model.loss)
        )
        begin = self.ticket.info.get("rewind_step", 0)
        end = (self.epochs or 0) * stream.steps_per_epoch
        trainer.reset(begin)
        trainer.fit(end, [*recipe.callbacks(end - begin), shown], which=which)
        check_masks_stay(trainer.model, self.ticket.masks, which)
        return recipe.finish(trainer.model)


def _with_end(data: Any, model: keras.Model, what: str) -> tf.data.Dataset:
    """Data that are read after each run."""
    found = batches(data, model, what)
    if inspect.isgenerator(data) or found.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UsageError(
            f"Expected {what} that can be read after each run and have an end: give arrays, a "
            "tf.data.Dataset or a keras.utils.Sequence."
        )
    return found


def _is_function(data: Any) -> bool:
    """Whether data are a function of the seed; Sequences and datasets may be callable too."""
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _accuracies(given: Any) -> dict[str, float] | None:
    """What a fit has measured itself; None where it has left that to us.

    Raises:
      UsageError: for accuracies that are no shares.
    """
    if given is None or is_model(given) or hasattr(given, "history"):
        return None
    said = given if isinstance(given, Mapping) else {"test_accuracy": given}
    names = [f"{split}_accuracy" for split in _SPLITS]
    known = {name: said[name] for name in names if name in said}
    if "test_accuracy" not in known and "accuracy" in said:
        known["test_accuracy"] = said["accuracy"]
    try:
        found = {name: float(np.asarray(value)) for name, value in known.items()}
    except (TypeError, ValueError):
        found = {}
    if "test_accuracy" not in found or not all(0 <= each <= 1 for each in found.values()):
        raise UsageError(
            "Expected a fit that returns None, a finished model, the test accuracy from 0 to 1, or "
            f"a mapping with test_accuracy; got {in_short(repr(given), 80)}."
        )
    return found
