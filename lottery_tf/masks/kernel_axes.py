"""Which axes of a kernel are its layer's inputs and outputs."""

from typing import Any

from lottery_tf.common.log import log
from lottery_tf.graph.compat import held_variables, keras
from lottery_tf.graph.layers import named_layers, unwrapped, variable_names
from lottery_tf.graph.parts import at, holder_of
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prunable import (
    DEPTHWISE,
    EINSUM,
    LOCAL,
    TRANSPOSED,
    prunable_attributes,
)
from lottery_tf.masks.structure import Axes, Structure, parse


def structured(model: keras.Model, masks: Masks, text: str) -> Structure:
    """The structure named ``text`` for the weights in ``masks``.

    A line is logged if the last groups or blocks of kernels are smaller than the others.

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3, wrapped or not.
      masks: names of its prunable weights.
      text: as ``masks.structure.parse`` takes it.

    Raises:
      UsageError: for another text, or kernels that the structure does not fit.
    """
    shapes = {name: mask.shape for name, mask in masks.items()}
    structure = parse(text).on(kernel_axes(model, masks), shapes)
    for remark in structure.remarks(shapes):
        log.info("%s", remark)
    return structure


def kernel_axes(model: keras.Model, masks: Masks) -> dict[str, Axes | None]:
    """Name → axes of each weight in ``masks``; None for a weight of rank below 2."""
    names = variable_names(model)
    found: dict[str, Axes | None] = {}
    for layer in map(unwrapped, named_layers(model).values()):
        for attribute in prunable_attributes(layer):
            name = names[id(at(layer, attribute))]
            if name in masks and name not in found:
                part, own = holder_of(layer, attribute), attribute.rpartition("/")[2]
                found[name] = axes_of(part, own, masks[name].ndim)
    return found


def axes_of(layer: Any, attribute: str, rank: int) -> Axes | None:
    """The axes of the kernel in that attribute of ``layer``; None below rank 2.

    A user's own layer is taken to have those of Dense and of convolutions: […, inputs, outputs].
    """
    if rank < 2:
        return None
    last = rank - 1
    # [..., inputs, multiplier]: each pair is an output.
    if attribute == "depthwise_kernel" or isinstance(layer, DEPTHWISE):
        return Axes(None, (last - 1, last))
    if isinstance(layer, TRANSPOSED):  # [..., outputs, inputs]
        return Axes(last, (last - 1,))
    if isinstance(layer, LOCAL):  # [places, inputs, outputs], or [..., inputs, ..., outputs]
        return Axes(1, (0, 2)) if rank == 3 else Axes(rank // 2 - 1, (*range(rank // 2, rank),))
    if isinstance(layer, EINSUM):
        operands, _, output = layer.equation.partition("->")
        kernel = operands.partition(",")[2]
        summed = [axis for axis, label in enumerate(kernel) if label not in output]
        made = tuple(axis for axis in range(rank) if axis not in summed)
        return Axes(summed[-1] if summed else None, made)
    alone = "recurrent_kernel" not in held_variables(layer)
    return Axes(last - 1, (last,), alone)
