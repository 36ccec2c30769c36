"""The library's logger: one line a message on stderr, silenced as any other logger.

Names come from files and folders of others, who may have put into them what a terminal obeys.
"""

import logging
import re
from collections.abc import Sequence

# What moves the cursor, colours, overwrites or turns around what stands there; halves of
# surrogates, which Python has for bytes of a name that are no UTF-8, cannot be written at all.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: str) -> str:
    """``text`` for a terminal: what is no letter there as Python writes it.

    >>> readable("a\\x1b[2J\\rb")
    'a\\\\x1b[2J\\\\rb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """``readable``, the lines of ``text`` one behind the other."""
    return readable(" ".join(line.strip() for line in text.splitlines() if line.strip()))


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


log = logging.getLogger("lottery_tf")
if not log.handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(_OneLine("%(message)s"))
    log.addHandler(_handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def counted(number: int, noun: str) -> str:
    """``1 ReLU``, ``2 ReLUs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """Up to six of ``names``, for a line: ``a, b``; ``a, b, c, d, e, f and 3 more``; ``none``."""
    return (", ".join(names[:6]) or "none") + (f" and {len(names) - 6} more" if names[6:] else "")
