"""Which weights of a model may be pruned."""

from collections.abc import Iterator
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import nearest
from lottery_tf.graph.compat import (
    function_of,
    held_variables,
    is_pruning_wrapper,
    keras,
    layer_classes,
)
from lottery_tf.graph.layers import (
    Call,
    calls,
    check_graph,
    named_layers,
    named_variables,
    own_variables,
    trainable_names,
    unwrapped,
    variable_names,
)
from lottery_tf.graph.parts import at, layers_held, parts_at, variables_at
from lottery_tf.masks.settings import KINDS, PrunableSettings

DEPTHWISE = layer_classes("DepthwiseConv1D", "DepthwiseConv2D")
TRANSPOSED = layer_classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_CONVOLUTIONS = (
    *layer_classes("Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D"),
    *TRANSPOSED,
)
_ANY_CONVOLUTION: tuple[Any, ...] = (*_CONVOLUTIONS, *DEPTHWISE)
_POOLINGS = (
    *layer_classes("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    *layer_classes("MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
)
# Layers that use each weight at one place.
LOCAL = layer_classes("LocallyConnected1D", "LocallyConnected2D")
EINSUM = layer_classes("EinsumDense")
ATTENTION = layer_classes("MultiHeadAttention", "GroupQueryAttention")
CONVOLUTIONAL_RECURRENT = layer_classes("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_CELLS = layer_classes("LSTMCell", "GRUCell", "SimpleRNNCell")
_RECURRENT = ("kernel", "recurrent_kernel")
# Kind, layer classes, and the attributes that hold their prunable weights. A depthwise kernel is
# called ``kernel`` in Keras 3.
_CLASSES = (
    ("conv", (*_CONVOLUTIONS, *LOCAL), ("kernel", "pointwise_kernel")),
    ("dense", layer_classes("Dense", "EinsumDense"), ("kernel",)),
    ("depthwise", _ANY_CONVOLUTION, ("depthwise_kernel",)),
    ("depthwise", DEPTHWISE, ("kernel",)),
    ("recurrent", _CELLS, _RECURRENT),
    ("embedding", layer_classes("Embedding"), ("embeddings",)),
)
# Layers that compute through the layers within them, which decide what is pruned.
_HOLDERS = layer_classes("RNN", "StackedRNNCells", "Bidirectional", "TimeDistributed")
# Kind; layer classes; class of the part that holds their weights (None: any); the weights' names.
_WITHIN = (
    ("recurrent", CONVOLUTIONAL_RECURRENT, None, _RECURRENT),
    ("attention", ATTENTION, EINSUM, ("kernel",)),
)
PLACES = ("first", "last", "shortcut")
# The names of functions that add: of ``x + y``, in Keras 3 too.
_ADDITIONS = ("__operators__.add", "math.add", "math.add_n", "Add")


def prunable_weights(
    model: keras.Model, settings: PrunableSettings | None = None
) -> dict[str, tuple[int, ...]]:
    """Name → shape of the weights that may be pruned, in the order of the model's layers.

    They are the kernels of the kinds in ``prune_layers``, also in layers within Bidirectional,
    TimeDistributed and RNN. For a layer or cell of the user's own they are what its
    ``get_prunable_weights`` (tfmot's interface) returns. Layers in ``keep_dense`` are left out.
    Biases, BatchNorm's parameters and weights inside of other layers that hold layers are never
    pruned.

    Args:
      model: a Sequential or functional model, wrapped or not.
      settings: default: all kinds except depthwise kernels and embeddings; output layers stay
        dense.

    Raises:
      UsageError: if the model has no graph, or ``keep_dense`` names no layer of it.
    """
    settings = settings or PrunableSettings()
    check_graph(model)
    names = variable_names(model)
    candidates = {
        path: {names[id(at(layer, a))]: at(layer, a) for a in attributes}
        for path, layer in ((p, unwrapped(w)) for p, w in named_layers(model).items())
        if (attributes := prunable_attributes(layer, settings.prune_layers))
    }
    dense = _kept_dense(model, settings.keep_dense)
    return {
        name: tuple(variable.shape)
        for path, weights in candidates.items()
        if path not in dense
        for name, variable in weights.items()
    }


def prunable_attributes(layer: keras.layers.Layer, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """The paths (``graph/parts``) of the prunable variables within ``layer``.

    Raises:
      UsageError: if a pruning wrapper is within it, or if ``get_prunable_weights`` returns a
        variable that is not an attribute of a layer.
    """
    found = dict.fromkeys(kernel_attributes(layer, kinds))
    for place, part in _opened(layer):
        # On the class, as tfmot sets a method of this name on each layer that it wraps.
        if hasattr(type(part), "get_prunable_weights"):
            paths: dict[int, str] = {}
            for path, variable in variables_at(part).items():
                paths.setdefault(id(variable), path)
            for weight in part.get_prunable_weights():
                if id(weight) not in paths:
                    raise UsageError(
                        "Expected get_prunable_weights to return variables that are attributes of "
                        f"the layer or of layers in it; '{layer.name}' ({type(part).__name__}) "
                        f"returns {getattr(weight, 'name', weight)}: set it as an attribute."
                    )
                found[place + paths[id(weight)]] = None
    # The layer's own attributes by name, as in older releases; then its parts', in their order.
    return sorted(found, key=lambda path: (1, "") if "/" in path else (0, path))


def kernel_attributes(layer: keras.layers.Layer, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """The paths of the kernels of ``KINDS`` within ``layer``."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    for place, part in _opened(layer):
        for kind, name in _kernels_of(part):
            # Two places may hold the same one, for instance a cell that is stacked twice.
            if kind in kinds and id(at(part, name)) not in seen:
                seen.add(id(at(part, name)))
                found[place + name] = None
    return list(found)


def _kernels_of(part: keras.layers.Layer) -> list[tuple[str, str]]:
    """Kind and path of the kernels that a layer of a known class holds, itself or in its parts."""
    found = {
        (kind, name)
        for kind, classes, names in _CLASSES
        if isinstance(part, classes)
        for name in names
        if name in held_variables(part)
    }
    inner = [
        (kind, place + name)
        for kind, classes, kept, names in _WITHIN
        if isinstance(part, classes)
        for place, each in parts_at(part).items()
        if place and (kept is None or isinstance(each, kept))
        for name in names
        if name in held_variables(each)
    ]
    return [*sorted(found, key=lambda pair: pair[1]), *inner]


def _opened(layer: keras.layers.Layer, place: str = "") -> Iterator[tuple[str, Any]]:
    """By path: the layer and, if it only holds other layers, those within it."""
    yield place, layer
    for name, part in layers_held(layer) if isinstance(layer, _HOLDERS) else ():
        if is_pruning_wrapper(part):
            raise UsageError(
                f"Expected pruning wrappers around whole layers; '{layer.name}' "
                f"({type(layer).__name__}) holds a {type(part).__name__}: wrap the model, or that "
                "layer, with plain layers in it."
            )
        yield from _opened(part, f"{place}{name}/")


def left_dense(model: keras.Model, masked: set[str]) -> list[str]:
    """Names of the trainable weights of rank 2 and more that are not in ``masked``."""
    trainable = trainable_names(model)
    return [
        name
        for name, variable in named_variables(model).items()
        if name in trainable and len(variable.shape) >= 2 and name not in masked
    ]


def _kept_dense(model: keras.Model, keep_dense: tuple[str, ...]) -> set[str]:
    """Paths of the layers that ``keep_dense`` names."""
    dense = set()
    graph, outputs = calls(model)
    layers = named_layers(model)
    # A layer is first or last if no kernel, prunable or not, lies between it and the model's end.
    kernels = {
        path
        for path, each in layers.items()
        if any(len(variable.shape) >= 2 for variable in own_variables(each).values())
    }
    for name in keep_dense:
        if name == "first":
            dense |= {
                c.path for c in graph if c.path in kernels and not _reaches(c, "before", kernels)
            }
        elif name == "last":
            for call in outputs:
                near = {call.path} if call.path in kernels else _reaches(call, "before", kernels)
                dense |= near
        elif name == "shortcut":
            dense |= {c.path for c in graph if _is_shortcut(c, kernels)}
        elif name in layers:
            dense.add(name)
        elif within := {path for path in layers if path.startswith(f"{name}/")}:
            dense |= within  # a model within the model
        else:
            raise UsageError(
                f"`keep_dense` takes {', '.join(PLACES)} or a layer of '{model.name}', not "
                f"'{name}'{nearest(name, [*PLACES, *layers])}."
            )
    return dense


def _reaches(call: Call, way: str, kernels: set[str]) -> set[str]:
    """The first of ``kernels`` on each path from a call in the direction ``way``.

    ``way`` is "before" or "after"."""
    met, seen, todo = set(), set(), list(getattr(call, way))
    while todo:
        step = todo.pop()
        if step in seen:
            continue
        seen.add(step)
        if step.path in kernels:
            met.add(step.path)
        else:
            todo += getattr(step, way)
    return met


def _is_shortcut(call: Call, kernels: set[str]) -> bool:
    """Whether a 1×1 convolution leads to an addition that its input also reaches by other kernels.

    Between it and the addition there may be only layers without a kernel (BatchNorm), and before
    it only poolings (ResNet-D, arXiv 1812.01187). The last 1×1 convolution of a bottleneck block
    is not a shortcut: its input reaches the addition only through it.
    """
    layer = unwrapped(call.layer)
    if not isinstance(layer, _ANY_CONVOLUTION) or set(layer.kernel_size) != {1}:
        return False
    ends, todo = set(), list(call.after)
    while todo:
        step = todo.pop()
        if isinstance(step.layer, layer_classes("Add")) or function_of(step.layer) in _ADDITIONS:
            ends.add(step)
        elif step.path not in kernels:
            todo += step.after
    branch = [call]
    while len(branch[-1].before) == 1 and isinstance(branch[-1].before[0].layer, _POOLINGS):
        branch += branch[-1].before
    beside = [c for each in branch for source in each.before for c in source.after if c is not each]
    return any(_past_kernels(other, ends, kernels) for other in beside)


def _past_kernels(call: Call, ends: set[Call], kernels: set[str]) -> bool:
    """Whether a path from ``call`` to one of ``ends`` goes through at least one of ``kernels``."""
    seen, todo = set(), [(call, False)]
    while todo:
        step, past = todo.pop()
        if (step, past) in seen:
            continue
        seen.add((step, past))
        if step in ends:
            if past:
                return True
            continue  # behind the addition the block has ended
        todo += [(later, past or step.path in kernels) for later in step.after]
    return False
