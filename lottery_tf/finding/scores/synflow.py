"""SynFlow: the synaptic flow through a weight, without data.

Tanaka et al. 2020, arXiv 2006.05467.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network


def score(network: "Network") -> dict[str, np.ndarray]:
    """|w ⊙ ∂R/∂w|, with R the sum of the outputs for an input of ones, all weights being |w|.

    The network is made linear for this: activations let everything pass, BatchNorm is in inference
    mode, and what is added (biases, β, moving means; all 0 at initialisation) is left out. Then
    the scores of all weights that a cut through the network passes, such as a layer of a network
    without skips, sum to R. Other normalisations and products of activations (attention, gates)
    break this law; of the latter a line is logged. Recurrent layers keep their activations;
    attention is the product of query, key and value, the mean over the keys; an Embedding gives the
    mean of its rows, and what encodes words and numbers gives ones. It is computed in float64, or
    rescaled where that cannot be: R grows with the depth as a power, and with products as a power
    of powers. Where these leave the range of float64 shortcuts around them count for more.
    """
    from lottery_tf.finding.scores.synaptic_flow import Flow  # needs Keras; this module does not

    return network.cached(Flow).scores(network.values())
