"""Wrapping a model so that masks prune its weights, setting the masks, and stripping it again."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.graph.compat import (
    PruneLowMagnitude,
    keras,
)
from lottery_tf.graph.copies import Connect, copy_layer, rebuild
from lottery_tf.graph.layers import (
    check_finished,
    check_graph,
    named_layers,
    named_variables,
    unwrapped,
    values,
    variable_names,
)
from lottery_tf.graph.optimizers import renewal
from lottery_tf.graph.parts import at
from lottery_tf.masks.dense_norms import dense_norms_of, remember
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import left_dense, prunable_attributes, prunable_weights
from lottery_tf.masks.prune_by_mask import (
    OURS,
    PruneByMask,
    get_masks,
    masked_variables,
    pruned,
    wrappers,
)
from lottery_tf.masks.settings import KINDS, PrunableSettings


def wrap(model: keras.Model, masks: Masks | None = None) -> keras.Model:
    """A copy of ``model`` with weights that ``masks`` prune and that stay pruned in training.

    The copy has the same layers, names and weights; pruned weights are exactly 0. It is not
    compiled.

    Args:
      model: a built Sequential or functional model of tf_keras or Keras 3; it is left as it is. If
        it is wrapped already, the copy has the new masks.
      masks: name of a weight → mask. Default: masks of all ``prunable_weights(model)`` that prune
        nothing, and a line is logged of weights that stay dense.

    Raises:
      UsageError: if the model has no graph of layers, or the masks are not of this model.
    """
    check_graph(model)
    if masks is None:
        masks = Masks.ones(prunable_weights(model))
        log_left_dense(model, masks)
    plain = without_wrappers(model) if wrappers(model) else model
    check_masks(plain, masks)
    attributes = _attributes_of(plain, masks)
    paths = {id(layer): path for path, layer in named_layers(plain).items()}

    def change(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy, wanted = copy_layer(layer), attributes.get(paths[id(layer)])
        return pruned(copy, wanted) if wanted else copy

    wrapped = rebuild(plain, change)
    set_masks(wrapped, masks)
    remember(wrapped, dense_norms_of(model, values(plain), masks))
    return wrapped


def remake(
    model: keras.Model,
    change: Callable[[keras.layers.Layer], keras.layers.Layer],
    connect: Connect = lambda part, copy_of: None,
) -> keras.Model:
    """``rebuild`` of a model that may be wrapped; its masks stay on.

    ``change`` gets the layers inside the wrappers and returns plain layers. A model with tfmot's
    own wrappers has to go through ``masked_by_us`` first.

    Raises:
      UsageError: if the model has no graph of layers.
    """
    check_graph(model)
    pairs: list[tuple[PruneByMask, PruneByMask]] = []

    def inside(layer: keras.layers.Layer) -> keras.layers.Layer:
        new = change(unwrapped(layer))
        if not isinstance(layer, OURS):
            return new
        pairs.append((layer, pruned(new, layer.attributes, layer.dense_norms)))
        return pairs[-1][1]

    copy = rebuild(model, inside, connect)
    for old, new in pairs:
        for attribute, mask in old.masks.items():
            new.masks[attribute].assign(mask)
    return copy


def with_configs(
    model: keras.Model, changes: Callable[[keras.layers.Layer], Mapping[str, Any]]
) -> keras.Model:
    """``model``, or a copy of it if ``changes`` gives new parameters for some of its layers."""
    if not any(changes(unwrapped(layer)) for layer in named_layers(model).values()):
        return model
    return remake(model, lambda layer: copy_layer(layer, **changes(layer)))


def masked_by_us(model: keras.Model) -> keras.Model:
    """``model``; if it has tfmot's own wrappers, a copy with ours instead."""
    theirs = any(type(layer) is PruneLowMagnitude for layer in wrappers(model).values())
    return wrap(model, get_masks(model)) if theirs else model


def all_kept(model: keras.Model, prunable: PrunableSettings) -> Masks:
    """The masks of round 0; a line is logged of weights that stay dense.

    Raises:
      UsageError: if the model has no prunable weight.
    """
    masks = Masks.ones(prunable_weights(model, prunable))
    if not masks:
        raise UsageError(
            f"Expected weights to prune in '{model.name}'; it has none in layers of the kinds "
            f"{', '.join(prunable.prune_layers)}, with {', '.join(prunable.keep_dense) or 'none'} "
            "kept dense: choose others with `prune_layers` and `keep_dense`."
        )
    log_left_dense(model, masks)
    return masks


def log_left_dense(model: keras.Model, masks: Masks) -> None:
    """Logs a line that names the weights of rank 2 and more that have no mask, if there are any."""
    if left := left_dense(model, set(masks)):
        log.info("%s: left dense: %s", model.name, some(left))


def strip(model: keras.Model) -> keras.Model:
    """A copy of ``model`` with plain layers only and pruned weights exactly 0; not compiled.

    tfmot's own wrappers are also taken off, after their masks are applied.

    Raises:
      UsageError: if the model has no graph of layers, or a recipe's tweaks are still in it.
    """
    check_graph(model)
    check_finished(model)
    return without_wrappers(model)


def without_wrappers(model: keras.Model) -> keras.Model:
    """``strip`` for a model with tweaks; the tweaks stay on."""
    stripped = rebuild(model, lambda layer: copy_layer(unwrapped(layer)))
    variables = named_variables(stripped)
    for name, (_, mask) in masked_variables(model).items():
        value = variables[name].numpy()
        variables[name].assign(value * mask.numpy().astype(value.dtype))
    return stripped


def set_masks(
    model: keras.Model,
    masks: Masks,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> None:
    """Sets the masks of a wrapped model and makes the pruned weights exactly 0.

    Variables are assigned; nothing is traced anew. Momentum must not move a weight that has just
    been pruned. So for this weight the optimizer's memory becomes that of a new optimizer, and
    also for a weight that these masks bring back.

    Args:
      model: a model that ``wrap`` has returned.
      masks: a mask for each masked weight of the model.
      optimizer: default: the one that the model is compiled with, if any.

    Raises:
      UsageError: if names or shapes are not the model's, or if the optimizer cannot be made anew
        from its config. Then nothing is changed.
    """
    variables = _variables_for(model, masks)
    optimizer = optimizer or getattr(model, "optimizer", None)
    renew = renewal(optimizer, model, [weight for weight, _ in variables.values()])
    new = [~masks[name] | (mask.numpy() == 0) for name, (_, mask) in variables.items()]
    _assign(variables, masks)
    renew(new)


def assign_masks(model: keras.Model, masks: Masks) -> None:
    """``set_masks`` without a change to the optimizer, for use before it begins anew."""
    _assign(_variables_for(model, masks), masks)


def _variables_for(model: keras.Model, masks: Masks) -> dict[str, tuple[tf.Variable, tf.Variable]]:
    """``masked_variables``; UsageError unless they have the names and shapes of ``masks``."""
    variables = masked_variables(model)
    _check_are_masks(masks)
    _check_shapes({name: tuple(w.shape) for name, (w, _) in variables.items()}, masks, model.name)
    return variables


def _assign(variables: Mapping[str, tuple[tf.Variable, tf.Variable]], masks: Masks) -> None:
    for name, (weight, mask) in variables.items():
        mask.assign(masks[name].astype(np.float32))
        value = weight.numpy()
        weight.assign(np.where(masks[name], value, np.zeros_like(value)))


def check_masks(model: keras.Model, masks: Masks) -> None:
    """Raises UsageError unless each mask is of the shape of a prunable weight of ``model``."""
    every = PrunableSettings(prune_layers=KINDS, keep_dense=())
    shapes = prunable_weights(model, every)
    _check_are_masks(masks)
    _check_shapes({n: s for n, s in shapes.items() if n in masks}, masks, model.name)


def _attributes_of(model: keras.Model, masks: Masks) -> dict[str, list[str]]:
    """Path of a layer → its attributes that ``masks`` names."""
    names = variable_names(model)
    return {
        path: [a for a in prunable_attributes(layer) if names[id(at(layer, a))] in masks]
        for path, layer in named_layers(model).items()
    }


def _check_are_masks(masks: Any) -> None:
    if not isinstance(masks, Mapping):
        kind = type(masks).__name__
        raise UsageError(f"Expected Masks, such as those of ticket.masks, got a {kind}.")


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
