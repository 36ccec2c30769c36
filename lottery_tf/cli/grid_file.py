"""A grid's YAML file: its cells, each as the flags that it stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lottery_tf.cli.flags import Parsed, parse
from lottery_tf.cli.settings import OF_TRIALS, GridSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import nearest


def cells_of(flags: Parsed) -> list[Parsed]:
    """The flags of each cell of the grid's YAML file: its own, those that all cells share, and the
    user's, which win. Without a file there is one cell, the user's flags."""
    given = flags.values["grid"]
    if given is None:
        if flags.values["cells"]:
            raise UsageError("Expected --grid=FILE.yaml with --cells, which are parts of it.")
        return [flags]
    path = Path(given)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    # YAML raises ValueError for an impossible date, RecursionError for thousands of nested lists.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"Expected --grid={path} to be a YAML file; {line}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"Expected flags and their values in {path}, such as 'seeds: [0, 1]'.")
    cells = content.pop("cells", {"": {}})
    if not isinstance(cells, dict) or not all(isinstance(cell, dict) for cell in cells.values()):
        raise UsageError(
            f"Expected 'cells' in {path} to have a name for each cell, and flags below the name."
        )
    cells = {str(name): cell for name, cell in cells.items()}  # YAML reads 8 as a number
    chosen = flags.values["cells"] or tuple(cells)
    if unknown := [name for name in chosen if name not in cells]:
        raise UsageError(
            f"Expected --cells among those of {path}, {some([*cells])}, not '{unknown[0]}'"
            f"{nearest(unknown[0], cells)}."
        )
    found = []
    for name in chosen:
        try:
            words = _words(content | cells[name], path)
            found.append(overridden(parse(words, (GridSettings, *OF_TRIALS)), flags))
        except UsageError as error:
            where = f"{path}, {name}" if name else path
            raise UsageError(f"{where}: {error}") from None
    return [overridden(flags, cell) for cell in found]


def overridden(flags: Parsed, by: Parsed) -> Parsed:
    """``flags`` with those that the user gave in ``by``."""
    given = {name: by.values[name] for name in by.given}
    return Parsed(flags.values | given, flags.given | by.given, flags.positional)


class _Loader(yaml.SafeLoader):
    """Reads 2:4 as a text, as YAML 1.2 does; in YAML 1.1 it is 2 · 60 + 4."""


def _number_or_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    if ":" in node.value:
        return node.value
    kind = "float" if node.tag.endswith("float") else "int"
    return getattr(loader, f"construct_yaml_{kind}")(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number_or_text)


def _words(values: Mapping[str, Any], path: Path) -> list[str]:
    """``--name=value`` for each, the flagfile first; it is looked for beside the file too."""
    words: list[str] = []
    for name, value in values.items():
        if name == "flagfile":
            beside = path.parent / str(value)
            words.insert(0, f"--flagfile={beside if beside.is_file() else value}")
            continue
        if isinstance(value, dict):
            value = [f"{flag}:{_listed(several)}" for flag, several in value.items()]
        if name == "recipes" and isinstance(value, list):  # a comma within one joins its tweaks
            value = [str(each).replace(",", "+") for each in value]
        words.append(f"--{name}={_listed(value)}")
    return words


def _listed(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, list | dict) for part in parts):
        # They are not shown: nested references would grow without end when written out.
        raise UsageError("Expected a plain list of values, [a, b]; got lists within lists.")
    return ",".join(map(str, parts))
