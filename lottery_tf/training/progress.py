"""Progress of several trainings, as Keras' ``fit`` shows that of one.

Programs that run for hours are watched in a terminal, in a notebook, or in a log afterwards.
"""

import math
import shutil
import sys
import time
from typing import Any

import numpy as np

from lottery_tf.common.devices import is_chief
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import one_line
from lottery_tf.common.summary import duration, in_short
from lottery_tf.graph.compat import Callback

VERBOSE = ("auto", 0, 1, 2)


class Progress(Callback):
    """Shows on stdout how far several trainings are, one after the other.

    Args:
      verbose: 0 shows nothing. 1 writes over one line after each epoch, and keeps a line of each
        training. 2 keeps a line of each epoch too. "auto" is 1 in a terminal or a notebook, and 2
        elsewhere.
      steps: of all trainings together, to tell how long is left; an estimate will do.
      steps_per_epoch: of each training.

    Raises:
      UsageError: for another ``verbose``.
    """

    def __init__(self, verbose: int | str, steps: int, steps_per_epoch: int):
        super().__init__()
        self.verbose = _checked(verbose) * is_chief()
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.label, self._of, self._width = "", 0, 0
        self._done = self._in_training = 0
        self._start: tuple[float, int] | None = None  # after the first epoch, which compiles
        self._begun = self._training_begun = time.perf_counter()

    def begin(self, label: str, steps: int) -> None:
        """A training begins.

        Args:
          label: what it is, in front of each line.
          steps: its length.
        """
        self.label, self._of, self._in_training = label, steps, 0
        self._training_begun = time.perf_counter()
        if self.verbose == 1:
            self._write(label, stays=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        steps = int(self.params.get("steps") or 0)
        self._done, self._in_training = self._done + steps, self._in_training + steps
        if not self.verbose:
            return
        self._start = self._start or (time.perf_counter(), self._done)
        per_epoch = max(self.steps_per_epoch, 1)
        number, of = (math.ceil(n / per_epoch) for n in (self._in_training, self._of))
        # Keras 3 has them in the order of their names.
        numbers = {k: value for k, value in (logs or {}).items() if np.ndim(value) == 0}
        found = sorted(numbers.items(), key=lambda item: item[0] != "loss")[:3]
        shown = [f"{name} {float(value):.4g}" for name, value in found]
        told = [f"epoch {number} of {max(of, number)}", *shown, self._left()]
        self._write(f"{self.label}  {'  '.join(filter(None, told))}", stays=self.verbose == 2)

    def end(self, told: str = "") -> None:
        """A training has ended, however many steps it came to; ``told`` is what came of it."""
        self._done += self._of - self._in_training
        if self.verbose:
            took = duration(time.perf_counter() - self._training_begun)
            words = [self.label, told, took, self._left()]
            self._write("  ".join(filter(None, words)), stays=True)

    def _left(self) -> str:
        """How long the rest will take; nothing where that is not known."""
        rest = self.steps - self._done
        if rest <= 0 or not self._done:
            return ""
        begun, before = self._start or (self._begun, 0)
        if before == self._done:  # of one epoch alone, its compiling counts too
            begun, before = self._begun, 0
        took = time.perf_counter() - begun
        return f"about {duration(rest * took / (self._done - before))} left"

    def _write(self, text: str, stays: bool) -> None:
        text = one_line(text)
        if self.verbose == 1:
            if not stays and sys.stdout.isatty():  # behind a second line \r would not go back
                text = in_short(text, shutil.get_terminal_size().columns - 1)
            sys.stdout.write("\r" + text.ljust(self._width) + ("\n" if stays else ""))
            self._width = 0 if stays else len(text)
        else:
            sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _checked(verbose: int | str) -> int:
    if verbose not in VERBOSE:
        raise UsageError(f"Expected verbose to be 0, 1, 2 or 'auto', not {verbose!r}.")
    if verbose == "auto":
        watched = sys.stdout.isatty() or "ipykernel" in sys.modules
        return 1 if watched else 2
    return int(verbose)
