"""Messages of the library with its settings named as flags.

The library names a setting in backquotes, as one writes it in Python.
"""

import dataclasses
import re

from lottery_tf.cli import settings
from lottery_tf.cli.flags import as_class
from lottery_tf.common.settings import value_type

_NAMED = re.compile(r"`(\w+)(?:=([^`]*))?`")


def in_flags(text: str) -> str:
    """``text`` with the settings in it as flags; what is no flag stays as it is.

    A flag of any command counts: ``retrain`` also speaks of the ``find`` that made its ticket.

    >>> in_flags("Expected `rounds` with `method=imp` and no `train_tickets=False`.")
    'Expected --rounds with --method=imp and no --notrain_tickets.'
    """
    types = {
        field.name: value_type(field, owner)[0]
        for owner in map(as_class, settings.ALL)
        for field in dataclasses.fields(owner)
    }

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in types:
            return found[0]
        if types[name] is bool and value in ("True", "False"):
            return f"--{name}" if value == "True" else f"--no{name}"
        return f"--{name}" if value is None else f"--{name}={value}"

    return _NAMED.sub(flag, text)
