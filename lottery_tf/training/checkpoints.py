"""Checkpoints: what an interrupted training goes on from, at any step, to the same bits.

A checkpoint has the variables, what the optimizer remembers, where the layers are in their noise,
and of an epoch that it cuts what the metrics have counted; what else its training needs, the
training adds. Batch t is known by t alone (``Dataset.stream``), so that no reader's state is in it.
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
        "optimizer.npz": has_arrays("*"),  # of any optimizer of either Keras
        "metrics.npz": has_arrays("arr_*"),
        "noise.npz": has_arrays("arr_*"),
        # Of variables: the weights, the best on dev, masks of gradual pruning, …
        "*.npz": has_arrays("*/*"),
    },
    marker=_STATE,
)


@dataclasses.dataclass(frozen=True)
class State:
    """What a training adds to its checkpoints.

    Attributes:
      facts: of it, as JSON knows them.
      arrays: the name of a file → its arrays, by the names of the variables that they are of.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoint of one run, each in the place of the one before.

    Args:
      folder: where it is; None: none is kept.
      settings: how often one is made.

    Attributes:
      seconds: that the training has taken, those before an interruption too.
      saved_at: when the last checkpoint was made, or the clock started, by ``perf_counter``.
      saved_position: the batch that came next then; None: none was made, and none looked for.
    """

    def __init__(self, folder: Path | None = None, settings: CheckpointSettings | None = None):
        self.folder, self.every = folder, (settings or CheckpointSettings()).checkpoint_every
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._metrics: list[np.ndarray] = []
        self._position: int | None = None
        self.saved_position: int | None = None
        self.begin()

    def begin(self, seconds: float = 0.0) -> None:
        """The clock starts, as if ``seconds`` had passed."""
        self.saved_at = time.perf_counter()
        self._start, self.saved_position = self.saved_at - seconds, None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def facts(self) -> dict[str, Any] | None:
        """What ``State.facts`` had in the checkpoint that is there, with the ``seconds`` that it
        was made after; None where there is no checkpoint. It is read whole now, and kept for
        ``arrays`` until it is restored.

        Raises:
          UsageError: if it is damaged, or was changed since it was written.
        """
        if self.folder is None or not (self.folder / _STATE).is_file():
            return None
        state, self._arrays = read_checkpoint(self.folder)
        self._position = state["position"]
        return state

    def has(self, name: str) -> bool:
        """Whether that checkpoint has arrays by that name."""
        return name in self._arrays

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What ``State.arrays`` had by ``name`` in that checkpoint."""
        return self._arrays[name]

    def restore(self, trainer: Trainer, batch: tf.data.Dataset | None = None) -> None:
        """Puts that checkpoint into a trainer, which stands where the training began.

        Args:
          trainer: of the same model and optimizer.
          batch: a few examples, labelled; with them the metrics of an epoch that was cut go on.

        Raises:
          UsageError: if it is of another training.
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
            # Older releases noted none, and made checkpoints at the ends of epochs.
            trainer.position = self._position or trainer.step
        if batch is not None and "metrics" in arrays:
            trainer.evaluate(batch)  # tf_keras makes the variables of metrics as it needs them
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
        """``trainer.fit``, with a checkpoint as often as the settings say, and one when a signal
        asks to stop.

        Args:
          trainer, stop, callbacks: as there.
          state: gives what goes into a checkpoint besides.
          begun: the step at which the training began, of which this may be the rest; default: that
            at which the trainer stands.
          **options: the other arguments of ``Trainer.fit``.

        Raises:
          KeyboardInterrupt: when asked to stop.
        """
        if self.folder is None:
            trainer.fit(stop, callbacks, begun=begun, **options)
            return
        saving = _Saving(self, trainer, state)
        with self.held_back():
            trainer.fit(stop, [*callbacks, saving], begun=begun, **options)

    def held_back(self) -> contextlib.AbstractContextManager[None]:
        """A block in which a signal waits until there is a checkpoint."""
        return contextlib.nullcontext() if self.folder is None else held_back()

    def save(
        self,
        trainer: Trainer,
        state: State,
        position: int | None = None,
        metrics: Sequence[np.ndarray] = (),
    ) -> bool:
        """Writes a checkpoint, whole or not at all; none of weights that have diverged, and none
        without a folder.

        Args:
          trainer: whose training it is.
          state: what the training adds.
          position: the number of the next batch; default: the trainer's.
          metrics: what they have counted, within an epoch.

        Returns:
          Whether it was written.
        """
        if self.folder is None:
            return False
        # Of Any, or mypy takes one for allow_pickle.
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
            return False  # what is there stays
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
        """What the metrics had counted of the epoch that goes on now; once."""
        found, self._metrics = self._metrics, []
        return found

    @property
    def _folder(self) -> Path:
        assert self.folder is not None
        return self.folder


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What ``state.json`` of a checkpoint says, and the arrays beside it by the names of the files.

    Raises:
      UsageError: if it is damaged, or was changed since it was written.
    """
    with told_of_damage(path):
        state = read_json(path / _STATE)
        noted = [Path(name).stem for name in state.get(SUMS, {})]
        if "position" in state and not noted:  # which came with the sums
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
    """Raises UsageError where what is read of a checkpoint within the block is not what it has."""
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
    """Makes the checkpoints of a training, between two executions of its steps."""

    def __init__(self, checkpoints: Checkpoints, trainer: Trainer, state: Callable[[], State]):
        super().__init__()
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
        # Behind the reset of the metrics, with which an epoch begins.
        if counted := self.checkpoints.restored_metrics():
            variables = _variables_of_metrics(self.trainer.model)
            for variable, value in zip(variables, counted, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras 3 counts the whole of an execution that an epoch's end cuts short.
        done = min(batch + 1, self.params["steps"])
        self.position = self.epoch_begun + done
        if done < self.params["steps"]:
            self._save_if_due(of_epoch=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Comes behind the other callbacks, which may count the epoch.
        self._save_if_due(of_epoch=False)

    def _save_if_due(self, of_epoch: bool) -> None:
        """With ``of_epoch`` what the metrics have counted is saved too."""
        there, stop, saved = self.checkpoints, of_any(asked()), False
        if self.minutes is None:
            due = self.position - cast(int, there.saved_position) >= self.steps
        else:
            late = time.perf_counter() - there.saved_at >= 60 * self.minutes
            due = bool(from_chief(np.array(late)))
        if stop or due:
            metrics = _variables_of_metrics(self.trainer.model) if of_epoch else []
            counted = [np.array(each.numpy()) for each in metrics]
            saved = there.save(self.trainer, self.state(), self.position, counted)
        if stop:
            if saved:
                log.warning("Asked to stop: saved at step %s.", f"{self.position:,}")
            meet()  # a worker that ends may take the others down
            raise_asked(by_another=True)


def _noise(model: keras.Model) -> list[tf.Variable]:
    """The variables by which the layers of a model draw their noise."""
    parts = (part for layer in named_layers(model).values() for part in parts_of(layer))
    return [variable for part in parts for variable in states_of_noise(part)]


def _variables_of_metrics(model: keras.Model) -> list[tf.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


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
