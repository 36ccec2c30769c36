"""The mean gain of each recipe over all kinds of tickets."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from lottery_tf.common.log import counted
from lottery_tf.reporting.comparing import gain, groups, partners, recipe_order
from lottery_tf.reporting.runs import VANILLA
from lottery_tf.tweaks.settings import as_read

_KIND = ("method", "level")


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Gains of all kinds of tickets together.

    Attributes:
      frame: a row a recipe: ``recipe``, and its own ``settings`` that were not chosen. ``kinds`` is
        the number of kinds of tickets that it was tested on, ``seeds`` that of the seeds that all
        these kinds have. ``gain``, ``gain_sem``, ``gain_low``, ``gain_high`` and ``p`` are over
        these seeds.
      settings: the columns of settings.
      about: sentences on how to read it.
      baseline: the recipe that the others are compared with.
    """

    frame: pd.DataFrame
    settings: list[str]
    about: list[str]
    baseline: str


def pool(
    runs: pd.DataFrame, kinds: Sequence[str], own: Sequence[str], baseline: str = VANILLA
) -> Pooled | None:
    """The mean over the kinds of tickets of each seed's gains, then over the seeds.

    Args:
      runs: of ``Gathered``, each recipe with its chosen settings. Runs that were not tested are
        left out.
      kinds: the settings that make a kind of tickets, together with method and sparsity.
      own: other settings; a recipe has a row for each combination of their values.
      baseline: the recipe that the others are compared with.

    Returns:
      None if no recipe was tested on two kinds or more.
    """
    partner, _ = partners(runs, kinds, baseline)
    differences = runs["test_accuracy"] - partner
    told = runs[differences.notna() & (runs["recipe"] != baseline)]
    rows = []
    for (recipe, *values), group in groups(told, ["recipe", *own]):
        by_kind = [
            differences[each.index].groupby(each["seed"]).mean()
            for _, each in groups(group, [*_KIND, *kinds])
        ]
        gains = pd.concat(by_kind, axis=1, join="inner").mean(axis=1)
        if len(by_kind) < 2 or gains.empty:
            continue
        row = {"recipe": recipe, **dict(zip(own, values, strict=True)), "kinds": len(by_kind)}
        measured = gain(list(gains), [0.0] * len(gains))
        rows.append({**row, "seeds": int(measured.pop("pairs")), **measured})
    if not rows:
        return None
    frame = pd.DataFrame(sorted(rows, key=lambda row: recipe_order(row["recipe"])))
    most = int(frame["kinds"].max())
    about = [
        f"Each seed's gain over {as_read(baseline)} is the mean over up to {counted(most, 'kind')} "
        "of tickets. The gain is the mean over the seeds that all kinds have; its interval and p "
        "are of a t-test. This is post hoc: it depends on which kinds of tickets there are. Each "
        "kind counts the same, and kinds that share data or dense networks are not independent.",
    ]
    if frame["kinds"].min() < most:
        about.append("Do not compare recipes that were tested on different numbers of kinds.")
    return Pooled(frame, list(own), about, baseline)
