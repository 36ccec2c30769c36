"""Checkpoints: an interrupted training goes on from them, at any step, with the same bits.

A checkpoint has the variables, the optimizer's memory, and the states of the layers' noise. Within
an epoch it also has the counts of the metrics. A training may add more. Batch t depends on t alone
(``Dataset.stream``), so that no state of a reader is needed.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from lottery_tf.common.devices import from_chief, meet, of_any
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import (
    SUMS,
    check_part,
    read_json,
    sha256,
    whole_folder,
    write_record,
)
from lottery_tf.common.interruption import asked, held_back, raise_asked
from lottery_tf.common.log import log
from lottery_tf.common.ownership import Kind, has_arrays, has_keys, remove_ours
from lottery_tf.common.steps import parse_minutes, parse_steps
from lottery_tf.graph.compat import Callback, keras, parts_of, states_of_noise
from lottery_tf.graph.layers import assign, named_layers, values
from lottery_tf.masks.masks import read_arrays
from lottery_tf.training.settings import CheckpointSettings
from lottery_tf.training.trainer import Trainer
from lottery_tf.training.trouble import are_finite

_STATE = "state.json"
CHECKPOINT = Kind(
    "a checkpoint",
    {
        _STATE: has_keys("seconds"),
        "optimizer.npz": has_arrays("*"),  # any optimizer of either Keras
        "metrics.npz": has_arrays("arr_*"),
        "noise.npz": has_arrays("arr_*"),
        # Arrays by names of variables: the weights, the best on dev, masks of gradual pruning, …
        "*.npz": has_arrays("*/*"),
    },
    marker=_STATE,
)


@dataclasses.dataclass(frozen=True)
class State:
    """What a training adds to its checkpoints.

    Attributes:
      facts: JSON values.
      arrays: name of a file → its arrays, by the names of the variables that they belong to.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoint of a run; each one replaces the one before.

    Args:
      folder: its place; None to keep none.
      settings: how often one is made.

    Attributes:
      seconds: how long the training has taken, including the time before an interruption.
      saved_at: when the last checkpoint was made, or the clock started, by ``perf_counter``.
      saved_position: the number of the next batch at that time; None if none was made or read.
    """

    def __init__(self, folder: Path | None = None, settings: CheckpointSettings | None = None):
        self.folder, self.every = folder, (settings or CheckpointSettings()).checkpoint_every
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._metrics: list[np.ndarray] = []
        self._position: int | None = None
        self.saved_position: int | None = None
        self.begin()

    def begin(self, seconds: float = 0.0) -> None:
        """Starts the clock, as if ``seconds`` had passed."""
        self.saved_at = time.perf_counter()
        self._start, self.saved_position = self.saved_at - seconds, None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def facts(self) -> dict[str, Any] | None:
        """``State.facts`` of the present checkpoint, and its ``seconds``; None if there is none.

        The whole checkpoint is read, and held for ``arrays`` until it is restored.

        Raises:
          UsageError: if it is damaged, or was changed since it was written.
        """
        if self.folder is None or not (self.folder / _STATE).is_file():
            return None
        state, self._arrays = read_checkpoint(self.folder)
        self._position = state["position"]
        return state

    def has(self, name: str) -> bool:
        """Whether the checkpoint that was read has arrays of that name."""
        return name in self._arrays

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """``State.arrays[name]`` of the checkpoint that was read."""
        return self._arrays[name]

    def restore(self, trainer: Trainer, batch: tf.data.Dataset | None = None) -> None:
        """Restores the checkpoint that was read into a trainer at the beginning of the training.

        Args:
          trainer: a trainer with the same model and optimizer.
          batch: a few labelled examples. They are needed to continue the metrics of an epoch that
            was interrupted.

        Raises:
          UsageError: if the checkpoint belongs to another training.
        """
        arrays, self._arrays = self._arrays, {}
        with told_of_damage(self._folder):
            assign(trainer.model, arrays["weights"])
            saved = arrays["optimizer"]
            trainer.set_optimizer_state(
                _of_older_release(saved, trainer) if "arr_0" in saved else saved
            )
            if "noise" in arrays:
                states = arrays["noise"].values()
                for variable, value in zip(_noise(trainer.model), states, strict=True):
                    variable.assign(value)
            # Older releases noted no position, and made checkpoints at the ends of epochs.
            trainer.position = self._position or trainer.step
        if batch is not None and "metrics" in arrays:
            trainer.evaluate(batch)  # tf_keras makes the variables of metrics at their first use
            self._metrics = list(arrays["metrics"].values())

    def fit(
        self,
        trainer: Trainer,
        stop: int,
        state: Callable[[], State],
        callbacks: Sequence[keras.callbacks.Callback] = (),
        begun: int | None = None,
        **options: Any,
    ) -> None:
        """``trainer.fit`` with checkpoints as often as the settings say, and when a signal comes.

        Args:
          trainer, stop, callbacks: as in ``trainer.fit``.
          state: returns what else goes into a checkpoint.
          begun: the step at which the training began, if this is the rest of one; default: the
            trainer's present step.
          **options: the other arguments of ``Trainer.fit``.

        Raises:
          KeyboardInterrupt: if a signal has asked to stop.
        """
        if self.folder is None:
            trainer.fit(stop, callbacks, begun=begun, **options)
            return
        saving = _Saving(self, trainer, state)
        with self.held_back():
            trainer.fit(stop, [*callbacks, saving], begun=begun, **options)

    def held_back(self) -> contextlib.AbstractContextManager[None]:
        """A block in which a signal has to wait until a checkpoint is made."""
        return contextlib.nullcontext() if self.folder is None else held_back()

    def save(
        self,
        trainer: Trainer,
        state: State,
        position: int | None = None,
        metrics: Sequence[np.ndarray] = (),
    ) -> bool:
        """Writes a checkpoint, whole or not at all.

        None is written without a folder, or if weights have diverged.

        Args:
          trainer: the trainer.
          state: what the training adds.
          position: the number of the next batch; default: the trainer's.
          metrics: the counts of the metrics, within an epoch.

        Returns:
          Whether it was written.
        """
        if self.folder is None:
            return False
        # Any, else mypy takes an array for allow_pickle.
        arrays: dict[str, dict[str, Any]] = {
            "weights": values(trainer.model),
            "optimizer": trainer.optimizer_state(),
            **{name: dict(each) for name, each in state.arrays.items()},
        }
        noise = [np.array(each.numpy()) for each in _noise(trainer.model)]
        for name, listed in (("metrics", metrics), ("noise", noise)):
            if listed:
                arrays[name] = {f"arr_{i}": each for i, each in enumerate(listed)}
        if not are_finite(arrays["weights"].values()):
            return False  # the last checkpoint stays
        facts = {"position": trainer.position if position is None else position}
        with whole_folder(self._folder, CHECKPOINT) as folder:
            for name, each in arrays.items():
                np.savez(folder / f"{name}.npz", **each)
            sums = {f"{name}.npz": sha256(folder / f"{name}.npz") for name in arrays}
            write_record(folder / _STATE, {**state.facts, **facts, "seconds": self.seconds}, sums)
        self.saved_at, self.saved_position = time.perf_counter(), facts["position"]
        return True

    def remove(self) -> None:
        """Removes the checkpoint, if there is one."""
        if self.folder is not None:
            remove_ours(self.folder, CHECKPOINT)

    def restored_metrics(self) -> list[np.ndarray]:
        """The counts of the metrics for the epoch that goes on now; a second call gives none."""
        found, self._metrics = self._metrics, []
        return found

    @property
    def _folder(self) -> Path:
        assert self.folder is not None
        return self.folder


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """The content of a checkpoint's ``state.json``, and the arrays beside it, by names of files.

    Raises:
      UsageError: if it is damaged, or was changed since it was written.
    """
    with told_of_damage(path):
        state = read_json(path / _STATE)
        noted = [Path(name).stem for name in state.get(SUMS, {})]
        if "position" in state and not noted:  # both are of the same release
            raise KeyError(SUMS)
        arrays = {}
        for name in noted or ("weights", "best", "optimizer"):  # older releases noted no sums
            check_part(state, path / f"{name}.npz")
            arrays[name] = read_arrays(path / f"{name}.npz")
        position = state.get("position")
        read = {
            **{name: value for name, value in state.items() if name != SUMS},
            "seconds": float(state["seconds"]),
            "position": None if position is None else int(position),
        }
    return read, arrays


@contextlib.contextmanager
def told_of_damage(path: Path | None) -> Iterator[None]:
    """Raises UsageError if the block finds that a checkpoint lacks something or does not fit."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"Expected a checkpoint of this training in {path}; it is damaged ({error}): remove "
            "that folder, and the same command begins anew."
        ) from error


class _Saving(Callback):
    """A callback that makes checkpoints, between two executions of a training's steps."""

    def __init__(self, checkpoints: Checkpoints, trainer: Trainer, state: Callable[[], State]):
        super().__init__()
        self._supports_tf_logs = True  # or tf_keras would read the metrics after each execution
        self.checkpoints, self.trainer, self.state = checkpoints, trainer, state
        self.minutes = parse_minutes(checkpoints.every)
        self.steps = 0
        if self.minutes is None:
            self.steps = max(1, parse_steps(checkpoints.every, trainer.steps_per_epoch))
        self.position = trainer.position
        if checkpoints.saved_position is None:
            checkpoints.saved_position = self.position

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch_begun = self.position
        # An epoch begins with a reset of the metrics; this comes after it.
        if counted := self.checkpoints.restored_metrics():
            variables = _variables_of_metrics(self.trainer.model)
            for variable, value in zip(variables, counted, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # If an epoch's end cuts an execution short, Keras 3 still counts all of its steps.
        done = min(batch + 1, self.params["steps"])
        self.position = self.epoch_begun + done
        if done < self.params["steps"]:
            self._save_if_due(of_epoch=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # This comes after the other callbacks, which may count the epoch.
        self._save_if_due(of_epoch=False)

    def _save_if_due(self, of_epoch: bool) -> None:
        """Saves if it is time to, or a signal has come; ``of_epoch``: with the metrics' counts."""
        there, stop = self.checkpoints, of_any(asked())
        if self.minutes is None:
            due = self.position - cast(int, there.saved_position) >= self.steps
        else:
            late = time.perf_counter() - there.saved_at >= 60 * self.minutes
            due = bool(from_chief(np.array(late)))
        if not (stop or due):
            return
        metrics = _variables_of_metrics(self.trainer.model) if of_epoch else []
        counted = [np.array(each.numpy()) for each in metrics]
        saved = there.save(self.trainer, self.state(), self.position, counted)
        if stop:
            if saved:
                log.warning("Asked to stop: saved at step %s.", f"{self.position:,}")
            meet()  # a worker that ends early may stop the others
            raise_asked(by_another=True)


def _noise(model: keras.Model) -> list[tf.Variable]:
    """The variables with which the layers of a model draw their noise."""
    parts = (part for layer in named_layers(model).values() for part in parts_of(layer))
    return [variable for part in parts for variable in states_of_noise(part)]


def _variables_of_metrics(model: keras.Model) -> list[tf.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _of_older_release(saved: Mapping[str, np.ndarray], trainer: Trainer) -> dict[str, np.ndarray]:
    """The optimizer's state from an old checkpoint, without names and with steps counted from 0.

    ``trainer`` is at the rewind step, where the training began.
    """
    state = trainer.optimizer_state()
    # In the order of optimizer.variables, first the count of steps, and of the loss scaler.
    names = [name for name in state if "_variables/" in name or "_loss_scale/" in name]
    state |= dict(zip(names, saved.values(), strict=True))
    state[names[0]] = state[names[0]] - trainer.step
    return state
