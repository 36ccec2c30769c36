"""Values of the same model made again, whose layers Keras may have numbered on."""

from collections.abc import Mapping

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import values
from lottery_tf.graph.matching import same_layers, variable_in
from lottery_tf.masks.wrapper import strip


def log_matched(layers: Mapping[str, str], model: keras.Model) -> None:
    """Logs which layers of a model go by another name in its twin."""
    pairs = [f"{theirs} for {mine}" for mine, theirs in layers.items() if mine != theirs]
    log.info("%s: layers are matched by their order, %s", model.name, some(pairs))


def values_for(model: keras.Model, other: keras.Model) -> dict[str, np.ndarray]:
    """The values of ``other``'s variables; a UsageError unless they are also ``model``'s."""
    other = strip(other)
    found, own = values(other), values(model)
    if found.keys() != own.keys() and (layers := same_layers(model, other)):
        log_matched(layers, other)
        found = {name: found[variable_in(name, layers)] for name in own}
    mine, theirs = ({n: v.shape for n, v in each.items()} for each in (own, found))
    if odd := [n for n in mine | theirs if mine.get(n) != theirs.get(n)]:
        raise UsageError(
            f"Expected to rewind to weights of the model '{model.name}', got '{other.name}' with "
            f"other variables or shapes ({some(odd)}): give the same model, its layers named alike."
        )
    return found
