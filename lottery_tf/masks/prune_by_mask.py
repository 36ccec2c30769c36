"""The pruning wrapper: a layer that computes with kernel ⊙ mask.

tensorflow-model-optimization's wrapper assigns ``w ← w ⊙ m`` before each forward pass, so that
between two steps weights, gradients and optimizer slots are dense. Here the mask is part of the
forward pass. By the chain rule ∂L/∂w = ∂L/∂(w ⊙ m) ⊙ m, so a pruned weight has gradient 0, in
``fit`` and in a hand-written loop. It starts at 0 and stays exactly 0, and so does its momentum.
It adds nothing to a gradient norm, and no callback is needed.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import (
    PruneLowMagnitude,
    autocast_of,
    build_projections,
    by_name,
    is_keras3,
    is_pruning_wrapper,
    keras,
    regularize_instead,
    take_call_of,
    take_input_shape,
    unconverted,
)
from lottery_tf.graph.layers import named_layers, variable_names
from lottery_tf.graph.parts import at, holder_of, in_places_of, variables_at
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import prunable_attributes
from lottery_tf.masks.prune_by_mask3 import PruneByMask as PruneByMask3


@keras.saving.register_keras_serializable("lottery_tf")
class PruneByMask(PruneLowMagnitude):
    """Computes ``layer`` with each prunable weight multiplied by a mask that can be set.

    It is a subclass of tfmot's ``PruneLowMagnitude``, so that tfmot's tools recognise it
    (``strip_pruning``; ``UpdatePruningStep`` finds nothing to do). The masks are non-trainable
    float32 variables, all ones at first; ``wrapper.set_masks`` changes them.

    Args:
      layer: a layer with at least one prunable weight, in itself or in a layer within it.
      attributes: paths of the variables to mask, as in ``graph/parts``: ``kernel``,
        ``cell/kernel``; default: all prunable ones.
      dense_norms: path → (‖w‖₂ before pruning, ‖w ⊙ m‖₂ just after it), where they are known.
      **kwargs: as for any Keras layer.
    """

    # tfmot's callbacks read these. The masks here do not follow a schedule of steps.
    pruning_step = 0
    keeps_outputs = True  # outputs have the shapes and dtypes of the layer inside

    def __init__(
        self,
        layer: keras.layers.Layer,
        attributes: Sequence[str] | None = None,
        dense_norms: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ):
        # The layer's own name, so that outputs, losses by name and get_layer stay as they were.
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        # tfmot's own constructor refuses layers that it does not know.
        super(PruneLowMagnitude, self).__init__(layer, **kwargs)
        self.attributes = attributes
        # Keras would track a dictionary; it does not track this type.
        self.dense_norms: Mapping[str, Sequence[float]] = MappingProxyType(dict(dense_norms or {}))
        self.masks: dict[str, tf.Variable] = {}
        # Path of a masked variable → all paths at which the layer holds it.
        self.places: Mapping[str, Sequence[str]] = MappingProxyType({})
        self.pruning_vars: list[Any] = []
        self.supports_masking = layer.supports_masking
        take_input_shape(self, layer)
        take_call_of(self, layer)

    def build(self, input_shape: Any) -> None:
        keras.layers.Wrapper.build(self, input_shape)
        build_projections(self.layer)
        held = variables_at(self.layer)
        if self.attributes is None:
            self.attributes = prunable_attributes(self.layer) or None
        if self.attributes is not None and held.keys() >= set(self.attributes):
            self._make_masks()

    def _make_masks(self) -> None:
        held = variables_at(self.layer)
        self.attributes = list(self.attributes or prunable_attributes(self.layer))
        self.places = MappingProxyType(
            {a: [p for p in held if held[p] is held[a]] for a in self.attributes}
        )
        for attribute in self.attributes:
            self.masks[attribute] = self.add_weight(
                f"mask_{attribute}".replace("/", "_"),
                shape=held[attribute].shape,
                initializer="ones",
                dtype=tf.float32,
                experimental_autocast=False,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            # Else an orthogonal regularizer would move zeros.
            masked = functools.partial(self._masked, attribute)
            regularize_instead(holder_of(self.layer, attribute), held[attribute], masked)

    def _masked(self, attribute: str) -> tf.Tensor:
        """kernel ⊙ mask."""
        kernel = at(self.layer, attribute)
        return kernel * tf.cast(self.masks[attribute], kernel.dtype)

    @unconverted
    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        names = by_name(self.layer, args)
        args, kwargs = args[len(names) :], {**names, **kwargs}
        if not self.masks:  # the layer makes its variables in its first call
            self.layer(inputs, *args, **kwargs)
            with tf.init_scope():
                self._make_masks()
        masked: dict[str, Any] = {}
        for attribute, places in self.places.items():
            with autocast_of(holder_of(self.layer, attribute)):
                masked |= dict.fromkeys(places, self._masked(attribute))
        with in_places_of(self.layer, masked):
            return self.layer(inputs, *args, **kwargs)

    @property
    def stateful(self) -> bool:
        """Whether the layer keeps states from batch to batch, as a recurrent one may."""
        return self.layer.stateful

    @stateful.setter
    def stateful(self, value: bool) -> None:
        """Keras sets it on any layer; it is passed on to the inner layer."""

    def reset_states(self, *args: Any, **kwargs: Any) -> None:
        """Resets the recurrent layer inside; models call it if a layer is stateful."""
        if hasattr(self.layer, "reset_states"):
            self.layer.reset_states(*args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    @property
    def pruning_obj(self) -> "PruneByMask":
        """The object that tfmot's callbacks ask to mask the weights."""
        return self

    def weight_mask_op(self) -> tf.Operation:
        """Does nothing, as the weights are masked already."""
        return tf.no_op()

    def get_config(self) -> dict[str, Any]:
        return {
            **keras.layers.Wrapper.get_config(self),
            "attributes": None if self.attributes is None else list(self.attributes),
            "dense_norms": {name: list(pair) for name, pair in self.dense_norms.items()},
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None
    ) -> "PruneByMask":
        config = dict(config)
        layer = keras.layers.deserialize(config.pop("layer"), custom_objects=custom_objects)
        return cls(layer, **config)


# Our wrapper classes, of both Kerases.
OURS = (PruneByMask, PruneByMask3)


def pruned(
    layer: keras.layers.Layer,
    attributes: Sequence[str] | None = None,
    dense_norms: Mapping[str, Sequence[float]] | None = None,
) -> PruneByMask:
    """A layer in the ``PruneByMask`` of its Keras; the arguments are as there."""
    kind = PruneByMask3 if is_keras3(layer) else PruneByMask
    return kind(layer, attributes, dense_norms)


def get_masks(model: keras.Model) -> Masks:
    """The masks of a wrapped model; empty for a model that is not wrapped."""
    return Masks({name: mask.numpy() for name, (_, mask) in masked_variables(model).items()})


def wrappers(model: keras.Model) -> dict[str, PruneLowMagnitude]:
    """Path of each wrapped layer → its wrapper, ours or tfmot's."""
    layers = named_layers(model).items()
    return {path: layer for path, layer in layers if is_pruning_wrapper(layer)}


def masked_variables(model: keras.Model) -> dict[str, tuple[tf.Variable, tf.Variable]]:
    """Name of each masked weight → (weight, mask), in wrappers of ours or tfmot's."""
    names = variable_names(model)
    found: dict[str, tuple[tf.Variable, tf.Variable]] = {}
    for layer in wrappers(model).values():
        if isinstance(layer, OURS):
            pairs = [(at(layer.layer, a), layer.masks[a]) for a in layer.attributes or ()]
        else:
            pairs = [(weight, mask) for weight, mask, _ in layer.pruning_vars]
        found |= {names[id(weight)]: (weight, mask) for weight, mask in pairs}
    return found
