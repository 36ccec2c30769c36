"""SNIP: how much the loss would change without a weight (Lee et al. 2019, arXiv 1810.02340).

In several rounds it is iterative SNIP (de Jorge et al. 2021, arXiv 2006.09081; Verdenius et al.
2020, arXiv 2006.00896), which scores a weight in the network of those that are left.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network


def score(network: "Network") -> dict[str, np.ndarray]:
    """|w ⊙ ∂L/∂w|, with L the mean loss over all batches."""
    gradient = network.gradient()
    return {name: np.abs(value * gradient[name]) for name, value in network.values().items()}
