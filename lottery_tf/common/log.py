"""The library's logger: one line a message on stderr, silenced as any other logger."""

import logging
from collections.abc import Sequence

log = logging.getLogger("lottery_tf")
if not log.handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(_handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def counted(number: int, noun: str) -> str:
    """``1 ReLU``, ``2 ReLUs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """Up to six of ``names``, for a line: ``a, b``; ``a, b, c, d, e, f and 3 more``; ``none``."""
    return (", ".join(names[:6]) or "none") + (f" and {len(names) - 6} more" if names[6:] else "")
