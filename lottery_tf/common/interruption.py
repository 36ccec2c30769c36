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


_held = 0  # blocks in which a signal is only noted, one within another
_asked: type[KeyboardInterrupt] | None = None
_ending = False  # whether that has been raised
_before: dict[signal.Signals, object] = {}  # the handlers in whose place ours are


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Within the block SIGTERM raises ``Stopped`` and Ctrl-C KeyboardInterrupt, unless held back.

    A signal that is ignored stays so, as that of Ctrl-C is behind ``&`` in a script. Outside the
    main thread, where no signal can be heeded, and within another such block nothing changes.
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
            # None: of one that C has set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore
        _before.clear()
        _asked, _ending = None, False


def heed_again() -> None:
    """Has our handlers where they were: TensorFlow's several workers and Ray put theirs there."""
    if threading.current_thread() is threading.main_thread():
        for number in _before:
            signal.signal(number, _heed)


def _heed(number: int, frame: FrameType | None) -> None:
    global _asked, _ending
    if _ending and number == signal.SIGTERM:
        return  # a launcher tells again whoever has not ended yet
    first, _asked = _asked is None, Stopped if number == signal.SIGTERM else KeyboardInterrupt
    if not (_held and first):
        _ending = True
        raise _asked


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within the block the first signal is only noted, for ``asked`` to tell.

    One that nobody has looked at by the end of the outermost such block is raised there.
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
    """Raises what the signal stands for, if one has come.

    Args:
      by_another: whether one has come to another of several workers, with which this one stops.
    """
    global _ending
    if _asked is not None or by_another:
        _ending = True
        raise _asked or Stopped
