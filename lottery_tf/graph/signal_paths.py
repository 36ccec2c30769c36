"""The paths of a signal through a model: where it is normalised, and which calls it can bypass."""

from collections.abc import Callable, Iterable

from lottery_tf.graph.compat import is_layer, keras, layer_classes
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import Call, calls, unwrapped, variable_names

_NORMALISATIONS = layer_classes(
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization"),
    "RMSNormalization",
)
# Layers for which f(a·x) = a·f(x) for any factor a > 0.
_PASS_FACTORS = layer_classes(
    *("ReLU", "LeakyReLU", "PReLU", "Dropout", "Flatten", "Reshape", "Permute"),
    *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D"),
    *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
    *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D"),
    *("GlobalMaxPooling1D", "GlobalMaxPooling2D"),
)
_RECTIFIERS = (
    *(None, keras.activations.linear, keras.activations.relu),
    *(keras3.activations.linear, keras3.activations.relu, keras3.ops.relu),
)


def is_normalised(call: Call, outputs: Iterable[Call]) -> bool:
    """Whether on every path a normalisation removes any factor of the layer's output.

    Layers in between have to pass a factor on, as ReLU and pooling do.

    Args:
      call: one of ``calls(model)[0]``.
      outputs: ``calls(model)[1]``.
    """
    fused = getattr(unwrapped(call.layer), "activation", None)
    return _passes_factors(fused) and _ends_in_one(call, set(map(id, outputs)))


def _ends_in_one(call: Call, outputs: set[int]) -> bool:
    if id(call) in outputs or not call.after:
        return False
    return all(
        isinstance(unwrapped(after.layer), _NORMALISATIONS)
        or (_passes(unwrapped(after.layer)) and _ends_in_one(after, outputs))
        for after in call.after
    )


def _passes(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, layer_classes("ReLU")):
        return layer.max_value is None and not layer.threshold
    if isinstance(layer, layer_classes("Activation")):
        return _passes_factors(layer.activation)
    return isinstance(layer, _PASS_FACTORS)


def _passes_factors(activation: object) -> bool:
    return any(activation is each for each in _RECTIFIERS)


def on_every_way(model: keras.Model) -> set[int]:
    """ids of the nodes of calls that lie on every path from the inputs to the outputs.

    Any other call has a parallel path around it, such as the shortcut of a block.
    """
    found, outputs = calls(model)
    place = {id(call): number for number, call in enumerate(found)}
    ends = {id(call) for call in outputs}
    # In the order of computation, a path around a call is an edge from a call before it to one
    # behind it. The inputs come before all calls; the outputs' readers come after all.
    furthest = max(
        (place[id(c)] for c in found if any(id(b) not in place for b in c.before)), default=0
    )
    necessary = set()
    for number, call in enumerate(found):
        if furthest <= number:
            necessary.add(id(call.node))
        behind = [len(found)] if id(call) in ends else []
        furthest = max([furthest, *behind, *(place[id(after)] for after in call.after)])
    return necessary


def unnormalised(model: keras.Model, hidden: bool = False) -> set[str]:
    """Names of the variables of layers whose scale reaches the outputs.

    At least one call of such a layer has no normalisation behind it.

    Args:
      model: a Sequential or functional model, wrapped or not.
      hidden: leave out the layers that make the outputs.
    """
    found, outputs = calls(model)
    names = variable_names(model)
    return {
        names[id(variable)]
        for call in found
        if not (is_normalised(call, outputs) or (hidden and call in outputs))
        if is_layer(call.layer)  # a function has no variables
        for variable in call.layer.variables
        if id(variable) in names
    }


def first_of(model: keras.Model, chosen: Callable[[keras.layers.Layer], bool]) -> set[int]:
    """ids of the chosen layers with no other chosen layer between the inputs and them."""
    behind: set[int] = set()
    first = set()
    for call in calls(model)[0]:
        layer = unwrapped(call.layer)
        late = any(id(each) in behind for each in call.before)
        if chosen(layer) and not late:
            first.add(id(layer))
        if late or chosen(layer):
            behind.add(id(call))
    return first
