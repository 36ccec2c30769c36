"""The terminal, and how lengths of time and shares are written on it. Needs no TensorFlow."""

from rich.console import Console

# Without markup: names and folders are shown as they are, square brackets too.
console = Console(highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min`` or ``1.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """``89.26 %``."""
    return f"{100 * share:.2f} %"
