"""Magnitude: |w| (Han et al. 2015, arXiv 1506.02626)."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network


def score(network: "Network") -> dict[str, np.ndarray]:
    """|w|."""
    return {name: np.abs(value) for name, value in network.values().items()}
