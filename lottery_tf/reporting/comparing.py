"""The rows of a table: means over the runs, and what each recipe gains over a baseline.

A gain is the difference to a run of the baseline (vanilla by default) on the same ticket, with the
same seeds. Its settings are the same too, except for the parameters of tweaks. The interval and p
are of a paired t-test. All p of a table are corrected together by Holm's method (1979), which holds
for dependent tests too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lottery_tf.common.log import counted, some
from lottery_tf.reporting.runs import KIND, VANILLA, key
from lottery_tf.tweaks.settings import as_read

CONFIDENCE = 0.95
# A difference is established if its p, corrected by Holm, is below this.
SIGNIFICANT = round(1 - CONFIDENCE, 9)
PAIR = ("ticket_sha256", "seed", "data_seed")
_ACCURACIES = ("test_accuracy", "dev_accuracy", "train_accuracy", "best_dev_test_accuracy")
_GAIN = ("gain", "gain_sem", "gain_low", "gain_high", "p")
_OTHERS = ("sparsity_total", "nonzero_parameters", "seconds")
# If the differences are equal up to rounding there is no spread, and so no test.
_NO_SPREAD = 1e-9


def compare(
    runs: pd.DataFrame,
    settings: Sequence[str],
    shared: Sequence[str],
    baseline: str = VANILLA,
) -> tuple[pd.DataFrame, list[str]]:
    """A row for each recipe, method, sparsity and settings, compared with the baseline.

    Args:
      runs: of ``Gathered``, all or some.
      settings: the columns by which rows differ.
      shared: those of them that must be the same in a run and in its partner of the baseline.
      baseline: the recipe that the others are compared with.

    Returns:
      A table with ``recipe``, ``method``, ``sparsity``, ``settings`` and ``seeds`` (the number of
      runs). Then the means of what was measured; accuracies are shares, and ``_sem`` has their
      standard errors, NaN for one run. Then ``pairs`` with the baseline, their mean ``gain``,
      ``gain_sem``, the bounds ``gain_low`` and ``gain_high`` of its 95 % interval, ``p``, and
      ``p_holm``, corrected for all rows. And sentences on what could not be compared.
    """
    tested = runs[runs["test_accuracy"].notna()]
    partner, several = partners(runs, shared, baseline)
    rows, alone, on_one_ticket = [], [], 0
    for values, group in groups(runs, [*KIND, *settings]):
        row = {"recipe": values[0], "method": values[1], "sparsity": values[2]}
        row |= {**dict(zip(settings, values[3:], strict=True)), "seeds": len(group)}
        row |= _measured(group)
        on_one_ticket += group["ticket_sha256"].dropna().duplicated().any()
        row |= {name: group[name].iloc[0] for name in ("at_edge", "tied") if name in group}
        if row["recipe"] != baseline:
            group = group[group["test_accuracy"].notna()]
            paired = partner[group.index].notna()
            alone += list(group["run"][~paired])
            group = group[paired]
            row |= gain(group["test_accuracy"], partner[group.index])
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in ("pairs", *_GAIN):
        table[name] = table.get(name, pd.Series(np.nan, table.index)).astype(float)
    has_p = table["p"].notna()
    table["p_holm"] = np.nan
    if has_p.any():
        table.loc[has_p, "p_holm"] = multipletests(table.loc[has_p, "p"], method="holm")[1]
    notes, of_baseline = [], as_read(baseline)
    if untested := len(runs) - len(tested):
        notes.append(
            f"{counted(untested, 'run')} not measured on the test images: sweep --tune measures "
            "only what the dev images have chosen."
        )
    if several:
        notes.append(
            f"{counted(several, 'ticket')} with several runs of {of_baseline}, which differ in "
            "parameters of its tweaks: no gain over them."
        )
    if alone:
        notes.append(
            f"{counted(len(alone), 'run')} without a {of_baseline} partner (same ticket, seeds and "
            f"settings), which no gain counts: {some(alone)}."
        )
    if single := int((table["seeds"] == 1).sum()):
        notes.append(f"{counted(single, 'row')} with one run: no error, interval or p.")
    if on_one_ticket:
        of_one = len(set(tested["ticket_sha256"])) == 1
        which = f"{counted(on_one_ticket, 'row')} with more runs than tickets"
        notes.append(
            f"{'All runs are on one ticket' if of_one else which}. Runs on the same ticket differ "
            "only in their training. So errors, intervals and p say little about other tickets."
        )
    if same := int(((table["pairs"] > 1) & ~has_p).sum()):
        notes.append(
            f"{counted(same, 'row')} without interval and p, as all differences to {of_baseline} "
            "are equal."
        )
    return _sorted(table, settings), notes


def partners(
    runs: pd.DataFrame, shared: Sequence[str], baseline: str = VANILLA
) -> tuple[pd.Series, int]:
    """The test accuracy of each run's partner, the baseline's run on the same ticket.

    Args:
      runs: of ``Gathered``, all or some.
      shared: settings that must be the same in a run and in its partner.
      baseline: the partners' recipe.

    Returns:
      The accuracies by the index of ``runs``, NaN for a run without a partner. And the number of
      tickets on which the baseline has several runs: these are nobody's partners.
    """
    found: dict[tuple, float] = {}
    several = set()
    which = {place: (*key(row, PAIR), *key(row, shared)) for place, row in runs.iterrows()}
    for place, accuracy in runs["test_accuracy"][runs["recipe"] == baseline].dropna().items():
        if which[place] in found:
            several.add(which[place])
        found[which[place]] = accuracy
    accuracies = [
        np.nan if which[place] in several else found.get(which[place], np.nan)
        for place in runs.index
    ]
    return pd.Series(accuracies, runs.index, dtype=float), len(several)


def groups(runs: pd.DataFrame, columns: Sequence[str]) -> list[tuple[tuple, pd.DataFrame]]:
    """The values of the columns, and the runs that have them all; None is a value too."""
    places: dict[tuple, list[int]] = {}
    for place, row in runs.iterrows():
        places.setdefault(key(row, columns), []).append(place)
    return [(values, runs.loc[where]) for values, where in places.items()]


def is_number(value: Any) -> bool:
    """Whether it is a number and not NaN; a truth value is none."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and not pd.isna(value)


def order(values: Sequence[Any]) -> tuple:
    """A key to sort by: None first, then numbers by size, then texts."""
    return tuple(
        (0, 0, "") if value is None else (1, value, "") if is_number(value) else (2, 0, str(value))
        for value in values
    )


def _measured(group: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in _ACCURACIES:
        values = group[name].astype(float)
        row[name] = values.mean(skipna=False)
        row[f"{name}_sem"] = values.sem(skipna=False)
    return row | {name: group[name].astype(float).mean(skipna=False) for name in _OTHERS}


def gain(own: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The columns ``pairs`` to ``p`` of ``compare`` for pairs of accuracies.

    One pair has no error; one pair, or pairs that differ by the same amount, have no test. What is
    unknown is NaN.
    """
    differences = np.subtract(own, other)
    row: dict[str, float] = {"pairs": len(differences), **dict.fromkeys(_GAIN, np.nan)}
    if len(differences):
        row["gain"] = float(np.mean(differences))
    if len(differences) > 1:
        row["gain_sem"] = float(stats.sem(differences))
        if np.ptp(differences) > _NO_SPREAD:
            test = stats.ttest_rel(own, other)
            low, high = test.confidence_interval(CONFIDENCE)
            row |= {"gain_low": float(low), "gain_high": float(high), "p": float(test.pvalue)}
    return row


def _sorted(table: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """By sparsity, method, and recipe: vanilla, single tweaks, several."""

    def place(number: int) -> tuple:
        row = table.loc[number]
        return (
            row["sparsity"],
            row["method"],
            recipe_order(row["recipe"]),
            order(key(row, settings)),
        )

    return table.loc[sorted(table.index, key=place)].reset_index(drop=True)


def recipe_order(recipe: str) -> tuple:
    """Sorts recipes: vanilla, single tweaks, several."""
    return recipe != VANILLA, recipe.count(","), recipe
