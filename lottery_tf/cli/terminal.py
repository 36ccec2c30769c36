"""What the commands show while they work: a line that is renewed, and lines that stay."""

import contextlib
import logging
import time
from collections.abc import Iterator

from rich.status import Status

from lottery_tf.cli.console import console
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.devices import is_chief, scope_of
from lottery_tf.common.log import log
from lottery_tf.common.summary import duration, in_short, percent
from lottery_tf.training.course import Course

_RENEWED = 0.2  # seconds from one to the next, in a terminal
_A_LINE = 60.0  # seconds, elsewhere


@contextlib.contextmanager
def at_work(devices: DeviceSettings) -> Iterator[None]:
    """Within the block the devices are set up, and of several workers only the chief speaks."""
    with scope_of(devices):
        if not is_chief():
            console.quiet = True
            log.setLevel(logging.ERROR)
        yield


class TrainingStatus(Course):
    """Shows the epoch, the accuracy and what is left of a training.

    In a terminal that is one line, which is renewed. In a file or a pipe it is a line a minute, on
    stderr. A training of less than a minute has none.

    Args:
      status: what ``console.status`` returned.
      label: what is being trained, in front.
      then: what comes behind the training, shown when it is done.
    """

    def __init__(self, status: Status, label: str, then: str = "measuring"):
        super().__init__()
        self.status, self.label, self.then = status, label, then
        self._shown = time.perf_counter()

    def moved(self, epoch_is_done: bool) -> None:
        now, moves = time.perf_counter(), console.is_terminal
        if now - self._shown < (_RENEWED if moves else _A_LINE):
            return
        self._shown = now
        if moves:
            self.status.update(self.line())
        else:
            log.info("%s", self.line())

    def on_train_end(self, logs: object = None) -> None:
        self.status.update(f"{self.label}: {self.then}")

    def line(self) -> str:
        """``round 1 of 8: epoch 3 of 30, 25 s left, accuracy 91.20 %, dev 90.10 %``."""
        said = [f"epoch {self.epoch} of {self.epochs}"]
        if self.seconds_left is not None:
            said.append(f"{duration(self.seconds_left)} left")
        for name, metric in (("accuracy", "accuracy"), ("dev", "val_accuracy")):
            if metric in self.metrics:
                said.append(f"{name} {percent(self.metrics[metric])}")
        rest = ", ".join(said)
        most = max(12, console.width - len(rest) - 5)  # with the sign that moves, on one line
        return f"{in_short(self.label, most)}: {rest}"


class Countdown:
    """How long is left when some of a number of equal pieces are done."""

    def __init__(self, pieces: int, done: int = 0):
        self.left, self.start, self.done = pieces - done, time.perf_counter(), 0

    def one_more(self) -> str:
        """Counts a piece and says what is left."""
        self.done, self.left = self.done + 1, self.left - 1
        if not self.left:
            return "done"
        return f"about {duration(self.left * (time.perf_counter() - self.start) / self.done)} left"
