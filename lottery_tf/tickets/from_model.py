"""Tickets of models that were pruned elsewhere: masks from zeros, and the weights to rewind to."""

from collections.abc import Iterable

import numpy as np

from lottery_tf.common.log import log
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.settings import KINDS, PrunableSettings


def masks_of(model: keras.Model) -> Masks:
    """The masks of a model's wrappers; of one without them, where its weights are not 0."""
    every = prunable_weights(model, PrunableSettings(KINDS, keep_dense=()))
    if found := get_masks(model):
        return Masks({name: mask for name, mask in found.items() if name in every})
    default, variables = prunable_weights(model), named_variables(model)
    nonzero = {name: variables[name].numpy() != 0 for name in every}
    rows = prunable_weights(model, PrunableSettings(("embedding",), keep_dense=()))
    return Masks(
        {
            name: mask
            for name, mask in nonzero.items()
            # Words that nobody knows may have rows of zeros.
            if name in default or not (mask[mask.any(1)] if name in rows else mask).all()
        }
    )


def warn_of_same(model: keras.Model, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Warns if a model is rewound to the weights that it has.

    Args:
      model: the pruned model.
      pairs: each masked weight of the model to rewind to, and of ``model``.
    """
    if all(np.array_equal(one, other) for one, other in pairs):
        log.warning(
            "%s: rewind_to has the same weights. If it was pruned by tfmot, it shares its "
            "layers with the pruned model: keep a copy from before the training (clone_model "
            "and set_weights, or a file).",
            model.name,
        )
