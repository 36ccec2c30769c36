"""SIGTERM and Ctrl-C: a training is saved first, all else ends at once.

SIGTERM is the warning that SLURM and Kubernetes give before they kill. A command heeds it
(``heeded``); while a training runs that can be saved, the signal is only noted (``held_back``), and
who saves ends the training (``raise_asked``). A second signal ends it at once.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """SIGTERM has come. A KeyboardInterrupt, so that what lets Ctrl-C through lets it through."""


_held = False  # whether a signal is only noted
_asked: type[KeyboardInterrupt] | None = None


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Within the block SIGTERM raises ``Stopped`` and Ctrl-C KeyboardInterrupt, unless held back.

    Outside the main thread, where no signal can be heeded, nothing changes.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _heed) for number in SIGNALS}
    try:
        yield
    finally:
        _asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _heed(number: int, frame: FrameType | None) -> None:
    global _asked
    first, _asked = _asked is None, Stopped if number == signal.SIGTERM else KeyboardInterrupt
    if not (_held and first):
        raise _asked


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within the block the first signal is only noted, for ``asked`` to tell.

    One that nobody has looked at by the end of the block is raised there.
    """
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    raise_asked()


def asked() -> bool:
    """Whether a signal has come that was held back."""
    return _asked is not None


def raise_asked(by_another: bool = False) -> None:
    """Raises what the signal stands for, if one has come.

    Args:
      by_another: whether one has come to another of several workers, with which this one stops.
    """
    if _asked is not None or by_another:
        raise _asked or Stopped
