"""SynFlow: the synaptic flow through a weight, without data.

Tanaka et al. 2020, arXiv 2006.05467.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lottery_tf.finding.scores.network import Network


def score(network: "Network") -> dict[str, np.ndarray]:
    """|w ⊙ ∂R/∂w|, with R the sum of the outputs for an input of ones, and all weights set to |w|.

    The network is made linear: activations become the identity, BatchNorm is in inference mode, and
    offsets (biases, β, moving means; all 0 at initialisation) are left out. Then the scores of all
    weights in a cut through the network sum to R; in a network without skips a layer is such a cut.
    Other normalisations and products of activations (attention, gates) break this law; for products
    a line is logged. Recurrent layers keep their activations. Attention is the product of query,
    key and value, with the mean over the keys. An Embedding gives the mean of its rows, and
    encoders of words and numbers give ones.

    R grows exponentially with the depth, and even faster with products. So it is computed in
    float64, or rescaled if that is not possible. Where products exceed the range of float64,
    shortcuts around them count for more.
    """
    from lottery_tf.finding.scores.synaptic_flow import Flow  # imports Keras; this module must not

    return network.cached(Flow).scores(network.values())
