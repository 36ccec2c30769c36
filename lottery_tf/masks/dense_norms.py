"""The norms of a masked model's weights before they were pruned."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import variable_names
from lottery_tf.graph.parts import at
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import OURS, get_masks, wrappers


def norms_before(weights: Mapping[str, np.ndarray], masks: Masks) -> dict[str, float]:
    """‖w‖₂ of the weights that ``masks`` are about to prune, by name.

    Weights that are pruned already are left out, as their norm is no longer known."""
    found = {}
    for name, mask in masks.items():
        weight = np.asarray(weights[name])
        if mask.all() or np.any(weight[~mask]):
            found[name] = norm_of(weight)
    return found


def dense_norms_of(
    model: keras.Model, weights: Mapping[str, np.ndarray], masks: Masks
) -> dict[str, float]:
    """``norms_before``; for weights that ``model``'s masks have pruned already, what it remembers.

    So a weight that is pruned further keeps the norm from before its first mask."""
    pruned = {name for name, mask in get_masks(model).items() if not mask.all()}
    fresh, known = norms_before(weights, masks), get_dense_norms(model)
    return {n: norm for n, norm in fresh.items() if n not in pruned} | {
        n: norm for n, norm in known.items() if n in masks and (n in pruned or n not in fresh)
    }


def remember(model: keras.Model, dense_norms: Mapping[str, float]) -> None:
    """Stores in a wrapped model the norms that its weights had before they were pruned.

    Args:
      model: a model with weights that have just been pruned.
      dense_norms: name of a weight → its ‖·‖₂ before.
    """
    names = variable_names(model)
    for layer in wrappers(model).values():
        if isinstance(layer, OURS):
            pairs = {}
            for attribute in layer.attributes or ():
                weight = at(layer.layer, attribute)
                # None (from JSON's null) if the norm was not finite.
                if (dense := dense_norms.get(names[id(weight)])) is not None:
                    pairs[attribute] = (dense, norm_of(weight.numpy()))
            layer.dense_norms = MappingProxyType(pairs)


def get_dense_norms(model: keras.Model) -> dict[str, float]:
    """Name of a masked weight → ‖w‖₂ before it was pruned.

    Weights are left out if the model does not know the norm, or has trained them since."""
    names = variable_names(model)
    found = {}
    for layer in wrappers(model).values():
        if isinstance(layer, OURS):
            for attribute, (dense, left) in layer.dense_norms.items():
                weight = at(layer.layer, attribute)
                if math.isclose(norm_of(weight.numpy()), left, rel_tol=1e-5):
                    found[names[id(weight)]] = dense
    return found


def norm_of(weight: np.ndarray) -> float:
    """‖w‖₂, computed in float64."""
    return float(np.linalg.norm(np.asarray(weight, np.float64)))
