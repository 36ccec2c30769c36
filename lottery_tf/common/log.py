"""The library's logger: one line a message on stderr, silenced as any other logger.

Names of other people's files and folders may contain characters that control a terminal.
"""

import logging
import re
from collections.abc import Sequence

# Characters that move the cursor, colour, overwrite or reverse text. Lone surrogates, which Python
# uses for bytes of a name that are not UTF-8, cannot be written at all.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: str) -> str:
    """``text`` for a terminal, with control characters as Python's escapes.

    >>> readable("a\\x1b[2J\\rb")
    'a\\\\x1b[2J\\\\rb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """``readable``, with the lines of ``text`` joined into one."""
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
