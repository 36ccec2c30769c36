"""Ghost skip connections: they help at the start of a ticket's training, and then are gone."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.common.settings import nearest
from lottery_tf.graph.compat import (
    call_of,
    input_layers,
    input_like,
    inputs_of,
    is_keras3,
    keras,
    keras_of,
    layer_classes,
    layer_of,
    outputs_of,
    producer_of,
    sequence_of,
)
from lottery_tf.graph.copies import copy_layer, reconnected
from lottery_tf.graph.layers import named_layers, named_variables, nodes, unwrapped
from lottery_tf.graph.signal_paths import first_of, on_every_way
from lottery_tf.masks.wrapper import remake
from lottery_tf.tweaks.fade import FadingTweak
from lottery_tf.tweaks.ghost_skip import (
    Ghost,
    GhostSkip,
    GhostSkip3,
    carry_activation,
    copied_activation,
    is_linear,
)
from lottery_tf.tweaks.settings import GhostSkipsSettings
from lottery_tf.tweaks.signal_scaling import strengths

_CONVOLUTIONS = layer_classes(
    *("Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D"),
    *("DepthwiseConv1D", "DepthwiseConv2D"),
)
_TRANSPOSED = layer_classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_PADDINGS = layer_classes("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
PLACES = ("hidden", "all", "same")


@dataclasses.dataclass(frozen=True)
class GhostSkips(GhostSkipsSettings, FadingTweak):
    """Skip connections around convolutions that fade out (arXiv 2101.03255).

    Each chosen spatial convolution gets y ← y + α·S(x). Here x is its input, before a ZeroPadding
    layer that replaces padding="same", and y the pre-activation behind it, after its BatchNorm if
    it has one. At first α is 1 if every signal has to go through the convolution, and 0.1 if there
    is a shortcut beside it. With ``keep_signal`` a ReLU passes no more signal than from a dense
    convolution's y alone.

    Over the first share of the training α falls to exactly 0, or more and more images have no skip.
    ``finish`` then returns the architecture without skips. With ``keep`` the skips stay as they
    begin, and ``finish`` turns them into Keras' own layers. A line is logged of spatial
    convolutions without a skip.

    Raises:
      UsageError: for parameters out of range. In ``prepare``, if ``convolutions`` names a layer
        that is not one of the model's.
    """

    layer_class = Ghost
    value_name = "ghost_skips_alpha"

    @property
    def kept(self) -> bool:
        return self.keep

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        self.check_fresh(model)
        places, without = self._places(model)
        # (model, convolution) → convolution and skip; a shared layer has a skip in each model.
        skips: dict[tuple[int, int], tuple[keras.layers.Layer, Any]] = {}
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}
        narrow, left = on_every_way(model), strengths(model)
        of = {id(v): left[name] for name, v in named_variables(model).items() if name in left}

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            here = [(node, source) for owner, node, source in places if owner is part]
            if not here:
                return None

            def with_skip(node: Any, source: Any) -> Callable[..., Any]:
                def call(run: Callable[[], Any], tensor: Callable[[Any], Any]) -> Any:
                    conv = unwrapped(layer_of(source))
                    key = id(part), id(conv)
                    if key not in skips:
                        alpha = self.alpha or (1.0 if id(source) in narrow else 0.1)
                        name = f"{conv.name}_ghost"
                        while name in taken:
                            name += "_"
                        # Behind a BatchNorm y is as strong as with a dense kernel.
                        kernels = conv.variables if node is source else []
                        # A kernel that is scaled up counts as 1: the fade ends with y itself.
                        strength = min(1.0, math.prod(of.get(id(v), 1.0) for v in kernels))
                        sequential = isinstance(part, keras_of(part).Sequential)
                        skips[key] = conv, self._skip(conv, name, sequential, alpha, strength)
                    return skips[key][1]([run(), tensor(_input_of(source))])

                return call

            calls = {id(node): with_skip(node, source) for node, source in here}
            return reconnected(part, copy_of, calls)

        around = {id(unwrapped(layer_of(source))) for _, _, source in places}

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            fused = id(layer) in around and not is_linear(layer)
            return copy_layer(layer, activation="linear") if fused else copy_layer(layer)

        changed = remake(model, change, connect)
        for conv, skip in skips.values():
            carry_activation(conv.activation, skip.activation)
        log.info(
            "%s: %s; spatial convolutions without one: %s",
            *(model.name, counted(len(skips), "ghost skip"), some(without)),
        )
        self.check_kept(changed)
        return changed

    def restore(self, model: keras.Model) -> keras.Model:
        ghosts = [each for each in nodes(model) if isinstance(layer_of(each[1]), Ghost)]
        if not ghosts:
            return model
        if self.keep:
            return self._in_plain_layers(model, ghosts)
        # id of a convolution → the skip that gives its activation back to it
        fused = {
            id(unwrapped(producer_of(inputs_of(node)[0]))): layer_of(node)
            for _, node in ghosts
            if not is_linear(layer_of(node))
        }
        moved: list[tuple[Ghost, keras.layers.Layer]] = []

        def without(node: Any) -> Callable[..., Any]:
            y = inputs_of(node)[0]
            return lambda run, tensor: tensor(y)

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            here = [node for owner, node in ghosts if owner is part]
            if not here:
                return None
            if layer_of(here[0]).sequential:
                first = input_like(input_layers(part)[0])
                rest = (layer for layer in part.layers[1:] if not isinstance(layer, Ghost))
                return sequence_of(part, [first, *map(copy_of, rest)])
            drop = {id(node): without(node) for node in here}
            return reconnected(part, copy_of, drop)

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            if id(layer) not in fused:
                return copy_layer(layer)
            ghost = fused[id(layer)]
            copy = copy_layer(layer, activation=copied_activation(ghost.activation))
            moved.append((ghost, copy))
            return copy

        restored = remake(model, change, connect)
        for ghost, conv in moved:
            carry_activation(ghost.activation, conv.activation)
        return restored

    def _in_plain_layers(
        self, model: keras.Model, ghosts: Sequence[tuple[keras.Model, Any]]
    ) -> keras.Model:
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}
        made = {id(layer_of(node)): layer_of(node).in_plain_layers(taken) for _, node in ghosts}

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            def plain(node: Any) -> Callable[..., Any]:
                y, x = inputs_of(node)
                return lambda run, tensor: made[id(layer_of(node))](tensor(y), tensor(x))

            calls = {id(node): plain(node) for owner, node in ghosts if owner is part}
            return reconnected(part, copy_of, calls) if calls else None

        return remake(model, copy_layer, connect)

    def _skip(
        self,
        conv: keras.layers.Layer,
        name: str,
        sequential: bool,
        alpha: float,
        strength: float,
    ) -> Ghost:
        config = conv.get_config()
        kind = GhostSkip3 if is_keras3(conv) else GhostSkip
        fade = self.fade or ("drop" if self.shortcut == "conv" else "weight")
        return kind(
            *(self.shortcut, config["strides"], config["data_format"]),
            activation=copied_activation(conv.activation),
            sequential=sequential,
            start=alpha,
            end=0.0,
            curve=self.curve,
            keep_signal=self.keep_signal,
            strength=strength,
            fade=fade,
            seed=int(np.random.randint(2**31)) if fade == "drop" else 0,
            name=name,
            dtype=conv.dtype_policy,
        )

    def _places(self, model: keras.Model) -> tuple[list[tuple[keras.Model, Any, Any]], list[str]]:
        """Where skips end, as (model, node, node of the convolution); convolutions without one."""
        self._check_names(model)
        paths = {id(unwrapped(layer)): path for path, layer in named_layers(model).items()}
        readers: dict[int, list[Any]] = {}
        for _, node in nodes(model):
            for tensor in inputs_of(node):
                readers.setdefault(id(tensor), []).append(node)
        outputs = {id(tensor) for part, _ in nodes(model) for tensor in part.outputs}
        first = first_of(model, lambda layer: _is_spatial(layer, any_kind=True))
        places, left = [], []
        for part, node in nodes(model):
            conv = unwrapped(layer_of(node))
            if not _is_spatial(conv):
                continue
            end = node
            (after, *others) = readers.get(id(_output_of(node)), [None])
            norm = None if after is None else layer_of(after)
            alone = not others and id(_output_of(node)) not in outputs
            if alone and isinstance(norm, layer_classes("BatchNormalization")) and is_linear(conv):
                end = after
            # A model's output has no activation behind it, and has to keep its name.
            chosen = self._is_chosen(conv, paths[id(conv)], node, end, id(conv) in first)
            if chosen and all(_output_of(end) is not tensor for tensor in model.outputs):
                places.append((part, end, node))
            else:
                left.append(conv)
        # A fused activation moves into the skip; so all calls of the layer must have a skip.
        stay = {id(conv) for conv in left if not is_linear(conv)}
        places = [place for place in places if id(unwrapped(layer_of(place[2]))) not in stay]
        others = [
            path
            for path, layer in named_layers(model).items()
            if _is_spatial(unwrapped(layer), any_kind=True) and not _is_spatial(unwrapped(layer))
        ]
        return places, list(dict.fromkeys([*(paths[id(conv)] for conv in left), *others]))

    def _is_chosen(
        self, conv: keras.layers.Layer, path: str, node: Any, end: Any, first: bool
    ) -> bool:
        # A user's own layer, or a regularizer of the output, may use the activation in other ways.
        of_keras = type(conv).__module__.startswith(("tf_keras.", "keras."))
        known = of_keras and conv.activity_regularizer is None
        if isinstance(conv, _TRANSPOSED) or not (known or is_linear(conv)):
            return False
        same = _input_of(node).shape[1:] == _output_of(end).shape[1:]
        return (
            "all" in self.convolutions
            or ("hidden" in self.convolutions and not first)
            or path in self.convolutions
            or ("same" in self.convolutions and same)
        )

    def _check_names(self, model: keras.Model) -> None:
        layers = {path: unwrapped(layer) for path, layer in named_layers(model).items()}
        good = [path for path, layer in layers.items() if _is_spatial(layer)]
        for name in self.convolutions:
            if name not in (*PLACES, *good):
                raise UsageError(
                    f"Expected GhostSkips' convolutions to be {', '.join(PLACES)} or a layer of "
                    f"'{model.name}' with a kernel larger than 1, not '{name}'"
                    f"{nearest(name, [*PLACES, *good])}."
                )


def _output_of(node: Any) -> Any:
    """The output of a call with one output."""
    return outputs_of(node)[0]


def _input_of(node: Any) -> tf.Tensor:
    """The input of a convolution, or of a layer before it that pads no more than "same" would."""
    (tensor,) = inputs_of(node)
    conv = unwrapped(layer_of(node))
    layer = producer_of(tensor)
    if isinstance(layer, _PADDINGS) and conv.padding == "valid":
        added = np.reshape(layer.padding, (-1, 2)).sum(axis=1)
        if (added <= np.multiply(conv.dilation_rate, np.subtract(conv.kernel_size, 1))).all():
            return inputs_of(call_of(tensor))[0]
    return tensor


def _is_spatial(layer: keras.layers.Layer, any_kind: bool = False) -> bool:
    """Whether it is a convolution with a kernel larger than 1.

    With ``any_kind`` convolutions of other kinds, and wrapped ones, count too."""
    if any_kind and isinstance(layer, layer_classes("Wrapper")):
        return _is_spatial(layer.layer, any_kind)
    # A user's own layer may have any value in kernel_size.
    kernel = np.ravel(getattr(layer, "kernel_size", 1))
    sizes = kernel if np.issubdtype(kernel.dtype, np.integer) else np.ones(1)
    return (any_kind or isinstance(layer, _CONVOLUTIONS)) and bool((sizes > 1).any())
