"""Which weights matter: the scores of pruning, by the name of the method that ranks by them.

A score is a function from a ``Network`` to an array a prunable weight; the largest survive. A new
one is a module and a line in METHODS.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lottery_tf.finding.scores import grasp, magnitude, random, snip, synflow

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network

__all__ = ["METHODS", "Method"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find a mask without training.

    Attributes:
      score: network → {name of each prunable weight: float array of its shape}.
      rounds: how often weights are scored and pruned on the way to the sparsity.
      scope: among which weights a weight is ranked, if the method is about that; else the user's
        choice.
      looks_at_data: whether its score reads the network's batches.
    """

    score: Callable[["Network"], Mapping[str, np.ndarray]]
    rounds: int = 1
    scope: str | None = None
    looks_at_data: bool = False


METHODS: dict[str, Method] = {
    "omp": Method(magnitude.score),
    "snip": Method(snip.score, looks_at_data=True),
    "iterative_snip": Method(snip.score, rounds=100, looks_at_data=True),
    "grasp": Method(grasp.score, looks_at_data=True),
    "synflow": Method(synflow.score, rounds=100),
    "random": Method(random.score),
    "erk": Method(random.score, scope="erk"),
}
