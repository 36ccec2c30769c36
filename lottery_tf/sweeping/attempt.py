"""One attempt at a trial, in the process that an engine has chosen."""

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
from lottery_tf.common.stderr import errors_only
from lottery_tf.runs.settings import AS_USUAL, HowToRun

if TYPE_CHECKING:  # it imports TensorFlow
    from lottery_tf.sweeping.trials import Trial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of an attempt.

    Attributes:
      seconds: how long it took.
      dev_accuracy: of the trained model; None if there is none.
      error: a sentence on what went wrong; None if nothing did.
      hopeless: whether another attempt would fail in the same way.
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
    """Runs ``trial`` on ``devices``; its output goes to its log."""
    # Imported here, as an engine sets TensorFlow's environment first.
    from lottery_tf.common.devices import scope_of
    from lottery_tf.graph.compat import clear_sessions

    start = time.perf_counter()
    errors_only()
    with _said_to(log_of(out, trial.folder)):
        try:
            clear_sessions()  # removes the graphs and layer names of the trial before
            with scope_of(devices):
                accuracy = trial.run(out, how)
            return Outcome(time.perf_counter() - start, accuracy)
        except (UsageError, WorkFailed) as error:  # another attempt would raise it too
            with contextlib.suppress(OSError):  # if the disk is full the log cannot be written
                print(one_line(str(error)), file=sys.stderr)
            return Outcome(time.perf_counter() - start, error=str(error), hopeless=True)
        except Exception as error:
            with contextlib.suppress(OSError):
                traceback.print_exc()
            return Outcome(time.perf_counter() - start, error=first_line(error))


def first_line(error: Exception) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def log_of(out: Path, folder: str) -> Path:
    """The log file of a trial."""
    return out / "logs" / f"{folder.replace('/', '_')}.log"


@contextlib.contextmanager
def _said_to(path: Path) -> Iterator[None]:
    """Appends the block's stdout and stderr to a file, TensorFlow's C++ output too."""
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
