"""The pruning wrapper of Keras 3, which computes as the one of tf_keras in ``prune_by_mask``."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from lottery_tf.graph.compat import (
    PruningWrapper,
    autocast_of,
    constrain_too,
    regularize_instead,
)
from lottery_tf.graph.parts import at, holder_of, in_places_of, variables_at
from lottery_tf.masks.prunable import prunable_attributes


@keras.saving.register_keras_serializable("lottery_tf")
class PruneByMask(PruningWrapper):
    """Computes ``layer`` with each prunable weight multiplied by a mask that can be set.

    The masks are non-trainable float32 variables, all ones at first; ``lt.set_masks`` changes
    them. Each step of an optimizer ends in w ← w ⊙ m. For most optimizers that changes nothing, as
    a weight without a gradient does not move. But Muon computes its update from singular vectors
    of the whole gradient, and some constraints move zeros. Averages of the weights (``use_ema``)
    are taken before that.

    Args:
      layer: a layer with at least one prunable weight, in itself or in a layer within it.
      attributes: paths of the variables to mask, as in ``graph/parts``: ``kernel``,
        ``cell/kernel``; default: all prunable ones.
      dense_norms: path → (‖w‖₂ before pruning, ‖w ⊙ m‖₂ just after it), where they are known.
      **kwargs: as for any Keras layer.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        attributes: Sequence[str] | None = None,
        dense_norms: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, **kwargs)
        self.attributes = attributes
        # Keras would track a dictionary; it does not track this type.
        self.dense_norms: Mapping[str, Sequence[float]] = MappingProxyType(dict(dense_norms or {}))
        self.masks: dict[str, keras.Variable] = {}
        # Path of a masked variable → all paths at which the layer holds it.
        self.places: Mapping[str, Sequence[str]] = MappingProxyType({})

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.attributes = list(self.attributes or prunable_attributes(self.layer))
        held = variables_at(self.layer)
        self.places = MappingProxyType(
            {a: [p for p in held if held[p] is held[a]] for a in self.attributes}
        )
        for attribute in self.attributes:
            kernel = held[attribute]
            self.masks[attribute] = self.add_weight(
                name=f"mask_{attribute}".replace("/", "_"),
                shape=kernel.shape,
                initializer="ones",
                dtype="float32",
                autocast=False,
                trainable=False,
                aggregation="only_first_replica",
            )
            # Else an orthogonal regularizer would move zeros.
            masked = functools.partial(self._masked, attribute)
            regularize_instead(holder_of(self.layer, attribute), kernel, masked)
            # JAX would keep the mask of the first step.
            if keras.backend.backend() != "jax":
                constrain_too(kernel, functools.partial(self._pruned, attribute))

    def _masked(self, attribute: str) -> Any:
        """kernel ⊙ mask."""
        kernel = ops.convert_to_tensor(at(self.layer, attribute))
        return kernel * ops.cast(self.masks[attribute], kernel.dtype)

    def _pruned(self, attribute: str, weight: Any) -> Any:
        """``weight`` with 0 where it is pruned, whatever its value there."""
        return ops.where(ops.cast(self.masks[attribute], "bool"), weight, ops.zeros_like(weight))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        masked: dict[str, Any] = {}
        for attribute, places in self.places.items():
            with autocast_of(holder_of(self.layer, attribute)):
                masked |= dict.fromkeys(places, self._masked(attribute))
        with in_places_of(self.layer, masked):
            return self.layer(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "attributes": None if self.attributes is None else list(self.attributes),
            "dense_norms": {name: list(pair) for name, pair in self.dense_norms.items()},
        }
