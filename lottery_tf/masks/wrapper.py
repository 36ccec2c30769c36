"""The pruning wrapper: a layer that computes with kernel ⊙ mask.

tensorflow-model-optimization's wrapper assigns ``w ← w ⊙ m`` before each forward pass, so that
between two steps weights, gradients and optimizer slots are dense. Here the mask is part of the
forward pass: by the chain rule ∂L/∂w = ∂L/∂(w ⊙ m) ⊙ m, so a pruned weight has gradient 0 in
``fit`` and in a hand-written loop alike. It starts at 0 and stays exactly 0, its momentum too,
and it adds nothing to a gradient norm; no callback is needed.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import (
    PruneLowMagnitude,
    in_place_of,
    keras,
    regularize_instead,
    take_input_shape,
    takes,
    unconverted,
)
from lottery_tf.graph.copies import Connect, copy_layer, rebuild
from lottery_tf.graph.layers import (
    check_finished,
    check_graph,
    named_layers,
    named_variables,
    unwrapped,
    values,
)
from lottery_tf.graph.optimizers import renewal
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import left_dense, prunable_attributes, prunable_weights
from lottery_tf.masks.settings import KINDS, PrunableSettings


@keras.saving.register_keras_serializable("lottery_tf")
class PruneByMask(PruneLowMagnitude):
    """Computes ``layer`` with each prunable weight multiplied by a mask that can be set.

    A subclass of tfmot's ``PruneLowMagnitude`` and recognised by its tools (``strip_pruning``;
    ``UpdatePruningStep`` finds nothing to do). The masks are non-trainable float32 variables, all
    ones at first; ``set_masks`` of this module changes them.

    Args:
      layer: a layer with at least one prunable weight.
      attributes: names of the layer's attributes to mask; default: all prunable ones.
      dense_norms: attribute → ‖w‖₂ before it was pruned and ‖w ⊙ m‖₂ as it was then, of those of
        which that is known.
      **kwargs: as any Keras layer.
    """

    # tfmot's callbacks read these; the masks here follow no schedule of steps.
    pruning_step = 0
    keeps_outputs = True  # of the layer inside, as to shapes and dtypes

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
        # Of a type that Keras does not track, as it does a dictionary.
        self.dense_norms: Mapping[str, Sequence[float]] = MappingProxyType(dict(dense_norms or {}))
        self.masks: dict[str, tf.Variable] = {}
        self.pruning_vars: list[Any] = []
        self.supports_masking = layer.supports_masking
        take_input_shape(self, layer)

    def build(self, input_shape: Any) -> None:
        keras.layers.Wrapper.build(self, input_shape)
        self.attributes = list(self.attributes or prunable_attributes(self.layer))
        for attribute in self.attributes:
            self.masks[attribute] = self.add_weight(
                f"mask_{attribute}",
                shape=getattr(self.layer, attribute).shape,
                initializer="ones",
                dtype=tf.float32,
                experimental_autocast=False,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            # Or an orthogonal one would move zeros.
            masked = functools.partial(self._masked, attribute)
            regularize_instead(self.layer, getattr(self.layer, attribute), masked)

    def _masked(self, attribute: str) -> tf.Tensor:
        """kernel ⊙ mask."""
        kernel = getattr(self.layer, attribute)
        return kernel * tf.cast(self.masks[attribute], kernel.dtype)

    @unconverted
    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras hands both to any call that takes **kwargs; the layer's own may not.
        for name, wanted in takes(self.layer).items():
            if not wanted:
                kwargs.pop(name, None)
        masked = {attribute: self._masked(attribute) for attribute in self.attributes or ()}
        with in_place_of(self.layer, masked):
            return self.layer(inputs, *args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    @property
    def pruning_obj(self) -> "PruneByMask":
        """tfmot's callbacks ask this object to mask the weights."""
        return self

    def weight_mask_op(self) -> tf.Operation:
        """Nothing to do: the weights are masked."""
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


def wrap(model: keras.Model, masks: Masks | None = None) -> keras.Model:
    """A copy of ``model`` whose weights in ``masks`` are pruned and stay pruned in training.

    The copy has the same layers, names and weights, those pruned set to exactly 0; it is not
    compiled.

    Args:
      model: a built Sequential or functional tf_keras model; it is left as it is. If it is
        wrapped already its masks are replaced.
      masks: name of a weight → mask. Default: all of ``prunable_weights(model)``, all kept, and
        one line is logged of what stays dense.

    Raises:
      UsageError: if the model has no graph of layers, or the masks are not of this model.
    """
    check_graph(model)
    if masks is None:
        masks = Masks.ones(prunable_weights(model))
        log_left_dense(model, masks)
    plain = without_wrappers(model) if _wrappers(model) else model
    check_masks(plain, masks)
    attributes = _attributes_of(plain, masks)
    paths = {id(layer): path for path, layer in named_layers(plain).items()}

    def change(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy, wanted = copy_layer(layer), attributes.get(paths[id(layer)])
        return PruneByMask(copy, wanted) if wanted else copy

    wrapped = rebuild(plain, change)
    set_masks(wrapped, masks)
    remember(wrapped, dense_norms_of(model, values(plain), masks))
    return wrapped


def remake(
    model: keras.Model,
    change: Callable[[keras.layers.Layer], keras.layers.Layer],
    connect: Connect = lambda part, copy_of: None,
) -> keras.Model:
    """``rebuild`` of a model that may be wrapped: its masks stay on.

    ``change`` is given the layers inside the wrappers and returns plain layers. A model that is
    wrapped by tfmot itself has to go through ``masked_by_us`` first.
    """
    pairs: list[tuple[PruneByMask, PruneByMask]] = []

    def inside(layer: keras.layers.Layer) -> keras.layers.Layer:
        new = change(unwrapped(layer))
        if not isinstance(layer, PruneByMask):
            return new
        pairs.append((layer, PruneByMask(new, layer.attributes, layer.dense_norms)))
        return pairs[-1][1]

    copy = rebuild(model, inside, connect)
    for old, new in pairs:
        for attribute, mask in old.masks.items():
            new.masks[attribute].assign(mask)
    return copy


def with_configs(
    model: keras.Model, changes: Callable[[keras.layers.Layer], Mapping[str, Any]]
) -> keras.Model:
    """``model``, or a copy of it with what ``changes`` gives of its layers' parameters, if any."""
    if not any(changes(unwrapped(layer)) for layer in named_layers(model).values()):
        return model
    return remake(model, lambda layer: copy_layer(layer, **changes(layer)))


def masked_by_us(model: keras.Model) -> keras.Model:
    """``model``; if it has wrappers of tfmot's own, a copy with ours in their place."""
    theirs = any(type(layer) is PruneLowMagnitude for layer in _wrappers(model).values())
    return wrap(model, get_masks(model)) if theirs else model


def all_kept(model: keras.Model, prunable: PrunableSettings) -> Masks:
    """The masks of round 0; one line is logged of what stays dense.

    Raises:
      UsageError: if the model has no prunable weight.
    """
    masks = Masks.ones(prunable_weights(model, prunable))
    if not masks:
        raise UsageError(
            f"Expected weights to prune in '{model.name}'; it has none in layers of the kinds "
            f"{', '.join(prunable.prune_layers)} once {', '.join(prunable.keep_dense) or 'none'} "
            "are kept dense: choose others with `prune_layers` and `keep_dense`."
        )
    log_left_dense(model, masks)
    return masks


def log_left_dense(model: keras.Model, masks: Masks) -> None:
    """Logs one line of the weights of rank 2 and more that ``masks`` leaves out."""
    log.info("%s: left dense: %s", model.name, some(left_dense(model, set(masks))))


def strip(model: keras.Model) -> keras.Model:
    """A copy of ``model`` with plain layers only, its pruned weights exactly 0; not compiled.

    tfmot's own wrappers are taken off too, their masks applied.

    Raises:
      UsageError: if the model has no graph of layers, or a recipe's tweaks are still in it.
    """
    check_graph(model)
    check_finished(model)
    return without_wrappers(model)


def without_wrappers(model: keras.Model) -> keras.Model:
    """``strip``, but for a model that is trained with tweaks, which stay on."""
    stripped = rebuild(model, lambda layer: copy_layer(unwrapped(layer)))
    variables = named_variables(stripped)
    for name, (_, mask) in _masked_variables(model).items():
        variables[name].assign(variables[name] * tf.cast(mask, variables[name].dtype))
    return stripped


def get_masks(model: keras.Model) -> Masks:
    """The masks of a wrapped model; no masks of one that is not wrapped."""
    return Masks({name: mask.numpy() for name, (_, mask) in _masked_variables(model).items()})


def norms_before(weights: Mapping[str, np.ndarray], masks: Masks) -> dict[str, float]:
    """‖w‖₂ of the weights that ``masks`` are about to prune; what is pruned already says nothing
    of what it was, and is left out."""
    found = {}
    for name, mask in masks.items():
        weight = np.asarray(weights[name])
        if mask.all() or np.any(weight[~mask]):
            found[name] = _norm(weight)
    return found


def dense_norms_of(
    model: keras.Model, weights: Mapping[str, np.ndarray], masks: Masks
) -> dict[str, float]:
    """``norms_before``, but of what the masks of ``model`` have pruned in part what it remembers,
    if it does: of a weight that is pruned further the norm was that before the first mask."""
    pruned = {name for name, mask in get_masks(model).items() if not mask.all()}
    fresh, known = norms_before(weights, masks), get_dense_norms(model)
    return {n: norm for n, norm in fresh.items() if n not in pruned} | {
        n: norm for n, norm in known.items() if n in masks and (n in pruned or n not in fresh)
    }


def remember(model: keras.Model, dense_norms: Mapping[str, float]) -> None:
    """Has a wrapped model remember what its weights, as they are now, were before they were pruned.

    Args:
      model: its masked weights have just been pruned.
      dense_norms: name of a weight → its ‖·‖₂ before.
    """
    names = {variable.ref(): name for name, variable in named_variables(model).items()}
    for layer in _wrappers(model).values():
        if isinstance(layer, PruneByMask):
            pairs = {}
            for attribute in layer.attributes or ():
                weight = getattr(layer.layer, attribute)
                if (name := names[weight.ref()]) in dense_norms:
                    pairs[attribute] = (dense_norms[name], _norm(weight.numpy()))
            layer.dense_norms = MappingProxyType(pairs)


def get_dense_norms(model: keras.Model) -> dict[str, float]:
    """Name of a masked weight → ‖w‖₂ before it was pruned, of those of which a wrapped model
    knows it, and which have not been trained since then."""
    names = {variable.ref(): name for name, variable in named_variables(model).items()}
    found = {}
    for layer in _wrappers(model).values():
        if isinstance(layer, PruneByMask):
            for attribute, (dense, left) in layer.dense_norms.items():
                weight = getattr(layer.layer, attribute)
                if math.isclose(_norm(weight.numpy()), left, rel_tol=1e-5):
                    found[names[weight.ref()]] = dense
    return found


def _norm(weight: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(weight, np.float64)))


def set_masks(
    model: keras.Model,
    masks: Masks,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> None:
    """Sets the masks of a wrapped model and makes the pruned weights exactly 0.

    Variables are assigned, nothing is traced anew. So that momentum cannot move a weight that has
    just been pruned, what the optimizer remembers of it is as in a new optimizer; so is what it
    remembers of a weight that these masks bring back.

    Args:
      model: what ``wrap`` returned.
      masks: a mask for each masked weight of the model.
      optimizer: default: the one that the model is compiled with, if any.

    Raises:
      UsageError: if names or shapes are not the model's, or the optimizer cannot be made anew from
        its config; nothing is changed then.
    """
    variables = _variables_for(model, masks)
    optimizer = optimizer or getattr(model, "optimizer", None)
    renew = renewal(optimizer, model, [weight for weight, _ in variables.values()])
    new = [~masks[name] | (mask.numpy() == 0) for name, (_, mask) in variables.items()]
    _assign(variables, masks)
    renew(new)


def assign_masks(model: keras.Model, masks: Masks) -> None:
    """``set_masks`` where the optimizer is to begin anew as a whole; it is left as it is."""
    _assign(_variables_for(model, masks), masks)


def _variables_for(model: keras.Model, masks: Masks) -> dict[str, tuple[tf.Variable, tf.Variable]]:
    """``_masked_variables``; a UsageError unless they have the names and shapes of ``masks``."""
    variables = _masked_variables(model)
    _check_shapes({name: tuple(w.shape) for name, (w, _) in variables.items()}, masks, model.name)
    return variables


def _assign(variables: Mapping[str, tuple[tf.Variable, tf.Variable]], masks: Masks) -> None:
    for name, (weight, mask) in variables.items():
        mask.assign(masks[name].astype(np.float32))
        weight.assign(tf.where(masks[name], weight, tf.zeros_like(weight)))


def _wrappers(model: keras.Model) -> dict[str, PruneLowMagnitude]:
    layers = named_layers(model).items()
    return {path: layer for path, layer in layers if isinstance(layer, PruneLowMagnitude)}


def _masked_variables(model: keras.Model) -> dict[str, tuple[tf.Variable, tf.Variable]]:
    """Name of each masked weight → (weight, mask); tfmot's own wrappers count."""
    names = {variable.ref(): name for name, variable in named_variables(model).items()}
    found: dict[str, tuple[tf.Variable, tf.Variable]] = {}
    for layer in _wrappers(model).values():
        if isinstance(layer, PruneByMask):
            pairs = [(getattr(layer.layer, a), layer.masks[a]) for a in layer.attributes or ()]
        else:
            pairs = [(weight, mask) for weight, mask, _ in layer.pruning_vars]
        found |= {names[weight.ref()]: (weight, mask) for weight, mask in pairs}
    return found


def check_masks(model: keras.Model, masks: Masks) -> None:
    """Raises UsageError unless each mask is of the shape of a prunable weight of ``model``."""
    every = PrunableSettings(prune_layers=KINDS, keep_dense=())
    shapes = prunable_weights(model, every)
    _check_shapes({n: s for n, s in shapes.items() if n in masks}, masks, model.name)


def _attributes_of(model: keras.Model, masks: Masks) -> dict[str, list[str]]:
    """Path of a layer → its attributes that ``masks`` names."""
    names = {variable.ref(): name for name, variable in named_variables(model).items()}
    return {
        path: [a for a in prunable_attributes(layer) if names[getattr(layer, a).ref()] in masks]
        for path, layer in named_layers(model).items()
    }


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], masks: Masks, model: str) -> None:
    if shapes.keys() != masks.keys():
        odd = sorted(shapes.keys() ^ masks.keys())
        raise UsageError(
            f"Expected masks for the prunable weights of the model '{model}'; not in both: "
            f"{', '.join(odd[:4])}{' …' if odd[4:] else ''}. The masks are of another model."
        )
    for name, shape in shapes.items():
        if masks[name].shape != shape:
            raise UsageError(
                f"Expected a mask of shape {shape} for {name} of the model '{model}', got "
                f"{masks[name].shape}. The masks are of another model."
            )
