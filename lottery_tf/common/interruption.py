"""SIGTERM and Ctrl-C: a training is saved first, everything else ends at once.

SLURM and Kubernetes send SIGTERM as a warning before they kill. A command obeys it (``heeded``).
While a training runs that can be saved, the signal is only noted (``held_back``); the code that
saves then ends the training (``raise_asked``). A second signal ends it at once.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """SIGTERM has come. As a KeyboardInterrupt it passes wherever Ctrl-C would pass."""


_held = 0  # number of nested blocks in which a signal is only noted
_asked: type[KeyboardInterrupt] | None = None
_ending = False  # whether that has been raised
_before: dict[signal.Signals, object] = {}  # the handlers that ours replace


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Within the block SIGTERM raises ``Stopped`` and Ctrl-C KeyboardInterrupt, unless held back.

    A signal that is ignored stays ignored, as Ctrl-C is behind ``&`` in a script. Nothing changes
    within another such block, or outside the main thread, where no signal can be handled.
    """
    global _asked, _ending
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    there = {number: signal.getsignal(number) for number in SIGNALS}
    _before.update({number: old for number, old in there.items() if old is not signal.SIG_IGN})
    heed_again()
    try:
        yield
    finally:
        for number, handler in _before.items():
            # None: a handler that C code has set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore
        _before.clear()
        _asked, _ending = None, False


def heed_again() -> None:
    """Installs our handlers again: TensorFlow with several workers and Ray replace them."""
    if threading.current_thread() is threading.main_thread():
        for number in _before:
            signal.signal(number, _heed)


def _heed(number: int, frame: FrameType | None) -> None:
    global _asked, _ending
    if _ending and number == signal.SIGTERM:
        return  # a launcher sends the signal again to processes that have not ended yet
    first, _asked = _asked is None, Stopped if number == signal.SIGTERM else KeyboardInterrupt
    if not (_held and first):
        _ending = True
        raise _asked


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within the block the first signal is only noted; ``asked`` tells whether one has come.

    A noted signal that has not been raised is raised at the end of the outermost such block.
    """
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if not _held:
        raise_asked()


def asked() -> bool:
    """Whether a signal has come that was held back."""
    return _asked is not None


def raise_asked(by_another: bool = False) -> None:
    """Raises the exception of the signal, if one has come.

    Args:
      by_another: whether a signal has reached another of several workers; this one stops with it.
    """
    global _ending
    if _asked is not None or by_another:
        _ending = True
        raise _asked or Stopped
