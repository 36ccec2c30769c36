"""Choosing settings for each recipe, the baseline too, by the dev accuracy."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from lottery_tf.common.log import counted, some
from lottery_tf.reporting.comparing import PAIR, groups, is_number, order
from lottery_tf.reporting.runs import KIND, Gathered, key
from lottery_tf.tweaks.settings import as_read

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was chosen, and from which values.

    Attributes:
      runs: those with the best values; none where nothing could be chosen. The column ``at_edge``
        names the settings whose value is the least or the greatest of several numbers, separated
        by commas. ``tied`` says whether other values are as good: the mean of the paired
        differences of dev accuracy is not above its standard error. None where no setting differs.
      tried: a row for each value that the best was chosen from: ``recipe``, ``method``,
        ``sparsity`` and settings. ``seeds`` is how many seeds choose, ``dev_accuracy`` their mean,
        ``dev_accuracy_sem`` its standard error, NaN for one seed. ``chosen`` says whether it was
        chosen, ``tied`` whether it is as good as what was.
      notes: sentences on what could not be chosen, and on what only some of the seeds chose.
    """

    runs: pd.DataFrame | None
    tried: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    notes: list[str] = dataclasses.field(default_factory=list)


def tuned(gathered: Gathered, names: Sequence[str], seeds: Collection[int] = ()) -> Tuned:
    """The runs with the best values of some settings.

    Values are chosen for each recipe, method, sparsity and other settings. The best have the
    highest mean dev accuracy, among the values with which every seed that chooses has a run.

    Args:
      gathered: the runs.
      names: the settings to choose; those that do not differ between the runs are left out.
      seeds: those that choose. By default, in each group those that ran with all its values, as
        those of ``sweep --tune_seeds`` do; where none did, all.
    """
    names = [name for name in names if name in gathered.settings]
    if not names:
        return Tuned(None)
    others = [*KIND, *(name for name in gathered.settings if name not in names)]
    of_baseline = dict.fromkeys(gathered.of_tweaks) | {"recipe": gathered.baseline}
    runs = gathered.runs
    whole = dict(groups(runs, [*others, *names]))
    chosen, tried, notes, grids = [], [], [], {}
    by_some: Counter[tuple[int, int]] = Counter()
    for kind, group in groups(runs, others):
        label = f"{as_read(kind[0])}, {kind[1]}, {100 * kind[2]:.2f} %"
        there = len(groups(group, PAIR))
        group = group[group["seed"].isin(seeds)] if seeds else _with_all(group, names)
        if group.empty:
            notes.append(f"{label}: nothing chosen, as none of the seeds that choose has a run.")
            continue
        if group["dev_accuracy"].isna().any():
            notes.append(f"{label}: nothing chosen, as not every run has a dev accuracy.")
            continue
        pairs = {key(row, PAIR) for _, row in group.iterrows()}
        candidates = dict(sorted(groups(group, names), key=lambda one: order(one[0])))
        complete = {v: part for v, part in candidates.items() if len(part) == len(pairs)}
        if not complete and len(groups(group, PAIR[1:])) < len(pairs):
            notes.append(
                f"{label}: nothing chosen, as {', '.join(names)} {_tried([*candidates])} were not "
                "tried on the same tickets. sweep --tune tries them so."
            )
            continue
        if incomplete := [values for values in candidates if values not in complete]:
            notes.append(
                f"{label}: {', '.join(names)} {_tried(incomplete)} cannot be chosen, as runs of "
                "some seeds are missing."
            )
        if complete:
            on_dev = {values: _on_dev(part) for values, part in complete.items()}
            best = max(on_dev, key=lambda values: on_dev[values]["dev_accuracy"])
            edges = _at_edge(best, list(complete))
            at_edge = ",".join(n for n, edge in zip(names, edges, strict=True) if edge)
            tied = {v for v, part in complete.items() if v != best and _ties(complete[best], part)}
            chosen.append(whole[kind + best].assign(at_edge=at_edge, tied=bool(tied)))
            for values, measured in on_dev.items():
                row = dict(zip([*others, *names], kind + values, strict=True))
                tried.append(row | measured | {"chosen": values == best, "tied": values in tied})
            grids[kind] = label, list(complete)
            by_some[len(pairs), there] += 1
    for kind, (label, grid) in grids.items():
        partner = tuple(of_baseline.get(n, v) for n, v in zip(others, kind, strict=True))
        theirs = grids[partner][1] if partner in grids else grid
        if theirs != grid:
            notes.append(
                f"{label}: {', '.join(names)} {_tried(grid)} were tried, and for "
                f"{as_read(gathered.baseline)} {_tried(theirs)}. So part of the gain may come "
                "from tuning."
            )
    notes += [
        f"{counted(rows, 'row')}: {', '.join(names)} chosen by {number} of "
        f"{counted(there, 'seed')}, those that ran with all values."
        for (number, there), rows in by_some.items()
        if number < there and not seeds
    ]
    if not chosen:
        return Tuned(runs.iloc[:0].assign(at_edge="", tied=False), notes=notes)
    frame = pd.DataFrame(tried).rename(columns={"level": "sparsity"})
    return Tuned(pd.concat(chosen, ignore_index=True), frame, notes)


def _on_dev(runs: pd.DataFrame) -> dict[str, float]:
    accuracies = runs["dev_accuracy"].astype(float)
    return {
        "seeds": len(runs),
        "dev_accuracy": accuracies.mean(),
        "dev_accuracy_sem": accuracies.sem(),
    }


def _ties(best: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the best runs are ahead of others on the same tickets by a standard error at most."""
    pairs = (each.set_index(list(PAIR))["dev_accuracy"].astype(float) for each in (best, other))
    differences = next(pairs) - next(pairs)
    error = differences.sem() if len(differences) > 1 else 0.0
    return bool(differences.mean() <= error + _ROUNDING)


def _tried(values: Sequence[tuple]) -> str:
    return some([", ".join(map(str, each)) for each in values])


def _with_all(group: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The runs of the seeds that have one with each of the group's values; all if no seed has."""
    values = len(groups(group, names))
    whole = [runs for _, runs in groups(group, PAIR) if len(runs) == values]
    return pd.concat(whole) if whole else group


def _at_edge(best: tuple, candidates: Sequence[tuple]) -> list[bool]:
    """Whether each of ``best`` is the least or the greatest number in its place."""
    found = []
    for value, values in zip(best, map(set, zip(*candidates, strict=True)), strict=True):
        numbers = [v for v in values if is_number(v)]
        found.append(len(numbers) > 1 and value in (min(numbers), max(numbers)))
    return found
