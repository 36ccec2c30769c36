"""Command-line flags, their help and their defaults, all from the fields of settings dataclasses.

absl reads the command line: ``--name=value``, ``--name value``, ``--noname``, ``--flagfile=FILE``.
The flags are our own, apart from those that TensorFlow and other libraries define for themselves.

>>> import dataclasses
>>> from lottery_tf.common.settings import setting
>>> @dataclasses.dataclass(frozen=True)
... class Oven:
...     '''How it bakes.'''
...     heat: int = setting(180, "degrees Celsius")
...     mode: str = setting("fan", "how it heats", choices=("fan", "grill"))
>>> flags = parse(["--mode=grill"], [Oven])
>>> flags.settings(Oven)
Oven(heat=180, mode='grill')
>>> flags.settings(Oven, heat=200, mode="fan")  # what another oven had: the user's mode stays
Oven(heat=200, mode='grill')
"""

import csv
import dataclasses
import inspect
import io
import itertools
import os
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from absl import flags

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import (
    check_choice,
    check_values,
    near_names,
    one_of,
    restore,
    value_type,
)

Owner = type | Callable[[], type]


class _Kind(NamedTuple):
    define: Callable  # absl's function that defines such a flag
    value: str  # what stands for its value in the help
    expected: str


_KINDS = {
    int: _Kind(flags.DEFINE_integer, "INTEGER", "an integer"),
    float: _Kind(flags.DEFINE_float, "NUMBER", "a number"),
    bool: _Kind(flags.DEFINE_boolean, "True|False", "True or False"),
    str: _Kind(flags.DEFINE_string, "TEXT", "a text"),
    tuple: _Kind(flags.DEFINE_list, "TEXT,TEXT,...", "texts separated by commas"),
}


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What the user wrote.

    Attributes:
      values: every flag of the command by name; the default where none was given.
      given: the flags that the user wrote, on the command line or in a flagfile.
      positional: the arguments that are no flags.
    """

    values: dict[str, Any]
    given: frozenset[str]
    positional: list[str]

    def settings(self, owner: Owner, /, **defaults: Any) -> Any:
        """The settings dataclass ``owner`` with the values of its flags.

        Args:
          owner: one of those that the flags were made from.
          **defaults: replace the defaults of flags that the user did not give; names that are not
            of ``owner`` are left out. ``retrain`` passes the settings it finds in a ticket.

        Raises:
          UsageError: where a value is not one of its field's choices.
        """
        owner = as_class(owner)
        values = {field.name: self.values[field.name] for field in dataclasses.fields(owner)}
        inherited = {name: value for name, value in defaults.items() if name not in self.given}
        settings = restore(owner, values | inherited)
        check_values(settings)
        return settings


def parse(argv: Sequence[str], owners: Sequence[Owner], positional: str = "") -> Parsed:
    """Reads a command line.

    Args:
      argv: the words behind the command's name.
      owners: the settings dataclasses whose fields are the command's flags. A function that returns
        one stands for a dataclass that may get more fields later.
      positional: what the help calls arguments that are no flags; empty if there are none to take.
        They are files and folders.

    Raises:
      UsageError: for an unknown flag, a wrong or missing value, a flagfile that can't be read, or
        an argument where the command takes none.
      ValueError: if two of ``owners`` have a field of the same name.
    """
    fields = _fields(owners)
    defined = flags.FlagValues()
    for name, (field, kind) in fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        kind.define(name, default, _help(field), flag_values=defined)
    rest = _read(argv, defined, fields)
    if rest and not positional:
        raise UsageError(f"'{rest[0]}' is no flag: flags are written --name=value.")
    values = {name: defined[name].value for name in fields}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, (field, _) in fields.items():
        if field.metadata.get("path") and values[name]:
            values[name] = os.path.expanduser(values[name])
    given = frozenset(name for name in fields if defined[name].present)
    for name in given:
        check_choice(fields[name][0], values[name])
    return Parsed(values, given, [os.path.expanduser(each) for each in rest])


def command_line(settings: Any) -> list[str]:
    """``--name=value`` for each field that is not None; ``parse`` reads it back."""
    values = ((f.name, getattr(settings, f.name)) for f in dataclasses.fields(settings))
    return [f"--{name}={_written(value)}" for name, value in values if value is not None]


def help_text(command: str, summary: str, owners: Sequence[Owner], positional: str = "") -> str:
    """What ``lottery-tf COMMAND --help`` prints, as wide as the terminal.

    Each dataclass makes a block whose heading is the first line of its docstring; ``owners`` and
    ``positional`` are what ``parse`` takes.
    """
    width = max(60, min(100, shutil.get_terminal_size().columns))
    usage = f"lottery-tf {command} [--name=value ...] {positional}".strip()
    lines = [*textwrap.wrap(f"{command}: {summary}", width), "", f"usage: {usage}"]
    fields = _fields(owners)
    for owner in map(as_class, owners):
        about = cast(str, inspect.getdoc(owner))  # a dataclass without one is given one
        lines += ["", *textwrap.wrap(about.splitlines()[0], width)]
        for field in dataclasses.fields(owner):
            kind, choices = fields[field.name][1], field.metadata["choices"]
            text = _help(field) + (f": {one_of(choices)}" if choices else "")
            if field.default not in (None, "", ()):
                text += f" (default: {_written(field.default)})"
            lines += _help_entry(field.name, kind.value, text, width)
    flagfile = "read flags from FILE, one on each line, # before a comment; later flags win"
    lines += ["", "Every command.", *_help_entry("flagfile", "FILE", flagfile, width)]
    return "\n".join([*lines, "  --help", "      show this help", ""])


def as_class(owner: Owner) -> type:
    """A settings dataclass, or the one that a function returns."""
    return owner if isinstance(owner, type) else owner()


def _fields(owners: Sequence[Owner]) -> dict[str, tuple[dataclasses.Field, _Kind]]:
    """Flag name → its field and kind, in order; ValueError where a name is taken."""
    fields, taken = {}, dict.fromkeys(("flagfile", "help", "undefok"), "every command")
    for owner in map(as_class, owners):
        for field in dataclasses.fields(owner):
            if field.name in taken:
                raise ValueError(
                    f"{taken[field.name]} and {owner.__name__} have a field {field.name}."
                )
            taken[field.name] = owner.__name__
            fields[field.name] = field, _KINDS[value_type(field, owner)[0]]
    return fields


def _read(argv: Sequence[str], defined: flags.FlagValues, fields: dict) -> list[str]:
    """Fills ``defined`` from ``argv`` and returns what is no flag; tells absl's errors as ours."""
    words = _with_flagfiles(argv, defined)
    if zero := next((word for word in words if "\0" in word), None):
        raise UsageError(f"'{zero}' has a zero byte, which no name or value has.")
    for word, following in itertools.pairwise([*words, "--"]):
        name = word.lstrip("-") if word.startswith("-") else ""
        # absl would take the next flag as the value.
        if name in fields and not defined[name].boolean and following.startswith("--"):
            raise UsageError(f"--{name} lacks its value: --{name}={fields[name][1].value}.")
    try:
        return defined(["lottery-tf", *words])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(_unknown(error.flagname, [*fields, "flagfile"])) from error
    except flags.IllegalFlagValueError as error:
        # absl says "flag --name=value: reason", the reason being that of the ValueError before.
        written = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
        name = written.removeprefix("--").partition("=")[0]
        raise UsageError(f"{written}: expected {fields[name][1].expected}.") from error
    except ValueError as error:  # --noname=value
        raise UsageError(f"{error}.") from error


def _unknown(flag: str, names: Sequence[str]) -> str:
    """The sentence on a flag that is none, with those that are near as one writes them.

    >>> _unknown("lr", ["learning_rate", "rounds"])
    "there is no flag '--lr'; nearest: --learning_rate."
    """
    near = near_names(flag, names)
    if near == ["train_for"] and "epoch" in flag:
        return f"there is no flag '--{flag}': use --train_for, as in --train_for=3ep."
    if near == ["train_for"] and flag != "length":
        return f"there is no flag '--{flag}': use --train_for, as in --train_for=500it."
    said = f"; nearest: {one_of([f'--{name}' for name in near])}" if near else "; --help lists them"
    return f"there is no flag '--{flag}'{said}."


def _with_flagfiles(argv: Sequence[str], defined: flags.FlagValues) -> list[str]:
    """``argv`` with the lines of each flagfile in its place."""
    if "--flagfile=" in argv or list(argv[-1:]) == ["--flagfile"]:
        raise UsageError("--flagfile lacks its value: --flagfile=FILE.")
    try:
        return defined.read_flags_from_files(list(argv))
    except (flags.Error, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the flagfile: {error.__context__ or error}.") from error


def _written(value: Any) -> str:
    """A value as one writes it on the command line."""
    if not isinstance(value, tuple):
        return str(value)
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(value)
    return line.getvalue()


def _help(field: dataclasses.Field) -> str:
    text = field.metadata["help"]
    return text() if callable(text) else text


def _help_entry(name: str, value: str, text: str, width: int) -> list[str]:
    """The lines of one flag's help."""
    body = textwrap.wrap(text, width - 6, break_on_hyphens=False)
    return [f"  --{name}={value}", *(" " * 6 + line for line in body)]
