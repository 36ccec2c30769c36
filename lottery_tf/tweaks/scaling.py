"""Weights of a model multiplied by numbers."""

from collections.abc import Mapping

from lottery_tf.graph.compat import keras, scope_of
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.ops import ops_for
from lottery_tf.masks.dense_norms import get_dense_norms, remember
from lottery_tf.masks.wrapper import remake


def scaled(model: keras.Model, scales: Mapping[str, float]) -> keras.Model:
    """A copy of ``model`` with each variable that ``scales`` names multiplied.

    The copy keeps the norms of the dense kernels that ``model`` remembers. Later tweaks compare the
    scaled kernels with these.
    """
    copy = remake(model, copy_layer)
    with scope_of(copy):
        for name, variable in named_variables(copy).items():
            if name in scales:
                ops = ops_for(variable)
                scale = ops.convert_to_tensor(scales[name], variable.dtype)
                variable.assign(variable * scale)
    remember(copy, get_dense_norms(model))
    return copy
