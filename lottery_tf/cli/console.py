"""The terminal. Needs no TensorFlow."""

from typing import Any

from rich.console import Console
from rich.text import Text

from lottery_tf.common.log import readable


class _Console(Console):
    """Shows names and folders as they are: ``[red]`` and ``:bomb:`` too, and ESC as ``\\x1b``."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(readable(text), **how)


console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
