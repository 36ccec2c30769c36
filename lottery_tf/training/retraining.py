"""Spending a ticket: train it with a recipe, take the tweaks off, measure what is left."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.devices import check_same, from_chief
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import check_part, read_json, sha256, whole_folder, write_record
from lottery_tf.common.log import log
from lottery_tf.common.ownership import Kind, has_arrays, has_keys
from lottery_tf.data import Dataset
from lottery_tf.graph.compat import Callback, keras
from lottery_tf.graph.layers import assign, trainable_names, values
from lottery_tf.inspecting.signal import sentence_of, signal
from lottery_tf.losses.from_keras import default_loss
from lottery_tf.masks.masks import read_arrays
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer, evaluate, in_training, make_trainer
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.recipe import Recipe

CHECKPOINT = Kind(
    "a checkpoint",
    {
        "state.json": has_keys("rows", "best", "seconds"),
        "weights.npz": has_arrays("*/*"),
        "best.npz": has_arrays("*/*"),
        # arr_ in a release without names
        "optimizer.npz": has_arrays("first_step", "_*", "arr_*"),
    },
    marker="state.json",
)


@dataclasses.dataclass(frozen=True)
class Retrained:
    """The finished model and what was measured on it, tweaks off.

    Attributes:
      model: plain Keras layers, compiled for evaluation with the plain cross-entropy.
      result: what ``result.json`` holds of the measurement.
      epochs: a row of metrics an epoch.
      best: the model's values after the epoch of the best dev accuracy.
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
    checkpoint: Path | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    on_prepared: Callable[[], None] = lambda: None,
    test: bool = True,
) -> Retrained:
    """Trains the ticket from its rewind step to the end with ``recipe``.

    Args:
      ticket: what to train; its rewind step is where the schedule and the data go on.
      recipe: the tweaks.
      data: training, dev and test examples.
      training: the same as in finding, for a fair comparison.
      checkpoint: a folder to resume from and to save to, at the end of an epoch and at most
        every half minute. Default: none is kept.
      on_epoch: called after each epoch with the rows of all epochs so far.
      on_prepared: called when the recipe is on the model, before the training.
      test: measure on the test images too.
    """
    start = time.perf_counter()
    described = {"recipe": recipe.name, "tweaks": recipe.describe()}
    resumed = checkpoint if checkpoint and (checkpoint / "state.json").exists() else None
    if resumed is not None:
        # What is in the weights for good is in those of the checkpoint: no need to search again.
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
    watch = _Watch(trainer, recipe, start, checkpoint, on_epoch, dev is not None)
    if resumed is not None:
        watch.restore(resumed)
    callbacks = [*recipe.callbacks(last_step - first_step), watch]
    trainer.fit(last_step, callbacks, dev, training.validation_freq)

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
        "seconds": time.perf_counter() - start + watch.seconds_before,
    }
    return Retrained(finished, result, watch.rows, best)


def _warn_of_blocked(model: keras.Model, data: tf.data.Dataset, tried: Collection[str]) -> None:
    """Logs a line if next to no gradient reaches layers of a prepared model; changes nothing."""
    try:
        told = sentence_of(signal(model, data), tried=tried)
    except UsageError:
        return  # of what does not fit the training itself tells, in its own words
    if told:
        log.warning("%s", told)


def measured_on_test(
    model: keras.Model, best: Mapping[str, np.ndarray], data: Dataset
) -> dict[str, float]:
    """What ``result.json`` says of the test images.

    Args:
      model: as training left it; compiled for evaluation.
      best: its values after the epoch of the best dev accuracy.
      data: whose test images are looked at.
    """
    last = values(model)
    found = measured(model, data, "test")
    assign(model, best)
    found["best_dev_test_accuracy"] = evaluate(model, data.batches("test"))["accuracy"]
    assign(model, last)
    return found


def measured(model: keras.Model, data: Dataset, *splits: str) -> dict[str, float]:
    """``dev_loss``, ``dev_accuracy``, … of a compiled model on those splits that have examples."""
    return {
        f"{split}_{name}": value
        for split in splits
        if len(getattr(data, split))
        for name, value in evaluate(model, data.batches(split)).items()
    }


def _stream(recipe: Recipe, model: keras.Model, data: Dataset) -> Callable[[int], tf.data.Dataset]:
    """``data.stream``, with a teacher's logits where an image is the same whenever it comes."""
    for tweak in recipe.tweaks:
        if isinstance(tweak, Distillation) and not data.augment:
            with model.distribute_strategy.scope():
                logits = tweak.logits(data.batches("train"), model)
            return functools.partial(data.stream, beside={"teacher_logits": logits})
    return data.stream


def compiled_for_evaluation(model: keras.Model) -> keras.Model:
    """Compiles a model to measure the plain cross-entropy and the accuracy; returns it."""
    model.compile(loss=default_loss(model), metrics=["accuracy"])
    return model


def nonzero_parameters(model: keras.Model) -> int:
    """Number of the model's trainable parameters, frozen or not, that are not 0."""
    trainable = trainable_names(model)
    parameters = (value for name, value in values(model).items() if name in trainable)
    return sum(int(np.count_nonzero(value)) for value in parameters)


class _Watch(Callback):
    """Keeps the rows of the epochs and the weights that were best on dev, and checkpoints them.

    While a tweak has an effect, what is measured is not the finished model, and cannot be best.
    """

    seconds_between_checkpoints = 30

    def __init__(
        self,
        trainer: Trainer,
        recipe: Recipe,
        start: float,
        checkpoint: Path | None,
        on_epoch: Callable[[list[dict[str, Any]]], None],
        has_dev: bool,
    ):
        super().__init__()
        self.trainer, self.recipe = trainer, recipe
        self.learned = recipe.learned(trainer.model)
        self.start, self.checkpoint = start, checkpoint
        self.on_epoch, self.has_dev = on_epoch, has_dev
        self.rows: list[dict[str, Any]] = []
        self.best_accuracy, self.best_values = -1.0, values(trainer.model)
        self.seconds_before = 0.0
        self.saved = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        named = {key.replace("val_", "dev_"): float(value) for key, value in logs.items()}
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "step": self.trainer.step,
                **named,
                "learning_rate": float(self.trainer.learning_rate),
                "seconds": round(self._seconds(), 3),
            }
        )
        # Without a dev split the last epoch counts; with one, no epoch that did not look at it.
        accuracy = named.get("dev_accuracy", -1.0 if self.has_dev else self.best_accuracy + 1)
        if accuracy > self.best_accuracy and self.recipe.progress(self.trainer.model) >= 1:
            self.best_accuracy = accuracy
            self.best_values = values(self.trainer.model)
        self.on_epoch(self.rows)
        due = time.perf_counter() - self.saved > self.seconds_between_checkpoints
        if self.checkpoint is not None and from_chief(np.array(due)):
            self.save(self.checkpoint)
            self.saved = time.perf_counter()

    def save(self, path: Path) -> None:
        with whole_folder(path, CHECKPOINT) as folder:
            # Of Any, or mypy takes one for allow_pickle.
            arrays: dict[str, dict[str, Any]] = {
                "weights.npz": values(self.trainer.model),
                "best.npz": self.best_values,
                "optimizer.npz": self.trainer.optimizer_state(),
            }
            for name, each in arrays.items():
                np.savez(folder / name, **each)
            state = {"rows": self.rows, "best": self.best_accuracy, "seconds": self._seconds()}
            sums = {name: sha256(folder / name) for name in arrays}
            write_record(folder / "state.json", {**state, "learned": self.learned}, sums)

    def restore(self, path: Path) -> None:
        with _told_of_damage(path):
            state, arrays = read_checkpoint(path)
            self.rows, self.best_accuracy = state["rows"], state["best"]
            self.seconds_before, self.learned = state["seconds"], state["learned"]
            self.best_values = arrays["best.npz"]
            assign(self.trainer.model, arrays["weights.npz"])
            saved = arrays["optimizer.npz"]
            self.trainer.set_optimizer_state(
                _of_older_release(saved, self.trainer) if "arr_0" in saved else saved
            )

    def _seconds(self) -> float:
        return time.perf_counter() - self.start + self.seconds_before


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What ``state.json`` of a checkpoint says, and the arrays beside it, by file.

    Raises:
      UsageError: if it is damaged, or was changed since it was written.
    """
    with _told_of_damage(path):
        state = read_json(path / "state.json")
        arrays = {}
        for name in ("weights.npz", "best.npz", "optimizer.npz"):
            check_part(state, path / name)
            arrays[name] = read_arrays(path / name)
        read = {
            **{"rows": list(state["rows"]), "best": float(state["best"])},
            # Older releases kept nothing of what is learned.
            **{"seconds": float(state["seconds"]), "learned": dict(state.get("learned", {}))},
        }
    return read, arrays


@contextlib.contextmanager
def _told_of_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"Expected a checkpoint of this training in {path}; it is damaged ({error}): remove "
            "that folder, and the same command begins anew."
        ) from error


def _of_older_release(saved: Mapping[str, np.ndarray], trainer: Trainer) -> dict[str, np.ndarray]:
    """The optimizer's state from a checkpoint that has no names, and a count of steps from 0.

    ``trainer`` stands at the rewind step, where the training began.
    """
    state = trainer.optimizer_state()
    # In the order of optimizer.variables, whose first is the count, and of what scales the loss.
    names = [name for name in state if "_variables/" in name or "_loss_scale/" in name]
    state |= dict(zip(names, saved.values(), strict=True))
    state[names[0]] = state[names[0]] - trainer.step
    return state
