"""Spending a ticket: train it with a recipe, take the tweaks off, and measure the result."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.devices import check_same
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.data import Dataset
from lottery_tf.graph.compat import Callback, keras
from lottery_tf.graph.layers import assign, trainable_names, values
from lottery_tf.inspecting.signal import sentence_of, signal
from lottery_tf.losses.from_keras import default_loss
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.checkpoints import Checkpoints, State, told_of_damage
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer, evaluate, in_training, make_trainer
from lottery_tf.training.trouble import check_finite, check_masks_stay
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.settings import as_read


@dataclasses.dataclass(frozen=True)
class Retrained:
    """The finished model without tweaks, and its measurements.

    Attributes:
      model: plain Keras layers, compiled for evaluation with the plain cross-entropy.
      result: the measurements for ``result.json``.
      epochs: a row of metrics for each epoch.
      best: the model's values after the epoch with the best dev accuracy.
    """

    model: keras.Model
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    best: dict[str, np.ndarray]


def retrain(
    ticket: Ticket,
    recipe: Recipe,
    data: Dataset,
    training: TrainingSettings,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    on_prepared: Callable[[], None] = lambda: None,
    test: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Retrained:
    """Trains the ticket from its rewind step to the end with ``recipe``.

    Args:
      ticket: the ticket to train; schedule and data begin at its rewind step.
      recipe: the tweaks.
      data: training, dev and test examples.
      training: the same settings as in finding, for a fair comparison.
      checkpoints: from which an interrupted training goes on. Default: none are kept.
      on_epoch: called after each epoch with the rows of all epochs so far.
      on_prepared: called when the recipe is on the model, before the training.
      test: whether to measure on the test images too.
      callbacks: Keras callbacks for the training.

    Raises:
      Diverged: if weights become NaN or infinite.
    """
    checkpoints = checkpoints or Checkpoints()
    checkpoints.begin()
    by = f"by {as_read(recipe.name)}"
    described = {"recipe": recipe.name, "tweaks": recipe.describe()}
    resumed = checkpoints.facts()
    if resumed is not None:
        # The checkpoint's weights have the permanent changes already: no need to search again.
        recipe = Recipe([each for each in recipe.tweaks if not each.permanent])
    recipe = in_training(recipe, training.precision)
    steps_per_epoch = data.steps_per_epoch
    trainer = make_trainer(
        ticket,
        recipe,
        data.stream,
        steps_per_epoch,
        make_optimizer(training, steps_per_epoch, ticket.its_keras),
        data=data.stream(),
        jit_compile=training.jit_compile,
        steps_per_execution=training.steps_per_execution,
    )
    on_prepared()
    first_step = ticket.info.get("rewind_step", 0)
    if resumed is None:
        _warn_of_blocked(trainer.model, data.stream(first_step), described["tweaks"])
    trainer.stream = _stream(recipe, trainer.model, data)
    last_step = training.steps(steps_per_epoch)
    trainer.reset(first_step)
    dev = data.batches("dev") if len(data.dev) else None
    watch = _Watch(trainer, recipe, checkpoints, on_epoch, dev is not None)
    if resumed is not None:
        watch.restore(resumed, data.batches("train").take(1))
    checkpoints.fit(
        *(trainer, last_step, watch.state),
        [*recipe.callbacks(last_step - first_step), *callbacks, watch],
        begun=first_step,
        validation_data=dev,
        validation_freq=training.validation_freq,
        which=by,
    )
    check_finite(values(trainer.model).values(), by)
    check_masks_stay(trainer.model, ticket.masks, by)

    finished = compiled_for_evaluation(recipe.finish(trainer.model))
    check_same("trained weights", values(finished).values())
    assign(trainer.model, watch.best_values)
    best = values(recipe.finish(trainer.model))
    result = {
        **described,
        **watch.learned,
        "sparsity": ticket.sparsity,
        "sparsity_total": ticket.sparsity_total,
        "nonzero_parameters": nonzero_parameters(finished),
        **measured(finished, data, "dev"),
        "train_accuracy": evaluate(finished, data.batches("train"))["accuracy"],
        **({} if dev is None else {"best_dev_accuracy": watch.best_accuracy}),
        **(measured_on_test(finished, best, data) if test else {}),
        "epochs": len(watch.rows),
        "seed": training.seed,
        "seconds": checkpoints.seconds,
    }
    return Retrained(finished, result, watch.rows, best)


def _warn_of_blocked(model: keras.Model, data: tf.data.Dataset, tried: Collection[str]) -> None:
    """Logs a line if almost no gradient reaches layers of a prepared model; changes nothing."""
    try:
        told = sentence_of(signal(model, data), tried=tried)
    except UsageError:
        return  # if data or labels do not fit, the training itself raises a clearer error
    if told:
        log.warning("%s", told)


def measured_on_test(
    model: keras.Model, best: Mapping[str, np.ndarray], data: Dataset
) -> dict[str, float]:
    """The measurements on the test images for ``result.json``.

    Args:
      model: the trained model, compiled for evaluation.
      best: its values after the epoch with the best dev accuracy.
      data: the dataset with the test images.
    """
    last = values(model)
    found = measured(model, data, "test")
    assign(model, best)
    found["best_dev_test_accuracy"] = evaluate(model, data.batches("test"))["accuracy"]
    assign(model, last)
    return found


def measured(model: keras.Model, data: Dataset, *splits: str) -> dict[str, float]:
    """``dev_loss``, ``dev_accuracy``, … of a compiled model on the splits that have examples."""
    return {
        f"{split}_{name}": value
        for split in splits
        if len(getattr(data, split))
        for name, value in evaluate(model, data.batches(split)).items()
    }


def _stream(recipe: Recipe, model: keras.Model, data: Dataset) -> Callable[[int], tf.data.Dataset]:
    """``data.stream``, with a teacher's logits if images are the same in each epoch."""
    for tweak in recipe.tweaks:
        if isinstance(tweak, Distillation) and not data.augment:
            with model.distribute_strategy.scope():
                logits = tweak.logits(data.batches("train"), model)
            return functools.partial(data.stream, beside={"teacher_logits": logits})
    return data.stream


def compiled_for_evaluation(model: keras.Model) -> keras.Model:
    """The model, compiled to measure the plain cross-entropy and the accuracy."""
    model.compile(loss=default_loss(model), metrics=["accuracy"])
    return model


def nonzero_parameters(model: keras.Model) -> int:
    """Number of the model's trainable parameters, frozen or not, that are not 0."""
    trainable = trainable_names(model)
    parameters = (value for name, value in values(model).items() if name in trainable)
    return sum(int(np.count_nonzero(value)) for value in parameters)


class _Watch(Callback):
    """A callback that keeps the rows of the epochs, and the best weights on dev.

    While a tweak has an effect, the model is not the finished one, and cannot be the best.
    """

    def __init__(
        self,
        trainer: Trainer,
        recipe: Recipe,
        checkpoints: Checkpoints,
        on_epoch: Callable[[list[dict[str, Any]]], None],
        has_dev: bool,
    ):
        super().__init__()
        self.trainer, self.recipe = trainer, recipe
        self.learned = recipe.learned(trainer.model)
        self.checkpoints, self.on_epoch, self.has_dev = checkpoints, on_epoch, has_dev
        self.rows: list[dict[str, Any]] = []
        self.best_accuracy, self.best_values = -1.0, values(trainer.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        named = {key.replace("val_", "dev_"): float(value) for key, value in logs.items()}
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "step": self.trainer.step,
                **named,
                "learning_rate": float(self.trainer.learning_rate),
                "seconds": round(self.checkpoints.seconds, 3),
            }
        )
        # Without a dev split the last epoch counts; with one, only epochs that measured on it.
        accuracy = named.get("dev_accuracy", -1.0 if self.has_dev else self.best_accuracy + 1)
        if accuracy > self.best_accuracy and self.recipe.progress(self.trainer.model) >= 1:
            self.best_accuracy = accuracy
            self.best_values = values(self.trainer.model)
        self.on_epoch(self.rows)

    def state(self) -> State:
        """Its part of a checkpoint."""
        facts = {"rows": self.rows, "best": self.best_accuracy, "learned": self.learned}
        return State(facts, {"best": self.best_values})

    def restore(self, facts: Mapping[str, Any], batch: tf.data.Dataset) -> None:
        """Goes on from the present checkpoint, which has these ``facts``."""
        with told_of_damage(self.checkpoints.folder):
            self.rows, self.best_accuracy = list(facts["rows"]), float(facts["best"])
            self.learned = dict(facts.get("learned", {}))  # older releases stored nothing
            self.best_values = self.checkpoints.arrays("best")
        self.checkpoints.begin(facts["seconds"] + self.checkpoints.seconds)
        self.checkpoints.restore(self.trainer, batch)
