"""Random scores: the baseline that a method has to beat (Gale et al. 2019, arXiv 1902.09574).

With ERK's budgets (Evci et al. 2020, arXiv 1911.11134) they give the random masks from which sparse
training from scratch begins.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network


def score(network: "Network") -> dict[str, np.ndarray]:
    """Numbers drawn uniformly from [0, 1) by the network's generator."""
    return {name: network.random.random(value.shape) for name, value in network.values().items()}
