"""How far a training is, for whoever shows it."""

import math
import time
from typing import Any

import numpy as np

from lottery_tf.graph.compat import Callback


class Course(Callback):
    """Follows a training that ``Trainer.fit`` runs; a subclass shows it in ``moved``.

    Attributes:
      epoch, epochs: the epoch that is at work or done last, counted from 1 and from where the
        training began, before an interruption too; and how many there are.
      metrics: of the last epoch that is done, by Keras' names, where they are numbers; empty
        before that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True  # or tf_keras would read the metrics after each execution
        self.epoch, self.epochs = 0, 0
        self.metrics: dict[str, float] = {}
        self._position = self._begun = self._stop = 0
        self._clock: tuple[float, int] | None = None

    def training_begins(self, begun: int, position: int, stop: int, steps_per_epoch: int) -> None:
        """A training from step ``begun`` to ``stop`` stands at ``position``; it is called by the
        trainer, since one training may be several calls of Keras' ``fit``."""
        self._begun, self._position, self._stop = begun, position, stop
        self._steps, self.epochs = steps_per_epoch, math.ceil((stop - begun) / steps_per_epoch)
        self.epoch, self.metrics, self._clock = 0, {}, None

    def moved(self, epoch_is_done: bool) -> None:
        """Called after each execution of steps, and after each epoch."""

    @property
    def seconds_left(self) -> float | None:
        """An estimate of this training's rest; None at its beginning."""
        if self._clock is None or self._position == self._clock[1]:
            return None
        then, position = self._clock
        a_step = (time.perf_counter() - then) / (self._position - position)
        return a_step * (self._stop - self._position)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_begun = self._position

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras 3 counts the whole of an execution that an epoch's end cuts short.
        self._moved_to(self._epoch_begun + min(batch + 1, self.params["steps"]), False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        numbers = {k: value for k, value in (logs or {}).items() if np.ndim(value) == 0}
        self.metrics = {name: float(value) for name, value in numbers.items()}
        self._moved_to(self._epoch_begun + self.params["steps"], True)

    def _moved_to(self, position: int, epoch_is_done: bool) -> None:
        self._position = position
        self.epoch = math.ceil((position - self._begun) / self._steps)
        if self._clock is None:  # behind the first execution, which compiles the step
            self._clock = time.perf_counter(), position
        self.moved(epoch_is_done)
