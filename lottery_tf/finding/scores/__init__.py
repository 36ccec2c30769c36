"""Which weights matter: the scores of pruning, by the names of their methods.

A score is a function from a ``Network`` to an array for each prunable weight; the largest survive.
A new one needs a module and a line in METHODS. Command lines are checked by this table, so a score
imports Keras only within its function.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import one_of
from lottery_tf.finding.scores import grasp, magnitude, random, snip, synflow
from lottery_tf.masks.allocate import SCOPES

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network

__all__ = ["METHODS", "Method", "Score", "register_method"]

Score = Callable[["Network"], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find a mask by a score of the present weights. Commands train before omp's.

    Attributes:
      score: network → {name of each prunable weight: float array of its shape}.
      rounds: how often weights are scored and pruned on the way to the sparsity.
      scope: the scope of the ranking, if it belongs to the method; None for the user's choice.
      looks_at_data: whether the score reads the network's batches.
    """

    score: Score
    rounds: int = 1
    scope: str | None = None
    looks_at_data: bool = False


TRAINING = ("imp", "gmp")  # the methods that train on the way to the mask
IMPORTED = "from_model"  # the zeros of a model's file
METHODS: dict[str, Method] = {
    "omp": Method(magnitude.score),
    "snip": Method(snip.score, looks_at_data=True),
    "iterative_snip": Method(snip.score, rounds=100, looks_at_data=True),
    "grasp": Method(grasp.score, looks_at_data=True),
    "synflow": Method(synflow.score, rounds=100),
    "random": Method(random.score),
    "erk": Method(random.score, scope="erk"),
}


def register_method(
    name: str,
    score: Score,
    *,
    rounds: int = 1,
    scope: str | None = None,
    looks_at_data: bool = False,
) -> None:
    """Registers a user's own score under a name.

    ``prune``, ``find_tickets`` and, in this process, the commands then know it.

    Args:
      name: letters, digits and underscores.
      score: network → {name of each prunable weight: float array of its shape}; the largest
        survive. ``Network`` says what it offers to a score.
      rounds, scope, looks_at_data: as in ``Method``.

    Raises:
      UsageError: for a name of another form, or of another score, and for other arguments out of
        range.
    """
    if not name.isidentifier():
        raise UsageError(f"Expected a method's name of letters, digits and _, not '{name}'.")
    if not callable(score) or rounds < 1 or scope not in (None, *SCOPES):
        raise UsageError(
            f"Expected a function network → scores, rounds of 1 or more and a scope among "
            f"{one_of(SCOPES)} or None for the method '{name}'; got {score!r}, {rounds} and "
            f"{scope}."
        )
    method = Method(score, rounds, scope, looks_at_data)
    if name in (*TRAINING, IMPORTED) or METHODS.get(name, method) != method:
        raise UsageError(f"Expected a new name for the method; '{name}' is taken: choose another.")
    METHODS[name] = method
