"""The layer of a ghost skip."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    build_parts,
    is_layer,
    keras,
    keras_of,
    on_jax,
    set_value,
    unconverted,
)
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import ops_for, shaped_as, uniform_at
from lottery_tf.tweaks.fade import Fading, FadingLayer, FadingLayer3


class Ghost(Fading):
    """activation(n·(y + α·S(x))), with α from ``start`` to ``end``; then activation(y).

    Args:
      shortcut: the kind of S. "identity": x itself; if the shapes differ, it is averaged over the
        strides, cut to y's size in the middle, and its channels are padded with zeros or left out.
        "conv": a 1×1 convolution of those strides with BatchNorm. Its weights begin at 1e-4, or
        with ``keep_signal`` as He's.
      strides: those of the convolution that it bypasses, one for each dimension.
      data_format: "channels_last" or "channels_first".
      activation: the one that was fused into the convolution.
      sequential: whether the original model was Sequential.
      start, end, curve: the schedule of α.
      fade: "weight": all images have α·S(x). "drop": in training each image has start·S(x) with
        probability α/start and else y alone, as in stochastic depth (arXiv 1603.09382).
      seed: the seed of these draws.
      keep_signal: if True, n is chosen so that a ReLU behind it passes no more of the second moment
        than from y of a dense convolution alone; else n = 1. For "identity" it assumes that
        y ~ N(0, 1), and that x is rectified and has half the second moment, as with He's
        initialisation and a BatchNorm of y. For "conv" both come from a BatchNorm.
      strength: s, the initial strength of y relative to that of the dense convolution.
      **kwargs: as for any Keras layer.

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
        keep_signal: bool = False,  # for layers saved by older releases
        strength: float = 1.0,
        fade: str = "weight",
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(start, end, curve, **kwargs)
        self.keep_signal, self.strength = keep_signal, strength
        self.fade, self.seed = fade, seed
        self.shortcut, self.strides, self.data_format = shortcut, tuple(strides), data_format
        self.activation = keras_of(self).activations.get(activation)
        self.sequential = sequential

    def build(self, input_shape: Any) -> None:
        y_shape, x_shape = input_shape
        self._axis = -1 if self.data_format == "channels_last" else 1
        self.conv = self.norm = None
        its = keras_of(self)
        if self.shortcut == "conv":
            self.conv = self._of_rank("Conv")(
                *(y_shape[self._axis], 1),
                data_format=self.data_format,
                use_bias=False,
                # The reference's constant, which BatchNorm's ε turns into a small start. To keep
                # the signal, it must have the size that a BatchNorm gives from the start.
                kernel_initializer=(
                    "he_normal" if self.keep_signal else its.initializers.Constant(1e-4)
                ),
                dtype=self.dtype_policy,
            )
            # The reference's constants. With Keras' momentum it would fade before it has settled.
            self.norm = its.layers.BatchNormalization(
                self._axis, momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
            )
            self.conv.build(x_shape)
            self.norm.build(y_shape)
        super().build(input_shape)  # type: ignore[misc]  # of the layer

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    @unconverted
    def call(self, inputs: Sequence[tf.Tensor], training: Any = None) -> tf.Tensor:
        y, x = inputs
        ops = ops_for(self)

        def with_skip() -> tf.Tensor:
            skip = self._identity(x, y) if self.conv is None else self.conv(self._thinned(x))
            skip = self._cut(skip, y)
            if self.norm is not None:
                skip = self.norm(skip, training=training)
            alpha = self._alpha(training, y)
            both = y + ops.cast(alpha, y.dtype) * skip
            if not self.keep_signal:
                return both
            return both * ops.cast(self._gain(alpha), y.dtype)

        if on_jax(self):  # where a branch cannot keep what its BatchNorm has seen
            output = ops.where(self.is_over(), y, with_skip())
        else:
            output = shaped_as(y, ops.cond(self.is_over(), lambda: ops.copy(y), with_skip))
        return self.activation(output)

    def _alpha(self, training: Any, y: tf.Tensor) -> tf.Tensor:
        """α now, float32 []; that of each image where they are dropped, [batch, 1, …, 1]."""
        alpha, ops = self.value(), ops_for(self)
        if self.fade == "weight":
            return alpha
        # By the step, so that a training that is resumed draws what it would have drawn.
        shape = [ops.shape(y)[0], *(1 for _ in y.shape[1:])]
        has_skip = uniform_at(self.step, self.seed, shape) * self.schedule.start < alpha
        drawn = ops.where(has_skip, self.schedule.start, 0.0)
        if training is None:
            training = self.trains_by_default()
        return ops.where(ops.cast(training, "bool"), drawn, alpha)

    def trains_by_default(self) -> Any:
        """Whether a call without ``training`` is one of training."""
        raise NotImplementedError

    def _gain(self, alpha: tf.Tensor) -> tf.Tensor:
        """n for ``alpha``, of the same shape."""
        ops = ops_for(self)
        squares = self.strength**2 + ops.square(alpha)
        if self.norm is None:
            # E[relu(y + α·S(x))²]/E[relu(y / s)²]. Half of a rectified x is 0, half of it the size
            # of a normal z: y + α·|z| has an angle atan(α/s) to y in the plane of y and z.
            angle = ops.arctan2(alpha, self.strength)
            squares = (
                self.strength**2 / 2
                + squares * (0.5 + angle / math.pi)
                + self.strength * alpha / math.pi
            )
        return ops.rsqrt(ops.maximum(squares, 1.0))

    def _identity(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """x, averaged over the strides, with as many channels as y."""
        ops = ops_for(self)
        if any(stride > 1 for stride in self.strides):
            x = ops.average_pool(x, self.strides, self.strides, "same", self.data_format)
        wanted, given = y.shape[self._axis], x.shape[self._axis]
        if given > wanted:
            return ops.take(x, ops.arange(wanted), axis=self._axis)
        pads = [[0, 0] for _ in x.shape]
        pads[self._axis][1] = wanted - given
        return ops.pad(x, pads) if wanted > given else x

    def _thinned(self, x: tf.Tensor) -> tf.Tensor:
        """The pixels of x that a strided 1×1 convolution reads.

        The gradient of that convolution for few channels writes beyond its memory in TensorFlow
        2.21 with oneDNN on AVX-512."""
        places = [slice(None, None, stride) for stride in self.strides]
        places.insert(len(places) if self._axis == -1 else 0, slice(None))
        return x[(slice(None), *places)]

    def in_plain_layers(self, taken: set[str]) -> Callable[..., Any]:
        """A function (y, x) → output that computes by Keras' own layers what this layer does now.

        Each call uses the same layers.

        Args:
          taken: names that the layers must not have.
        """
        layers = keras_of(self).layers
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
            kind = self._of_rank("AveragePooling")
            return run("pool", x, kind, size, self.strides, "same", **placed)

        def convolved(x: tf.Tensor, channels: int, **kwargs: Any) -> tf.Tensor:
            kind = self._of_rank("Conv")
            return run("conv", x, kind, channels, 1, use_bias=False, **placed, **kwargs)

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
                self._of_rank("Cropping"),
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
                if given != channels:  # padded with zeros, or left out
                    skip = convolved(skip, channels, trainable=False)
                    kernel = np.eye(given, channels).reshape(*(1,) * rank, given, channels)
                    made["conv"].set_weights([kernel])
                skip = cut(skip, y)
            else:
                skip = cut(convolved(pooled(x, (1,) * rank), channels), y)
                constants = {"momentum": self.norm.momentum, "epsilon": self.norm.epsilon}
                skip = run("bn", skip, layers.BatchNormalization, self._axis, **constants, **config)
                made["conv"].set_weights(self.conv.get_weights())
                made["bn"].set_weights(self.norm.get_weights())
            if skip is not None:
                if alpha != 1:
                    skip = run("alpha", skip, layers.Rescaling, alpha, **config)
                y = run("add", [y, skip], layers.Add, **config)
                if self.keep_signal:
                    n = float(self._gain(ops_for(self).convert_to_tensor(alpha)))
                    y = run("scale", y, layers.Rescaling, n, **config)
            if not is_linear(self):
                y = run("unit", y, layers.Activation, copied_activation(self.activation), **config)
                carry_activation(self.activation, made["unit"].activation)
            return y

        return output

    def _cut(self, skip: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The middle of ``skip``, of y's size, which is smaller without padding."""
        if None not in skip.shape and skip.shape == y.shape:
            return skip
        ops = ops_for(self)
        size = ops.shape(y)
        first = [(left - kept) // 2 for left, kept in zip(ops.shape(skip), size, strict=True)]
        return ops.slice(skip, first, size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "shortcut": self.shortcut,
            "strides": list(self.strides),
            "data_format": self.data_format,
            "activation": keras_of(self).activations.serialize(self.activation),
            "sequential": self.sequential,
            "keep_signal": self.keep_signal,
            "strength": self.strength,
            "fade": self.fade,
            "seed": self.seed,
        }

    def _of_rank(self, kind: str) -> type:
        """Keras' layer of that kind for one, two or three dimensions."""
        return getattr(keras_of(self).layers, f"{kind}{len(self.strides)}D")


@keras.saving.register_keras_serializable("lottery_tf")
class GhostSkip(Ghost, FadingLayer):
    __doc__ = Ghost.__doc__

    def trains_by_default(self) -> Any:
        return keras.backend.learning_phase()


@keras3.saving.register_keras_serializable("lottery_tf", "GhostSkip")
class GhostSkip3(Ghost, FadingLayer3):
    __doc__ = Ghost.__doc__

    def trains_by_default(self) -> Any:
        return False


def is_linear(layer: keras.layers.Layer) -> bool:
    return layer.activation in (None, keras.activations.linear, keras3.activations.linear)


def copied_activation(activation: Any) -> Any:
    """The activation for another layer; a layer with variables is copied."""
    return copy_layer(activation) if is_layer(activation) else activation


def carry_activation(old: Any, new: Any) -> None:
    """Gives an activation the values of another one's variables, if it is a layer with some."""
    if is_layer(old):
        build_parts(new, old)
    for value, variable in zip(
        getattr(old, "weights", ()), getattr(new, "weights", ()), strict=True
    ):
        set_value(variable, value)
