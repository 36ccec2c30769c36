"""GraSP: keep the gradient flowing (Wang, Zhang & Grosse 2020, arXiv 2002.07376)."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network

TEMPERATURE = 200.0


def score(network: "Network") -> dict[str, np.ndarray]:
    """w ⊙ H g, with g = ∂L/∂w and H the Hessian of L by the prunable weights.

    To first order the gradient's square norm falls by twice the score when a weight is removed, so
    the highest stay. The paper writes −w ⊙ H g and drops the highest, which gives the same mask. As
    in the paper, logits are divided by 200 first, but only for a cross-entropy.
    """
    gradient = network.gradient(TEMPERATURE)
    product = network.hessian_product(gradient, TEMPERATURE)
    return {name: value * product[name] for name, value in network.values().items()}
