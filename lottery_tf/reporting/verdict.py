"""What a report comes to, in a few sentences: who is ahead, where, and whether it is established.

*Established* means that a test says so: p of the paired t-test, after Holm's correction for all
tests of the table, is below 0.05. The verdict makes no tests of its own.
"""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from lottery_tf.common.log import some
from lottery_tf.reporting.comparing import SIGNIFICANT
from lottery_tf.reporting.runs import VANILLA

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LEVEL = 5e-5  # below this a gain is shown as 0.00 points
_SHORT = 48  # up to so many letters kinds of tickets are named, above it they are counted
_EACH = 3  # up to so many recipes have a sentence each


class Kind(NamedTuple):
    """A kind of tickets.

    Attributes:
      sparsity: the share of prunable weights that is pruned.
      others: the method and settings, in words, where they tell kinds apart.
    """

    sparsity: float
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``75 %``; ``93.75 % (imp, width 32)``."""
        return percent(self.sparsity) + self._more

    @property
    def title(self) -> str:
        """``75 % pruned``; ``93.75 % pruned (imp, width 32)``."""
        return f"{percent(self.sparsity)} pruned{self._more}"

    @property
    def _more(self) -> str:
        return f" ({', '.join(self.others)})" if self.others else ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A recipe and the baseline on one kind of tickets.

    Attributes:
      recipe: in words.
      kind: of tickets.
      gain: the mean difference in test accuracy, a share; NaN where it is unknown.
      p: of the paired t-test, corrected by Holm; NaN where there is no test.
      pairs: how many pairs of runs the gain is the mean of.
    """

    recipe: str
    kind: Kind
    gain: float = np.nan
    p: float = np.nan
    pairs: int = 0

    @property
    def side(self) -> int:
        """1 if the recipe is ahead, -1 if it is behind, 0 if no difference would be shown."""
        return 0 if abs(self.gain) < _LEVEL else int(np.sign(self.gain))

    @property
    def established(self) -> bool:
        """Whether the test says that there is a difference."""
        return self.p < SIGNIFICANT and self.side != 0


def verdict(
    comparisons: Sequence[Comparison],
    baseline: str = VANILLA,
    *,
    has_baseline: bool = True,
    tested: bool = True,
    shared_tickets: bool = False,
) -> list[str]:
    """The sentences, the answer first.

    Args:
      comparisons: of each recipe but the baseline on each kind of tickets it was trained on, in
        the order of the table.
      baseline: the recipe that the others are compared with.
      has_baseline: whether there are runs of it.
      tested: whether any run was measured on the test images.
      shared_tickets: whether several runs of one row are on the same ticket.
    """
    known = [one for one in comparisons if not np.isnan(one.gain)]
    if not known:
        return [_why_unknown(comparisons, baseline, has_baseline, tested)]
    every = list(dict.fromkeys(one.kind for one in known))
    recipes = [_Recipe(name, own, every) for name, own in _by_recipe(known)]
    recipes.sort(key=lambda recipe: recipe.rank, reverse=True)
    lines = (
        [recipe.sentence(baseline) for recipe in recipes]
        if len(recipes) <= _EACH
        else [*_of_many(recipes, baseline)]
    )
    names = {recipe.name for recipe in recipes}
    if unknown := [name for name, _ in _by_recipe(comparisons) if name not in names]:
        lines.append(
            f"No gain is known for {some(unknown)}: {baseline} was not run on the same ticket with "
            "the same seeds and settings."
        )
    if shared_tickets:
        lines.append("Some runs share a ticket, so this says little about other tickets.")
    return lines


def percent(share: float) -> str:
    """``75 %``, ``93.75 %``."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def number(count: int) -> str:
    """``two``; above ten in digits."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _why_unknown(
    comparisons: Sequence[Comparison], baseline: str, has_baseline: bool, tested: bool
) -> str:
    if not has_baseline:
        return f"No gain is known: there is no run of {baseline} to compare with."
    if not comparisons:
        return f"Only {baseline} was run, so there is no recipe to compare with it."
    if not tested:
        return "No gain is known: no run was measured on the test images."
    return (
        f"No gain is known: {baseline} was not run on the same ticket with the same seeds and "
        "settings as another recipe."
    )


def _by_recipe(comparisons: Sequence[Comparison]) -> list[tuple[str, list[Comparison]]]:
    found: dict[str, list[Comparison]] = {}
    for one in comparisons:
        found.setdefault(one.recipe, []).append(one)
    return list(found.items())


class _Recipe:
    """A recipe on all kinds of tickets that it can be compared on.

    Args:
      name: of the recipe.
      own: its comparisons, with known gains.
      every: the kinds of tickets that any recipe can be compared on.
    """

    def __init__(self, name: str, own: Sequence[Comparison], every: Sequence[Kind]):
        self.name, self.own, self._every = name, own, every
        self.ahead, self.behind = ([one for one in own if one.side == s] for s in (1, -1))
        self.wins, self.losses = (
            [one for one in side if one.established] for side in (self.ahead, self.behind)
        )

        level = [one for one in own if one.side == 0]
        self._named = (
            max(map(len, (self.ahead, self.behind, level))) <= 2
            and sum(len(str(one.kind)) for one in own) <= _SHORT
        )

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts recipes by what is established, then by the mean gain."""
        mean = float(np.mean([one.gain for one in self.own]))
        return len(self.wins) - len(self.losses), mean

    def sentence(self, baseline: str) -> str:
        """Where it is ahead or behind, by how much, and whether that is established."""
        ahead, behind = self._where(self.ahead), self._where(self.behind, self.ahead)
        if self.ahead and self.behind:
            said = f"ahead of {baseline}{ahead} and behind{behind}"
        elif self.ahead:
            said = f"ahead of {baseline}{ahead}, by {_points(self.ahead)}"
        elif self.behind:
            said = f"behind {baseline}{behind}, by {_points(self.behind)}"
        else:
            said = f"level with {baseline}{self._where(self.own)}"
        return f"{self.name} is {said}; {self._established()}."

    def counted(self, found: Collection[Comparison]) -> str:
        """Its name, and on how many of its kinds of tickets something was found."""
        of = f" on {len(found)} of {len(self.own)}" if len(self._every) > 1 else ""
        return f"{self.name}{of}"

    def _established(self) -> str:
        found = [*self.wins, *self.losses]
        if not found:
            if all(np.isnan(one.p) for one in self.own) and max(o.pairs for o in self.own) > 1:
                return "there is no test, as the difference is the same for all seeds"
            return f"with {_seeds(self.own)} not established"
        if len(found) == len(self.own):
            return f"established with {_seeds(found)}"
        return f"established{self._where(found, self.own)} only, with {_seeds(found)}"

    def _where(self, found: Collection[Comparison], before: Collection[Comparison] = ()) -> str:
        """On which of the kinds of tickets; nothing where there is one kind.

        Args:
          found: the comparisons on them.
          before: those that the sentence has counted already, if any.
        """
        if len(self._every) == 1:
            return ""
        by_sparsity = len({kind.others for kind in self._every}) == 1
        at, noun = ("at", "sparsities") if by_sparsity else ("on", "kinds of tickets")
        if len(found) == len(self._every):
            both = "both" if len(found) == 2 else f"all {number(len(found))}"
            return f" {at} {both} {noun}"
        if self._named:
            return " at " + " and ".join(str(one.kind) for one in found)
        if before:
            if before is self.ahead and len(before) + len(found) == len(self.own):
                return f" {at} the other {number(len(found))}"
            return f" {at} {number(len(found))} of them"
        if len(self.own) == len(self._every):
            return f" {at} {len(found)} of {len(self.own)} {noun}"
        share = "all" if len(found) == len(self.own) else f"{len(found)} of"
        return f" {at} {share} {len(self.own)} {noun} that it was tried on"


def _of_many(recipes: Sequence[_Recipe], baseline: str) -> list[str]:
    """The first recipe in a sentence, and which of the others are established."""
    first = recipes[0] if any(recipe.ahead for recipe in recipes) else None
    others = recipes[1:] if first else recipes
    lines = [first.sentence(baseline) if first else f"No recipe is ahead of {baseline}."]
    wins = [recipe.counted(recipe.wins) for recipe in others if recipe.wins]
    losses = [recipe.counted(recipe.losses) for recipe in others if recipe.losses]
    also = "Also established" if first and first.wins else "Established"
    if wins:
        lines.append(f"{also} as ahead: {some(wins)}.")
    if losses:
        lines.append(f"Established as behind: {some(losses)}.")
    if not wins and not losses:
        pairs = list(itertools.chain.from_iterable(recipe.own for recipe in others))
        what = f"the other {number(len(others))} recipes" if first else "the differences"
        lines.append(f"With {_seeds(pairs)} nothing is established about {what}.")
    elif first and not wins:
        lines.append("No other recipe is established as ahead.")
    return lines


def _points(comparisons: Sequence[Comparison]) -> str:
    sizes = [f"{100 * abs(one.gain):.2f}" for one in comparisons]
    least, most = min(sizes, key=float), max(sizes, key=float)
    return f"{least} points" if least == most else f"{least} to {most} points"


def _seeds(comparisons: Sequence[Comparison]) -> str:
    least, most = (f(one.pairs for one in comparisons) for f in (min, max))
    if least == most:
        return f"{number(most)} seed{'' if most == 1 else 's'}"
    return f"{least} to {most} seeds"
