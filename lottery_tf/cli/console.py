"""The terminal, and how lengths of time and shares are written on it. Needs no TensorFlow."""

from typing import Any

from rich.console import Console
from rich.text import Text

from lottery_tf.common.log import readable


class _Console(Console):
    """Shows names and folders as they are: ``[red]`` and ``:bomb:`` too, and ESC as ``\\x1b``."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(readable(text), **how)


console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min`` or ``1.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """``89.26 %``."""
    return f"{100 * share:.2f} %"
