"""One attempt at a trial, in whatever process an engine chose for it."""

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.common.log import one_line
from lottery_tf.runs.settings import AS_USUAL, HowToRun

if TYPE_CHECKING:  # it imports TensorFlow
    from lottery_tf.sweeping.trials import Trial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of an attempt.

    Attributes:
      seconds: it took.
      dev_accuracy: of what was trained; None where there is none.
      error: what went wrong, a sentence; None if nothing did.
      hopeless: whether another attempt would go wrong in the same way.
    """

    seconds: float
    dev_accuracy: float | None = None
    error: str | None = None
    hopeless: bool = False


def attempt(
    trial: "Trial",
    out: Path,
    devices: DeviceSettings,
    how: HowToRun = AS_USUAL,
) -> Outcome:
    """Runs ``trial`` on ``devices``; what it says goes to its log."""
    # Here and not above: an engine sets the environment of TensorFlow first.
    from lottery_tf.common.devices import scope_of
    from lottery_tf.graph.compat import clear_sessions

    start = time.perf_counter()
    with _said_to(log_of(out, trial.folder)):
        try:
            clear_sessions()  # of the trial before: its graphs, its layers' names
            with scope_of(devices):
                accuracy = trial.run(out, how)
            return Outcome(time.perf_counter() - start, accuracy)
        except (UsageError, WorkFailed) as error:  # which would come again
            with contextlib.suppress(OSError):  # a full disk, whose log cannot say so
                print(one_line(str(error)), file=sys.stderr)
            return Outcome(time.perf_counter() - start, error=str(error), hopeless=True)
        except Exception as error:
            with contextlib.suppress(OSError):
                traceback.print_exc()
            return Outcome(time.perf_counter() - start, error=first_line(error))


def first_line(error: Exception) -> str:
    """The error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def log_of(out: Path, folder: str) -> Path:
    """Where what a trial says is written."""
    return out / "logs" / f"{folder.replace('/', '_')}.log"


@contextlib.contextmanager
def _said_to(path: Path) -> Iterator[None]:
    """Appends to a file what the block writes to stdout and stderr, TensorFlow's C++ included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with open(path, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
