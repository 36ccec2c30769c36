"""Lengths of training, written ``500it`` (steps) or ``2ep`` (epochs), and of time: ``5min``."""

import re

from lottery_tf.common.errors import UsageError

_DIGITS = 12  # steps are counted in 64 bits
_FORM = re.compile(r"(\d+)it|(\d+(?:\.\d+)?)ep")
_MINUTES = re.compile(r"(\d+(?:\.\d+)?)min")


def parse_steps(text: str, steps_per_epoch: int) -> int:
    """The number of training steps that ``text`` means.

    >>> parse_steps("500it", steps_per_epoch=100), parse_steps("1.5ep", steps_per_epoch=100)
    (500, 150)

    Args:
      text: a whole number of steps (``500it``) or a number of epochs (``2ep``, ``0.5ep``).
      steps_per_epoch: steps in an epoch.

    Raises:
      UsageError: if ``text`` has another form.
    """
    steps, epochs = _parts(text, "a number of steps").groups()
    return int(steps) if steps else round(float(epochs) * steps_per_epoch)


def check_steps(text: str, name: str) -> None:
    """Raises UsageError if ``text`` is not a length of training; ``name`` is the setting's name."""
    _parts(text, f"`{name}`")


def _parts(text: str, what: str) -> re.Match[str]:
    if found := _FORM.fullmatch(text):
        if len((found[1] or found[2]).partition(".")[0]) >= _DIGITS:
            raise UsageError(f"Expected fewer than {_DIGITS} digits for {what}, not '{text[:40]}'.")
        return found
    number = f": give {text}ep for epochs or {text}it for steps" if text.isdecimal() else ""
    raise UsageError(f"Expected steps (500it) or epochs (2ep) for {what}, not '{text}'{number}.")


def parse_minutes(text: str) -> float | None:
    """The minutes that ``text`` means; None if it is a length of training.

    >>> parse_minutes("0.5min"), parse_minutes("2ep")
    (0.5, None)
    """
    found = _MINUTES.fullmatch(text)
    return float(found[1]) if found else None


def check_often(text: str, name: str) -> None:
    """Raises UsageError unless ``text`` is an interval: a time or a length of training above 0.

    ``name`` is the setting's name."""
    length = _MINUTES.fullmatch(text) or _FORM.fullmatch(text)
    if not length or not any(float(number or 0) for number in length.groups()):
        raise UsageError(
            f"Expected minutes (5min), steps (500it) or epochs (2ep) above 0 for `{name}`, not "
            f"'{text}'."
        )
