"""The tables of a report: as data frames, as Markdown, and as the cells that are read."""

import dataclasses
import os
import re
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted
from lottery_tf.common.settings import nearest
from lottery_tf.reporting.comparing import CONFIDENCE, compare
from lottery_tf.reporting.pooling import Pooled, pool
from lottery_tf.reporting.runs import VANILLA, Gathered, gather
from lottery_tf.reporting.tickets import dense_accuracies
from lottery_tf.reporting.tuning import tuned
from lottery_tf.tweaks.settings import as_read

UNKNOWN = "–"
POOLED_TITLE = "All kinds of tickets together (post hoc)"
# What Markdown reads: * and ~ are our own marks, and _ within a word is none. \\x60 is a backquote.
_MARKED = re.compile(r"[\\|\[\]\x60]|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_TEST = ("95 % interval", "p", "p (Holm)")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
      name: of its files.
      title: above it.
      runs: the runs it is of.
      frame: what ``compare`` returned. Where settings were chosen it has ``at_edge`` and ``tied``
        too, as ``Tuned`` has them.
      settings: the columns of settings.
      chosen: those of them whose values were chosen for each recipe.
      tried: the values that they were chosen from, as ``Tuned`` has it; empty where none were.
      about: sentences on how it is to be read, and on what is missing.
      baseline: the recipe that the others are compared with.
    """

    name: str
    title: str
    runs: pd.DataFrame
    frame: pd.DataFrame
    settings: list[str]
    chosen: list[str]
    about: list[str]
    baseline: str = VANILLA
    tried: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)


@dataclasses.dataclass(frozen=True)
class Report:
    """Retrain runs in tables.

    Attributes:
      gathered: the runs.
      tables: one of all settings; before it, if settings were chosen, one of the chosen ones.
      pooled: the first table over all kinds of tickets; None where there is one kind.
    """

    gathered: Gathered
    tables: list[Table]
    pooled: Pooled | None = None


def report(
    folders: Sequence[str | os.PathLike],
    tune: Sequence[str] = ("learning_rate",),
    tune_seeds: Collection[int] = (),
    baseline: str = VANILLA,
) -> Report:
    """Tables of the retrain runs below ``folders``.

    Args:
      folders: with runs below them, at any depth.
      tune: settings to choose for each recipe, vanilla too: the values with the highest mean dev
        accuracy. A table of its own has them. Settings that do not differ are not chosen.
      tune_seeds: the seeds whose runs choose. By default, those that ran with all values, of each
        recipe, method and sparsity; where no seed did, all of them.
      baseline: the recipe that the others are compared with.

    Raises:
      UsageError: if there are no runs, or if they have no such setting or baseline.
    """
    gathered = gather(folders, baseline)
    for name in tune:
        if name not in gathered.known:
            raise UsageError(
                f"Expected `tune` to name settings of the runs, got '{name}'"
                f"{nearest(name, sorted(gathered.known)) or '; config.json has their names'}."
            )
    frame, notes = compare(gathered.runs, gathered.settings, gathered.shared, baseline)
    about = [*_about(frame, gathered, ()), *notes]
    tables = [
        Table("table", "All settings", gathered.runs, frame, gathered.settings, [], about, baseline)
    ]
    best = tuned(gathered, tune, tune_seeds)
    if best.runs is not None and len(best.runs):
        chosen = [name for name in tune if name in gathered.settings]
        shared = [name for name in gathered.shared if name not in chosen]
        frame, notes = compare(best.runs, gathered.settings, shared, baseline)
        about = [
            f"The best {' and '.join(chosen)} of each recipe, {as_read(baseline)} too, by the mean "
            f"dev accuracy{_of(tune_seeds)}. A * is at the edge of the values that were tried. "
            "With ~ others are as good, within one standard error of the paired differences.",
            *_about(frame, gathered, chosen),
            *notes,
            *best.notes,
        ]
        title = f"Best {' and '.join(chosen)} of each recipe"
        table = Table(
            *("tuned", title, best.runs, frame, gathered.settings, chosen, about, baseline),
            best.tried,
        )
        tables.insert(0, table)
    else:
        about += best.notes
    return Report(gathered, tables, _pooled(tables[0], gathered, tune))


def _pooled(table: Table, gathered: Gathered, tune: Sequence[str]) -> Pooled | None:
    """None where settings of ``tune`` differ and none was chosen."""
    differ = [name for name in table.settings if name not in table.chosen]
    if set(differ) & set(tune):
        return None
    kinds = [name for name in differ if name not in gathered.of_tweaks]
    own = [name for name in differ if name in gathered.of_tweaks]
    return pool(table.runs, kinds, own, table.baseline)


def _of(seeds: Collection[int]) -> str:
    return f" of {counted(len(seeds), 'seed')}" if seeds else ""


def head(table: Table) -> list[str]:
    """The names of the columns, as a reader sees them."""
    splits = [name.removesuffix("_accuracy") for name in accuracies(table)]
    return [
        "sparsity",
        "method",
        "recipe",
        *table.settings,
        "seeds",
        *splits,
        f"gain over {as_read(table.baseline)}",
        *_TEST,
    ]


def cells(table: Table) -> list[list[str]]:
    """The rows in words: accuracies in percent with their standard error, gains in points."""
    return [_cells(table, row) for _, row in table.frame.iterrows()]


def values(table: Table) -> list[list[float | str | None]]:
    """What a reader can sort the cells by, in the same places."""
    numbers = ("seeds", *accuracies(table), "gain", "gain_low", "p", "p_holm")
    return _values(table.frame, ["sparsity", "method", "recipe", *table.settings, *numbers])


def _values(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[float | str | None]]:
    return [
        [None if pd.isna(row[name]) else row[name] for name in columns]
        for _, row in frame.iterrows()
    ]


def markdown(table: Table) -> str:
    """The table in Markdown, and the sentences about it below."""
    return in_markdown(head(table), range(1, 3 + len(table.settings)), cells(table), table.about)


def pooled_head(pooled: Pooled) -> list[str]:
    """As ``head``, of the pooled table."""
    over = f"gain over {as_read(pooled.baseline)}"
    return ["recipe", *pooled.settings, "kinds of tickets", "seeds", over, *_TEST[:2]]


def pooled_cells(pooled: Pooled) -> list[list[str]]:
    """As ``cells``, of the pooled table."""
    return [
        [
            *(as_read(row["recipe"]), *(shown(row[name]) for name in pooled.settings)),
            *(str(row["kinds"]), str(row["seeds"]), *gains_in_words(row)[:3]),
        ]
        for _, row in pooled.frame.iterrows()
    ]


def pooled_values(pooled: Pooled) -> list[list[float | str | None]]:
    """As ``values``, of the pooled table."""
    return _values(
        pooled.frame,
        ["recipe", *pooled.settings, "kinds", "seeds", "gain", "gain_low", "p"],
    )


def pooled_markdown(pooled: Pooled) -> str:
    """As ``markdown``, of the pooled table."""
    texts = range(1 + len(pooled.settings))
    return in_markdown(pooled_head(pooled), texts, pooled_cells(pooled), pooled.about)


def in_markdown(
    head: Sequence[str], texts: Collection[int], rows: Sequence[Sequence[str]], about: Sequence[str]
) -> str:
    """A table in Markdown, sentences below; the columns at ``texts`` to the left."""
    sides = ["---" if place in texts else "---:" for place in range(len(head))]
    words = ([_as_it_is(word) for word in line] for line in rows)
    lines = [[_as_it_is(name) for name in head], sides, *words]
    shown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{shown}\n{_as_it_is(' '.join(about))}\n"


def _as_it_is(text: str) -> str:
    """``text`` escaped for Markdown: a name may hold a tag, a link or the end of a cell."""
    return _MARKED.sub(r"\\\g<0>", " ".join(text.split("\n")))


def accuracies(table: Table) -> list[str]:
    """Their columns; dev's too where a row was not tested."""
    splits = (
        ("train", "dev", "test") if table.frame["test_accuracy"].isna().any() else ("train", "test")
    )
    return [f"{split}_accuracy" for split in splits]


def shown(value: object) -> str:
    """A setting's value as it is read."""
    if value is None or pd.isna(value):
        return UNKNOWN
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting_in_words(table: Table, row: pd.Series, name: str) -> str:
    """The value of a setting, and the marks of one that was chosen."""
    at_edge = name in row.get("at_edge", "").split(",")
    tied = name in table.chosen and row.get("tied", False)
    return shown(row[name]) + "*" * at_edge + "~" * bool(tied)


def _cells(table: Table, row: pd.Series) -> list[str]:
    settings = [setting_in_words(table, row, name) for name in table.settings]
    gains = [""] * 4 if row["recipe"] == table.baseline else gains_in_words(row)
    if gains[0] not in ("", UNKNOWN) and row["pairs"] != row["seeds"]:
        gains[0] += f" ({row['pairs']:.0f} pairs)"
    return [
        *(f"{100 * row['sparsity']:.2f} %", row["method"], as_read(row["recipe"]), *settings),
        str(row["seeds"]),
        *(with_error(row[name], row[f"{name}_sem"]) for name in accuracies(table)),
        *gains,
    ]


def gains_in_words(row: pd.Series) -> list[str]:
    """A gain, its interval, p, and p after Holm's correction where there is one."""
    gains = [UNKNOWN] * 4
    if not np.isnan(row["gain"]):
        gains[0] = with_error(row["gain"], row["gain_sem"], "+")
        if not np.isnan(row["p"]):
            bounds = f"{100 * row['gain_low']:+.2f} to {100 * row['gain_high']:+.2f}"
            gains[1:] = [bounds, _p(row["p"]), _p(row.get("p_holm", row["p"]))]
    return gains


def with_error(mean: float, error: float, sign: str = "") -> str:
    if np.isnan(mean):
        return UNKNOWN
    return f"{100 * mean:{sign}.2f}" + ("" if np.isnan(error) else f" ± {100 * error:.2f}")


def _p(value: float) -> str:
    """``0.23``; of a small one a third decimal, ``0.012``; ``<0.001``."""
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _about(frame: pd.DataFrame, gathered: Gathered, chosen: Sequence[str]) -> list[str]:
    tests = int(frame["p"].notna().sum())
    tested = {
        0: "No gain is tested, as a test takes two pairs of runs that differ.",
        1: "There is one test, so that p (Holm) is p.",
    }.get(tests, f"p (Holm) is p corrected by Holm's method for the {tests} tests of this table.")
    lines = [
        "Accuracies are of the last epoch, in percent: the mean ± standard error over the seeds.",
        f"A gain is the difference to {as_read(gathered.baseline)} on the same ticket, in points. "
        f"Its {100 * CONFIDENCE:.0f} % interval and p are of a paired t-test. {tested}",
        "Errors and intervals are over the seeds, on one test set. The test set's own error is not "
        "in them: √(a(1−a)/n) for an accuracy a on n images. Gains are paired, so that most of "
        "it cancels in them.",
    ]
    if not set(gathered.shared) - set(chosen) and (dense := dense_accuracies(gathered.runs)):
        error = stats.sem(dense) if len(dense) > 1 else np.nan
        lines.append(
            "The dense network's accuracy, when the ticket was found: "
            f"{with_error(float(np.mean(dense)), error)}."
        )
    return lines
