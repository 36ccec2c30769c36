"""Ghost skip connections: they help a ticket to begin, and are gone when it is trained."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.common.settings import nearest
from lottery_tf.graph.compat import call_of, input_layers, keras, producer_of, unconverted
from lottery_tf.graph.copies import copy_layer, reconnected
from lottery_tf.graph.layers import named_layers, nodes, unwrapped
from lottery_tf.graph.signal_paths import first_of, on_every_way
from lottery_tf.masks.wrapper import remake
from lottery_tf.tweaks.fade import FadingLayer, FadingTweak
from lottery_tf.tweaks.settings import GhostSkipsSettings

_layers = keras.layers
_CONVOLUTIONS = (
    *(_layers.Conv1D, _layers.Conv2D, _layers.Conv3D),
    *(_layers.SeparableConv1D, _layers.SeparableConv2D),
    *(_layers.DepthwiseConv1D, _layers.DepthwiseConv2D),
)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_PADDINGS = (_layers.ZeroPadding1D, _layers.ZeroPadding2D, _layers.ZeroPadding3D)
PLACES = ("hidden", "all", "same")


@keras.saving.register_keras_serializable("lottery_tf")
class GhostSkip(FadingLayer):
    """activation(n·(y + α·S(x))), with α from ``start`` to ``end``; then activation(y).

    Args:
      shortcut: what S is. "identity": x itself; where the shapes differ it is averaged over the
        strides, cut to y's size in the middle, and its channels are padded with zeros or left out.
        "conv": a 1×1 convolution of those strides with BatchNorm, whose weights begin at 1e-4, or
        with ``keep_signal`` as He's.
      strides: of the convolution that it goes around, one a dimension.
      data_format: "channels_last" or "channels_first".
      activation: the one that was fused into the convolution.
      sequential: whether the model that it was put into was Sequential.
      start, end, curve: of α.
      keep_signal: whether n is such that as much of the second moment comes out of a ReLU as from y
        alone; else n = 1. For the identity y ~ N(0, 1) and x is rectified, of half the second
        moment, as He's initialisation and a BatchNorm of y make them; then n is
        (½ + (1 + α²)(½ + atan(α)/π) + α/π)^-½. For "conv" both come out of a BatchNorm, and n is
        (1 + α²)^-½.
      **kwargs: as any Keras layer.

    Call arguments:
      inputs: [y, x], the pre-activation [batch, …, channels out] and the convolution's input
        [batch, …, channels in].
    """

    fading_tweak = "ghost_skips"

    def __init__(
        self,
        shortcut: str,
        strides: Sequence[int],
        data_format: str = "channels_last",
        activation: Any = None,
        sequential: bool = False,
        start: float = 1.0,
        end: float = 0.0,
        curve: str = "linear",
        keep_signal: bool = False,  # as those were that releases before have saved
        **kwargs: Any,
    ):
        super().__init__(start, end, curve, **kwargs)
        self.keep_signal = keep_signal
        self.shortcut, self.strides, self.data_format = shortcut, tuple(strides), data_format
        self.activation = keras.activations.get(activation)
        self.sequential = sequential

    def build(self, input_shape: Any) -> None:
        y_shape, x_shape = input_shape
        self._axis = -1 if self.data_format == "channels_last" else 1
        self.conv = self.norm = None
        if self.shortcut == "conv":
            self.conv = _of_rank(len(self.strides), "Conv")(
                *(y_shape[self._axis], 1),
                data_format=self.data_format,
                use_bias=False,
                # The reference's constant, of which BatchNorm's ε makes a small beginning; what is
                # to keep the signal has to be as large as the BatchNorm makes it from the start.
                kernel_initializer=(
                    "he_normal" if self.keep_signal else keras.initializers.Constant(1e-4)
                ),
                dtype=self.dtype_policy,
            )
            # The reference's constants; it fades before Keras' own momentum would have settled.
            self.norm = _layers.BatchNormalization(
                self._axis, momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
            )
            self.conv.build(x_shape)
            self.norm.build(y_shape)
        super().build(input_shape)

    @unconverted
    def call(self, inputs: Sequence[tf.Tensor], training: Any = None) -> tf.Tensor:
        y, x = inputs

        def with_skip() -> tf.Tensor:
            skip = self._identity(x, y) if self.conv is None else self.conv(self._thinned(x))
            skip = self._cut(skip, y)
            if self.norm is not None:
                skip = self.norm(skip, training=training)
            alpha = self.value()
            both = y + tf.cast(alpha, y.dtype) * skip
            if not self.keep_signal:
                return both
            return both * tf.cast(tf.math.rsqrt(self._moment(alpha)), y.dtype)

        output = tf.cond(self.is_over(), lambda: tf.identity(y), with_skip)
        output.set_shape(y.shape)
        return self.activation(output)

    def _moment(self, alpha: tf.Tensor) -> tf.Tensor:
        """E[relu(y + α·S(x))²]/E[relu(y)²]. float32 []."""
        squares = 1 + tf.square(alpha)
        if self.norm is not None:
            return squares
        # Half of a rectified x is 0, half of it the size of a normal z: y + α·|z| has an angle
        # atan(α) to y in the plane of y and z.
        return 0.5 + squares * (0.5 + tf.atan(alpha) / math.pi) + alpha / math.pi

    def _identity(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """x, averaged over the strides, with as many channels as y."""
        if any(stride > 1 for stride in self.strides):
            spatial = {1: "W", 2: "HW", 3: "DHW"}[len(self.strides)]
            layout = f"N{spatial}C" if self._axis == -1 else f"NC{spatial}"
            x = tf.nn.avg_pool(x, self.strides, self.strides, "SAME", layout)
        wanted, given = y.shape[self._axis], x.shape[self._axis]
        if given > wanted:
            return tf.gather(x, tf.range(wanted), axis=self._axis)
        pads = [[0, 0] for _ in range(x.shape.rank)]
        pads[self._axis][1] = wanted - given
        return tf.pad(x, pads) if wanted > given else x

    def _thinned(self, x: tf.Tensor) -> tf.Tensor:
        """What a convolution of 1×1 with the strides sees of x; its own gradient for strides and
        few channels writes beyond its memory in TensorFlow 2.21 with oneDNN on AVX-512."""
        places = [slice(None, None, stride) for stride in self.strides]
        places.insert(len(places) if self._axis == -1 else 0, slice(None))
        return x[(slice(None), *places)]

    def in_plain_layers(self, taken: set[str]) -> Callable[..., Any]:
        """A function (y, x) → output that is made of Keras' own layers and computes what this layer
        does now; called again it goes by the same layers.

        Args:
          taken: names that the layers may not have.
        """
        made: dict[str, keras.layers.Layer] = {}
        rank, config = len(self.strides), {"dtype": self.dtype_policy}
        placed = {**config, "data_format": self.data_format}

        def run(part: str, x: Any, kind: type, *args: Any, **kwargs: Any) -> tf.Tensor:
            if part not in made:
                name = f"{self.name}_{part}"
                while name in taken:
                    name += "_"
                made[part] = kind(*args, name=name, **kwargs)
            return made[part](x)

        def pooled(x: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
            if max(self.strides) == 1:
                return x
            kind = _of_rank(rank, "AveragePooling")
            return run("pool", x, kind, size, self.strides, "same", **placed)

        def convolved(x: tf.Tensor, channels: int, **kwargs: Any) -> tf.Tensor:
            return run(
                "conv", x, _of_rank(rank, "Conv"), channels, 1, use_bias=False, **placed, **kwargs
            )

        def cut(skip: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            first = 1 if self._axis == -1 else 2
            sizes = [each.shape[first : first + rank] for each in (skip, y)]
            if None in (*sizes[0], *sizes[1]):
                raise UsageError(
                    f"Expected images of a known size, to keep the ghost skip around "
                    f"'{self.name.removesuffix('_ghost')}' in the finished model: build the model "
                    "with the image's height and width."
                )
            amounts = tuple((left // 2, left - left // 2) for left in np.subtract(*sizes).tolist())
            if not np.any(amounts):
                return skip
            amounts = amounts[0] if rank == 1 else amounts
            return run(
                "cut",
                skip,
                _of_rank(rank, "Cropping"),
                amounts,
                **(config if rank == 1 else placed),
            )

        def output(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            over, alpha, channels = bool(self.is_over()), self.present(), y.shape[self._axis]
            if over:
                skip = None
            elif self.conv is None or self.norm is None:
                skip = pooled(x, self.strides)
                given = x.shape[self._axis]
                if given != channels:  # the rest zeros, or left out
                    skip = convolved(skip, channels, trainable=False)
                    kernel = np.eye(given, channels).reshape(*(1,) * rank, given, channels)
                    made["conv"].set_weights([kernel])
                skip = cut(skip, y)
            else:
                skip = cut(convolved(pooled(x, (1,) * rank), channels), y)
                constants = {"momentum": self.norm.momentum, "epsilon": self.norm.epsilon}
                skip = run(
                    "bn", skip, _layers.BatchNormalization, self._axis, **constants, **config
                )
                made["conv"].set_weights(self.conv.get_weights())
                made["bn"].set_weights(self.norm.get_weights())
            if skip is not None:
                if alpha != 1:
                    skip = run("alpha", skip, _layers.Rescaling, alpha, **config)
                y = run("add", [y, skip], _layers.Add, **config)
                if self.keep_signal:
                    n = float(tf.math.rsqrt(self._moment(tf.constant(alpha))))
                    y = run("scale", y, _layers.Rescaling, n, **config)
            if not _is_linear(self):
                y = run("unit", y, _layers.Activation, _copied(self.activation), **config)
                _carry(self.activation, made["unit"].activation)
            return y

        return output

    def _cut(self, skip: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The middle of ``skip``, of y's size: a convolution without padding makes less."""
        if skip.shape.is_fully_defined() and skip.shape == y.shape:
            return skip
        size = tf.shape(y)
        first = (tf.shape(skip) - size) // 2
        return tf.slice(skip, first, size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "shortcut": self.shortcut,
            "strides": list(self.strides),
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "sequential": self.sequential,
            "keep_signal": self.keep_signal,
        }


@dataclasses.dataclass(frozen=True)
class GhostSkips(GhostSkipsSettings, FadingTweak):
    """Skip connections around convolutions that fade out (arXiv 2101.03255).

    y ← y + α·S(x) for each chosen spatial convolution: x is its input, before a ZeroPadding layer
    does what padding="same" would do, y the pre-activation that it feeds, after its BatchNorm
    where there is one. Where every signal has to go through the convolution α begins at 1, else,
    beside a shortcut, at 0.1, and with ``keep_signal`` ReLU lets as much through as of y alone. α
    falls to exactly 0 over the first share of the training; then they are out, and ``finish``
    returns the architecture without them. With ``keep`` they stay as they begin, and ``finish``
    makes Keras' own layers of them. One line is logged of the spatial convolutions that have none.

    Raises:
      UsageError: for parameters out of range; in ``prepare``, if ``convolutions`` names none of
        the model's.
    """

    layer_class = GhostSkip
    value_name = "ghost_skips_alpha"

    @property
    def kept(self) -> bool:
        return self.keep

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        self.check_fresh(model)
        places, left = self._places(model)
        # (model, convolution) → convolution and skip: a shared one has one skip in each model.
        skips: dict[tuple[int, int], tuple[keras.layers.Layer, GhostSkip]] = {}
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}
        narrow = on_every_way(model)

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            here = {id(node): source for owner, node, source in places if owner is part}
            if not here:
                return None

            def with_skip(source: Any) -> Callable[..., Any]:
                def call(run: Callable[[], Any], tensor: Callable[[Any], Any]) -> Any:
                    conv = unwrapped(source.layer)
                    key = id(part), id(conv)
                    if key not in skips:
                        alpha = self.alpha or (1.0 if id(source) in narrow else 0.1)
                        name = f"{conv.name}_ghost"
                        while name in taken:
                            name += "_"
                        sequential = isinstance(part, keras.Sequential)
                        skips[key] = conv, self._skip(conv, name, sequential, alpha)
                    return skips[key][1]([run(), tensor(_input_of(source))])

                return call

            calls = {node: with_skip(source) for node, source in here.items()}
            return reconnected(part, copy_of, calls)

        around = {id(unwrapped(source.layer)) for _, _, source in places}

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            fused = id(layer) in around and not _is_linear(layer)
            return copy_layer(layer, activation="linear") if fused else copy_layer(layer)

        changed = remake(model, change, connect)
        for conv, skip in skips.values():
            _carry(conv.activation, skip.activation)
        log.info(
            "%s: %s; spatial convolutions without one: %s",
            *(model.name, counted(len(skips), "ghost skip"), some(left)),
        )
        self.check_kept(changed)
        return changed

    def restore(self, model: keras.Model) -> keras.Model:
        ghosts = [(part, node) for part, node in nodes(model) if isinstance(node.layer, GhostSkip)]
        if not ghosts:
            return model
        if self.keep:
            return self._in_plain_layers(model, ghosts)
        # id of a convolution → the skip whose activation comes back into it
        fused = {
            id(unwrapped(producer_of(node.keras_inputs[0]))): node.layer
            for _, node in ghosts
            if not _is_linear(node.layer)
        }
        moved: list[tuple[GhostSkip, keras.layers.Layer]] = []

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            here = [node for owner, node in ghosts if owner is part]
            if not here:
                return None
            if here[0].layer.sequential:
                first = _layers.InputLayer(**input_layers(part)[0].get_config())
                rest = [copy_of(layer) for layer in part.layers[1:] if type(layer) is not GhostSkip]
                return keras.Sequential([first, *rest], name=part.name)
            drop = {
                id(node): lambda run, tensor, y=node.keras_inputs[0]: tensor(y) for node in here
            }
            return reconnected(part, copy_of, drop)

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            if id(layer) not in fused:
                return copy_layer(layer)
            ghost = fused[id(layer)]
            copy = copy_layer(layer, activation=_copied(ghost.activation))
            moved.append((ghost, copy))
            return copy

        restored = remake(model, change, connect)
        for ghost, conv in moved:
            _carry(ghost.activation, conv.activation)
        return restored

    def _in_plain_layers(
        self, model: keras.Model, ghosts: Sequence[tuple[keras.Model, Any]]
    ) -> keras.Model:
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}
        made = {id(node.layer): node.layer.in_plain_layers(taken) for _, node in ghosts}

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            def plain(node: Any) -> Callable[..., Any]:
                y, x = node.keras_inputs
                return lambda run, tensor: made[id(node.layer)](tensor(y), tensor(x))

            calls = {id(node): plain(node) for owner, node in ghosts if owner is part}
            return reconnected(part, copy_of, calls) if calls else None

        return remake(model, copy_layer, connect)

    def _skip(
        self, conv: keras.layers.Layer, name: str, sequential: bool, alpha: float
    ) -> GhostSkip:
        config = conv.get_config()
        return GhostSkip(
            *(self.shortcut, config["strides"], config["data_format"]),
            activation=_copied(conv.activation),
            sequential=sequential,
            start=alpha,
            end=0.0,
            curve=self.curve,
            keep_signal=self.keep_signal,
            name=name,
            dtype=conv.dtype_policy,
        )

    def _places(self, model: keras.Model) -> tuple[list[tuple[keras.Model, Any, Any]], list[str]]:
        """Where skips end, as (model, node, node of the convolution), and the convolutions left."""
        self._check_names(model)
        paths = {id(unwrapped(layer)): path for path, layer in named_layers(model).items()}
        readers: dict[int, list[Any]] = {}
        for _, node in nodes(model):
            for tensor in node.keras_inputs:
                readers.setdefault(id(tensor), []).append(node)
        outputs = {id(tensor) for part, _ in nodes(model) for tensor in part.outputs}
        first = first_of(model, lambda layer: _is_spatial(layer, any_kind=True))
        places, left = [], []
        for part, node in nodes(model):
            conv = unwrapped(node.layer)
            if not _is_spatial(conv):
                continue
            end = node
            (after, *others) = readers.get(id(node.outputs), [None])
            norm = None if after is None else after.layer
            alone = not others and id(node.outputs) not in outputs
            if alone and isinstance(norm, _layers.BatchNormalization) and _is_linear(conv):
                end = after
            # An output has no activation behind it, and keeps its name.
            chosen = self._is_chosen(conv, paths[id(conv)], node, end, id(conv) in first)
            if chosen and all(end.outputs is not tensor for tensor in model.outputs):
                places.append((part, end, node))
            else:
                left.append(conv)
        # A fused activation moves into the skip, and has to do so wherever the layer is called.
        stay = {id(conv) for conv in left if not _is_linear(conv)}
        places = [place for place in places if id(unwrapped(place[2].layer)) not in stay]
        others = [
            path
            for path, layer in named_layers(model).items()
            if _is_spatial(unwrapped(layer), any_kind=True) and not _is_spatial(unwrapped(layer))
        ]
        return places, list(dict.fromkeys([*(paths[id(conv)] for conv in left), *others]))

    def _is_chosen(
        self, conv: keras.layers.Layer, path: str, node: Any, end: Any, first: bool
    ) -> bool:
        # What else a user's own layer, or a regularizer of its output, does with the activation
        # is not known.
        known = type(conv).__module__.startswith("tf_keras.") and conv.activity_regularizer is None
        if isinstance(conv, _TRANSPOSED) or not (known or _is_linear(conv)):
            return False
        same = _input_of(node).shape[1:] == end.outputs.shape[1:]
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


def _of_rank(rank: int, kind: str) -> type:
    """Keras' layer of that kind for one, two or three dimensions."""
    return getattr(_layers, f"{kind}{rank}D")


def _input_of(node: Any) -> tf.Tensor:
    """What a convolution reads; where a layer pads it to "same" or less, what that layer reads."""
    (tensor,) = node.keras_inputs
    conv = unwrapped(node.layer)
    layer = producer_of(tensor)
    if isinstance(layer, _PADDINGS) and conv.padding == "valid":
        added = np.reshape(layer.padding, (-1, 2)).sum(axis=1)
        if (added <= np.multiply(conv.dilation_rate, np.subtract(conv.kernel_size, 1))).all():
            return call_of(tensor).keras_inputs[0]
    return tensor


def _is_spatial(layer: keras.layers.Layer, any_kind: bool = False) -> bool:
    """Whether it is a convolution with a kernel above 1; of ``any_kind``, or one wrapped, too."""
    if any_kind and isinstance(layer, _layers.Wrapper):
        return _is_spatial(layer.layer, any_kind)
    kernel = getattr(layer, "kernel_size", (1,))
    return (any_kind or isinstance(layer, _CONVOLUTIONS)) and max(kernel) > 1


def _is_linear(layer: keras.layers.Layer) -> bool:
    return layer.activation in (None, keras.activations.linear)


def _copied(activation: Any) -> Any:
    """The activation for another layer; one that is a layer, and has variables, as a new layer."""
    return copy_layer(activation) if isinstance(activation, _layers.Layer) else activation


def _carry(old: Any, new: Any) -> None:
    """Gives one activation the variables of another, where it is a layer that has some."""
    for value, variable in zip(
        getattr(old, "weights", ()), getattr(new, "weights", ()), strict=True
    ):
        variable.assign(value)
