"""What a ticket's files say, looked at before anything is made of it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.masks.masks import shapes_in


def check_record(record: Mapping[str, Any]) -> None:
    """Raises UsageError where what others rely on is of another kind than ``Ticket`` has it."""
    nothing = null_names(record)
    for kind, what, names in _SAID:
        for name in names:
            if name in record and name not in nothing and not kind(record[name]):
                raise UsageError(f"expected {what} as {name}, which is {str(record[name])[:40]!r}")


def null_names(record: Mapping[str, Any]) -> set[str]:
    """The names that are null, as a program may have written them: that is as if left out."""
    known = {name for _, _, names in _SAID for name in names if name not in _COUNTED}
    return {name for name in known if record.get(name, 0) is None}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _are_norms(value: Any) -> bool:
    # A norm that is not finite is null in JSON.
    return isinstance(value, Mapping) and all(
        isinstance(norm, int | float | None) and not isinstance(norm, bool)
        for norm in value.values()
    )


_COUNTED = ("trainable_parameters", "numbers")  # which null damages
_SAID: tuple[tuple[Callable[[Any], bool], str, tuple[str, ...]], ...] = (
    (_is_count, "a count", (*_COUNTED, "round", "rewind_step", "seed")),
    (_are_norms, "norms by the names of weights", ("dense_norms",)),
    (lambda value: isinstance(value, Mapping), "an object", ("settings",)),
    (lambda value: isinstance(value, str), "a text", ("method", "structure")),
)


def check_sizes(path: Path, most: int) -> None:
    """Raises UsageError for arrays of more numbers than a ticket has, before they are read: a file
    of half a megabyte may unpack to 512."""
    for part in ("masks.npz", "weights.npz"):
        sizes = {name: math.prod(shape) for name, shape in shapes_in(path / part).items()}
        if sum(sizes.values()) > most:
            large = [name for name, size in sizes.items() if size > most]
            raise UsageError(
                f"Expected at most {most:,} numbers in {path / part}, as ticket.json says; "
                f"{some(large) or 'all together'} would be {sum(sizes.values()):,}. Copy the "
                "ticket again or find it anew."
            )


def text_of(path: Path) -> str:
    """What a file says; a UsageError if it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Expected a model description in {path}; it is damaged ({error})."
        ) from None


def tickets_below(path: Path) -> str:
    """A sentence on where tickets are: those of a find run at ``path``, if it is one."""
    folder = path if path.name == "tickets" else path / "tickets"
    there = sorted(each.parent.name for each in folder.glob("round_*/ticket.json"))
    if not there:
        return "`lottery-tf find` writes them to RUN/tickets/round_NN."
    found = there[0] if len(there) == 1 else f"{there[0]} to {there[-1]}"
    return f"This run of find has {found}: give {folder / there[-1]}, say."
