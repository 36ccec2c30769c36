"""Weights of a model multiplied by numbers."""

from collections.abc import Mapping

import tensorflow as tf

from lottery_tf.graph.compat import keras
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.dense_norms import get_dense_norms, remember
from lottery_tf.masks.wrapper import remake


def scaled(model: keras.Model, scales: Mapping[str, float]) -> keras.Model:
    """A copy of ``model`` with each variable that ``scales`` names multiplied.

    It knows how strong its dense kernels were as ``model`` does: against them the scaled ones are
    weaker or stronger, which tweaks that come later go by.
    """
    copy = remake(model, copy_layer)
    with copy.distribute_strategy.scope():
        for name, variable in named_variables(copy).items():
            if name in scales:
                variable.assign(variable * tf.constant(scales[name], variable.dtype))
    remember(copy, get_dense_norms(model))
    return copy
