"""A table cut into kinds of tickets: within each, recipes on the same tickets are compared."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lottery_tf.reporting.comparing import groups
from lottery_tf.reporting.runs import key
from lottery_tf.reporting.tables import (
    Report,
    gains_in_words,
    setting_in_words,
    shown,
    with_error,
)
from lottery_tf.reporting.verdict import Comparison, Kind, verdict
from lottery_tf.tweaks.settings import as_read

CONTROL = "reinit"
MOST_GAIN = 2.0  # points; a gain that is larger has the colour of this one


@dataclasses.dataclass(frozen=True)
class Line:
    """A recipe on one kind of tickets.

    Attributes:
      recipe: in words, as ``recipe_in_words`` has it.
      row: of the table's frame.
      compared: with the baseline; None for the baseline itself.
      standing: of the recipe whose gain is the highest, the baseline's being 0, or whose test
        accuracy is where no gain is known. ``best`` if that is established, ``highest mean`` if
        not, and ``tie`` for each of several that are shown with the same number. Others have none.
    """

    recipe: str
    row: pd.Series
    compared: Comparison | None
    standing: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of a table that are on one kind of tickets."""

    kind: Kind
    lines: list[Line]


def parts(report: Report) -> list[Part]:
    """The first table by kinds of tickets, in its order.

    A kind is a sparsity, a method, and the settings that the baseline shares and that were not
    chosen. So a kind has the baseline once.
    """
    table, gathered = report.tables[0], report.gathered
    frame = table.frame
    free = [name for name in table.settings if name not in table.chosen]
    own = ["recipe", *(name for name in free if name in gathered.of_tweaks)]
    shared = [name for name in free if name not in gathered.of_tweaks]
    several = ["method"] if frame["method"].nunique() > 1 else []
    told = [n for n in telling(frame, ["sparsity", *several, *shared]) if n != "sparsity"]
    words = [*several, *(name for name in told if name not in several)]
    every = list(dict.fromkeys(key(row, own) for _, row in frame.iterrows()))
    found = []
    for _, rows in groups(frame, ["sparsity", "method", *shared]):
        first = rows.iloc[0]
        kind = Kind(float(first["sparsity"]), tuple(in_words(words, key(first, words))))
        lines = [
            Line(
                name := recipe_in_words(key(row, own), own, every),
                row,
                None
                if row["recipe"] == table.baseline
                else Comparison(name, kind, row["gain"], row["p_holm"], int(row["pairs"])),
            )
            for _, row in rows.iterrows()
        ]
        found.append(Part(kind, _with_standing(lines)))
    return found


class Gains(NamedTuple):
    """The gains of all recipes on all kinds of tickets.

    Attributes:
      recipes: those with a gain, in the order of the table.
      rows: each kind of tickets, and of it a recipe → its comparison; what is unknown is left out.
    """

    recipes: list[str]
    rows: list[tuple[Kind, dict[str, Comparison]]]


def gains_of(found: Sequence[Part]) -> Gains:
    """The gains that are known."""
    rows = []
    for part in found:
        known = [c for line in part.lines if (c := line.compared) and not np.isnan(c.gain)]
        rows.append((part.kind, {one.recipe: one for one in known}))
    recipes = {line.recipe: None for part in found for line in part.lines}
    return Gains([name for name in recipes if any(name in row for _, row in rows)], rows)


def gain_text(gain: float, established: bool, decimals: int = 2) -> str:
    """A gain in points, ``+1.20``; in brackets if it is not established."""
    text = f"{round(100 * gain, decimals) + 0:+.{decimals}f}"  # no -0.0
    return text if established else f"({text})"


def short_tables(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """The first table for a narrow place: a table a kind of tickets, with the columns that matter.

    Returns:
      The title, the names of the columns, and the rows in words. A gain that is not established is
      in brackets.
    """
    table = report.tables[0]
    chosen_in_words = [name.replace("_", " ") for name in table.chosen]
    names = ["recipe", "test", "gain", "p (Holm)", *chosen_in_words]
    found = []
    for part in parts(report):
        rows = []
        for line in part.lines:
            accuracy = with_error(line.row["test_accuracy"], line.row["test_accuracy_sem"])
            gain, _, _, p = gains_in_words(line.row) if line.compared else [""] * 4
            if line.compared and line.compared.pairs and not line.compared.established:
                gain = f"({gain})"
            chosen = [setting_in_words(table, line.row, name) for name in table.chosen]
            rows.append([line.recipe, accuracy, gain, p, *chosen])
        found.append((part.kind.title, names, rows))
    return found


def answer(report: Report) -> list[str]:
    """The verdict on the first table: sentences, the answer first."""
    table = report.tables[0]
    compared = [line.compared for part in parts(report) for line in part.lines if line.compared]
    tickets = [
        own["ticket_sha256"].dropna()
        for _, own in groups(table.runs, ["recipe", "method", "level", *table.settings])
    ]
    return verdict(
        compared,
        as_read(table.baseline),
        has_baseline=bool((table.runs["recipe"] == table.baseline).any()),
        tested=bool(table.runs["test_accuracy"].notna().any()),
        shared_tickets=any(each.duplicated().any() for each in tickets),
    )


def telling(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The first of the columns, and those after it that tell rows apart which no earlier one
    does."""
    found = list(columns[:1])
    for name in columns[1:]:
        if len(groups(frame, [*found, name])) > len(groups(frame, found)):
            found.append(name)
    return found


def recipe_in_words(values: tuple, columns: Sequence[str], every: Sequence[tuple]) -> str:
    """A recipe by its name, and by those parameters that are not the same wherever it stands.

    Args:
      values: the recipe, and the values of its parameters.
      columns: the names of ``values``.
      every: the values of all recipes of the table.

    Returns:
      ``tost+distillation``; ``soft_activation (share 0.5)``.
    """
    same = list(zip(*(other for other in every if other[0] == values[0]), strict=True))
    differ = [i for i in range(1, len(values)) if columns[i] == CONTROL or len(set(same[i])) > 1]
    words = [f"{columns[i].removeprefix(f'{values[0]}_')} {shown(values[i])}" for i in differ]
    more = f" ({', '.join(words)})" if words else ""
    return as_read(str(values[0])) + more


def in_words(names: Sequence[str], values: Sequence) -> list[str]:
    """What tells rows apart: texts as they are, numbers with their names."""
    found = zip(names, values, strict=True)
    return [v if isinstance(v, str) else f"{n} {shown(v)}" for n, v in found if v is not None]


def _with_standing(lines: Sequence[Line]) -> list[Line]:
    gains = [0.0 if line.compared is None else line.compared.gain for line in lines]
    if all(line.compared is None or np.isnan(line.compared.gain) for line in lines):
        gains = [line.row["test_accuracy"] for line in lines]
    if len(lines) < 2 or np.isnan(gains).all():
        return list(lines)
    numbers = [round(100 * float(gain), 2) for gain in gains]  # as they are shown
    places = np.flatnonzero(numbers == np.nanmax(numbers))
    standing = "tie" if len(places) > 1 else "highest mean"
    if len(places) == 1 and _is_established(lines[places[0]], lines):
        standing = "best"
    return [
        dataclasses.replace(line, standing=standing) if place in places else line
        for place, line in enumerate(lines)
    ]


def _is_established(line: Line, lines: Sequence[Line]) -> bool:
    """Whether a recipe is ahead of the baseline, and the baseline of all others."""
    if line.compared is not None:
        return line.compared.established and line.compared.side > 0
    others = [each.compared for each in lines if each is not line]
    return all(one is not None and one.established and one.side < 0 for one in others)
