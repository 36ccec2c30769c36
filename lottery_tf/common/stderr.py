"""TensorFlow without the notes that it writes to stderr whatever TF_CPP_MIN_LOG_LEVEL says.

Its C++ writes them to the file descriptor before it reads any setting. So neither a Python logger
nor an environment variable can stop them.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, cast

# Lines with one of these texts are left out. Code 303 only says that there is no GPU driver.
NOTES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"I0000 ",
    b"To enable the following instructions:",
    b"failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)",
)

# Ctrl-C reaches this process too. It must ignore it, to pass on what TensorFlow still writes.
_FILTER = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if not any(note in line for note in {NOTES}):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Leaves TensorFlow's start-up notes out of what the block writes to stderr.

    A process of its own passes on everything else at once, so that the last lines are seen even
    if TensorFlow aborts. Sets ``TF_CPP_MIN_LOG_LEVEL`` to 2 (errors only) unless the user has set
    it. If it is 0 or 1, nothing is left out.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1"):
        yield
        return
    python = [sys.executable, "-I", "-S", "-c", _FILTER]
    with (
        subprocess.Popen(python, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as passing_on,
        _stderr_to(cast(IO[bytes], passing_on.stdin)),  # the pipe that was asked for
    ):
        yield


def errors_only() -> None:
    """TensorFlow's Python logger says errors alone from now on, if TensorFlow is there.

    It warns of "excessive retracing" in a process that builds several models.
    """
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what the block writes to stderr; exceptions are passed on.

    The converter's C++ writes there about its own settings, which no Python logger can stop.
    """
    logger = sys.modules["tensorflow"].get_logger()
    level = logger.level
    with open(os.devnull, "wb") as nowhere, _stderr_to(nowhere):
        logger.setLevel("ERROR")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Redirects what the block writes to the file descriptor of stderr to ``file``."""
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
