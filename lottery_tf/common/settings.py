"""Settings: frozen dataclasses, each field written once with its default, help and choices.

Command-line flags, their help, ``config.json`` and the defaults that a ticket hands on to its
retraining all come from these fields. A field's type is one of ``int``, ``float``, ``bool``,
``str``, ``tuple[str, ...]`` (on the command line separated by commas), or one of them
``| None``.

>>> import dataclasses
>>> @dataclasses.dataclass(frozen=True)
... class Oven:
...     heat: int = setting(180, "degrees Celsius")
...     mode: str = setting("fan", "how it heats", choices=("fan", "grill"))
>>> describe(Oven(heat=200))
{'heat': 200, 'mode': 'fan'}
>>> restore(Oven, {"heat": 200, "light": True})
Oven(heat=200, mode='fan')
>>> check_values(Oven(mode="gril"))
Traceback (most recent call last):
lottery_tf.common.errors.UsageError: `mode` takes fan or grill, not 'gril'; nearest: grill.
"""

import copy
import dataclasses
import difflib
import functools
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from lottery_tf.common.aliases import meant_by
from lottery_tf.common.errors import UsageError


def setting(
    default: Any,
    help: str | Callable[[], str],
    choices: Collection[str] = (),
    path: bool = False,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
      default: the value when none is given; ``None`` for none.
      help: one line for ``--help``, with units; or a function that returns it, if it lists names
        that can be registered later.
      choices: the valid values of a ``str`` field, or of each part of a ``tuple[str, ...]``;
        empty for any. It is not copied, so that names which are added later count.
      path: whether it is a file or folder. Then the flag expands ``~``, as no shell does it
        behind a ``=``.
    """
    metadata = {"help": help, "choices": choices, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


def value_type(field: dataclasses.Field, owner: type) -> tuple[type, bool]:
    """``(type, optional)`` of a settings field: ``int | None`` gives ``(int, True)``."""
    hint = _hints(owner)[field.name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (t for t in typing.get_args(hint) if t is not type(None))
        return typing.get_origin(hint) or hint, True
    return typing.get_origin(hint) or hint, False


@functools.cache  # typing compiles each hint anew, and this is called for every flag
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def make_tuples(settings: Any, *fields: str) -> None:
    """Makes fields of frozen ``settings`` tuples of names. One name alone may be a text, which
    ``tuple`` would split into letters."""
    for field in fields:
        value = getattr(settings, field)
        if not isinstance(value, Iterable):
            raise UsageError(f"Expected `{field}` to be a text, or several, not {value!r}.")
        object.__setattr__(settings, field, (value,) if isinstance(value, str) else tuple(value))


def check_values(settings: Any) -> None:
    """Raises UsageError where a field of ``settings`` has a wrong type or is none of its choices.

    Numbers and yes or no are checked. What is a text on the command line may be more in a program,
    such as a teacher in memory.
    """
    for field in settings_of(settings):
        value = getattr(settings, field.name)
        kind, optional = value_type(field, type(settings))
        if value is None and optional:
            continue
        if kind in (int, float):
            check_number(value, field.name, whole=kind is int)
        if kind is bool and value not in (True, False):
            raise UsageError(f"Expected `{field.name}` to be True or False, not {value!r}.")
        check_choice(field, value)


def check_number(value: Any, name: str, whole: bool = False) -> None:
    """Raises UsageError unless an argument is a number, with ``whole`` a whole one."""
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool):
        what = "a whole number" if whole else "a number"
        raise UsageError(f"Expected `{name}` to be {what}, not {value!r}.")


def check_choice(field: dataclasses.Field, value: Any) -> None:
    """Raises UsageError where ``value``, or a part of it, is not one of the field's choices."""
    choices = field.metadata.get("choices")
    for part in value if isinstance(value, tuple) else (value,):
        if choices and part is not None and part not in choices:
            raise UsageError(
                f"`{field.name}` takes {one_of(choices)}, not '{part}'{nearest(part, choices)}."
            )


def one_of(names: Collection[str], word: str = "or") -> str:
    """``a, b or c``."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def nearest(word: str, names: Collection[str]) -> str:
    """``; nearest: a, b or c``, for the end of a sentence; empty if no name is similar.

    These are the names that ``aliases`` has for ``word`` and those that end in it. Without any it
    is the only one that begins with it, or those that are spelled like it.

    >>> nearest("lr", ["learning_rate", "decay"]), nearest("decaj", ["learning_rate", "decay"])
    ('; nearest: learning_rate', '; nearest: decay')
    """
    near = near_names(str(word), names)
    return f"; nearest: {one_of(near)}" if near else ""


def near_names(word: str, names: Collection[str]) -> list[str]:
    """Up to three of ``names`` that ``word`` may stand for.

    >>> near_names("lenet", ["mobilenet", "lenet_300_100"])
    ['lenet_300_100']
    """
    # A name of two words is often cut short; a stem such as resnet begins many.
    begun = [name for name in names if len(word) > 2 and name.startswith(f"{word}_")]
    lower = [name for name in names if name == word.lower()]
    near = lower or meant_by(word, names) or (begun if len(begun) == 1 else [])
    return near[:3] or difflib.get_close_matches(word, names, n=3, cutoff=0.5)


def describe(settings: Any) -> dict[str, Any]:
    """The settings as JSON values (tuples as lists), without fields that are not settings."""
    return _as_json(
        {f.name: copy.deepcopy(getattr(settings, f.name)) for f in settings_of(settings)}
    )


def defaults(*owners: type) -> dict[str, Any]:
    """The defaults of all fields of the ``owners`` dataclasses, in the same form."""
    return _as_json({field.name: field.default for owner in owners for field in settings_of(owner)})


def settings_of(owner: Any) -> list[dataclasses.Field]:
    """The fields that ``setting`` has made."""
    return [field for field in dataclasses.fields(owner) if "help" in field.metadata]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def restore(owner: type, values: Mapping[str, Any]) -> Any:
    """The ``owner`` dataclass from ``values``, as ``describe`` writes them; other keys are ignored.

    Raises:
      UsageError: for a value of another type than its field's, as in a file that was changed.
    """
    fields = dataclasses.fields(owner)
    given = {f.name: values[f.name] for f in fields if f.name in values}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    check_types(given, owner)
    return owner(**given)


def check_types(values: Mapping[str, Any], *owners: type) -> None:
    """Raises UsageError where a value is of another type than the field of its name."""
    for owner in owners:
        for field in settings_of(owner):
            kind, optional = value_type(field, owner)
            if field.name in values and not _is_of_type(values[field.name], kind, optional):
                raise UsageError(
                    f"Expected `{field.name}` to be {_EXPECTED[kind]}, got "
                    f"{str(values[field.name])[:60]!r}."
                )


_EXPECTED = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "a text"},
    tuple: "a list of texts",
}


def _is_of_type(value: Any, kind: type, optional: bool) -> bool:
    if value is None:
        return optional
    if isinstance(value, bool) or kind is bool:  # Python's bool is an int
        return isinstance(value, bool) and kind is bool
    if kind is tuple:
        return isinstance(value, tuple | list) and all(isinstance(part, str) for part in value)
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)
