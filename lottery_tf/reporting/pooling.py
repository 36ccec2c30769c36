"""One row a recipe: what it gains as a mean over the kinds of tickets."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from lottery_tf.common.log import counted
from lottery_tf.reporting.comparing import gain, groups, partners, recipe_order
from lottery_tf.reporting.runs import VANILLA

_KIND = ("method", "level")


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Gains of all kinds of tickets together.

    Attributes:
      frame: ``recipe``, its own ``settings`` that were not chosen, ``kinds`` (number of kinds of
        tickets that it was tested on), ``seeds`` (those that all these kinds have), and over them
        ``gain``, ``gain_sem``, ``gain_low``, ``gain_high`` and ``p``.
      settings: the columns of settings.
      about: sentences on how it is to be read.
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
      runs: of ``Gathered``, each recipe at its chosen settings; those not tested are left out.
      kinds: settings that, with method and sparsity, make a kind of tickets.
      own: other settings, which make several rows of a recipe.
      baseline: the recipe that the others are compared with.

    Returns:
      None where no recipe was tested on two kinds or more.
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
        f"The mean over up to {counted(most, 'kind')} of tickets of each seed's gains over "
        f"{baseline}, then over the seeds that all of them have, with interval and p of a t-test. "
        "It is post hoc: which kinds there are decides it, each counts the same, and those that "
        "share data or dense networks are no independent findings.",
    ]
    if frame["kinds"].min() < most:
        about.append("Recipes that were tested on fewer kinds are not to be compared with others.")
    return Pooled(frame, list(own), about, baseline)
