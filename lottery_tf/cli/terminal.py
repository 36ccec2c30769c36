"""What the commands show while they work: a line that moves, and lines that stay."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from rich.status import Status

from lottery_tf.cli.console import console, duration, percent
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.devices import is_chief, scope_of
from lottery_tf.common.log import log
from lottery_tf.graph.compat import Callback


@contextlib.contextmanager
def at_work(devices: DeviceSettings) -> Iterator[None]:
    """Within the block the devices are set up, and the chief alone of several workers speaks."""
    with scope_of(devices):
        if not is_chief():
            console.quiet = True
            log.setLevel(logging.ERROR)
        yield


class EpochStatus(Callback):
    """Shows the epoch on a line of the terminal that is written over; nothing in a file.

    Args:
      status: what ``console.status`` returned.
      label: what is being trained, in front.
    """

    def __init__(self, status: Status, label: str):
        super().__init__()
        self.status, self.label = status, label

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        accuracy = (logs or {}).get("accuracy")
        shown = "" if accuracy is None else f", train accuracy {percent(accuracy)}"
        self.status.update(f"{self.label}: epoch {epoch + 1} of {self.params['epochs']}{shown}")


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
