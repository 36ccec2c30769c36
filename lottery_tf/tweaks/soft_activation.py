"""Soft activation: smooth units that turn into ReLU while the ticket trains."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.graph.compat import calls_in, inputs_of, keras, layer_of, unconverted
from lottery_tf.graph.copies import Connect, copy_layer, reconnected
from lottery_tf.graph.layers import nodes, unwrapped
from lottery_tf.masks.wrapper import remake
from lottery_tf.tweaks.fade import FadingLayer, FadingTweak
from lottery_tf.tweaks.settings import SoftActivationSettings

_layers = keras.layers
_RELU = (keras.activations.relu, tf.nn.relu)
_RELU6 = (keras.activations.get("relu6"), tf.nn.relu6)
# Rectifiers that are not ReLU, and layers whose inside is not looked into.
_LEFT = (
    *(_layers.ReLU, _layers.LeakyReLU, _layers.PReLU, _layers.ELU, _layers.ThresholdedReLU),
    *(_layers.Lambda, _layers.RNN, _layers.Wrapper),
)
_LEFT_FUNCTIONS = ("math.maximum", "nn.leaky_relu", "nn.elu", "nn.selu")
# Names of functions that are no rectifiers; any other may be one.
_SMOOTH = (
    *("linear", "identity", "exponential", "tanh", "sigmoid", "hard_sigmoid", "softmax"),
    *("log_softmax", "softplus", "softsign", "gelu", "swish", "mish"),
)


@keras.saving.register_keras_serializable("lottery_tf")
class SoftReLU(FadingLayer):
    """A smooth unit that is ReLU from the end of its fade on.

    pswish: x·σ(βx), with β from ``start`` to ``end``; mish: (1 − τ)·Mish(x) + τ·ReLU(x) with
    Mish(x) = x·tanh(softplus(x)) and τ from ``start`` to ``end``. Of any shape and floating dtype.

    Args:
      unit: "pswish" or "mish".
      cap: what the output is cut off at, 6 in the place of ReLU6; None for nothing.
      replaced: the description of the ReLU whose place it takes, by which that comes back.
      start, end, curve: of β or τ.
      keep_signal: whether the output is multiplied by √(E[relu(x)²]/E[unit(x)²]), x ~ N(0, 1), so
        that its second moment is ReLU's all the way.
      **kwargs: as any Keras layer.
    """

    fading_tweak = "soft_activation"

    def __init__(
        self,
        unit: str = "pswish",
        cap: float | None = None,
        replaced: Any = None,
        start: float = 1.0,
        end: float = 10.0,
        curve: str = "linear",
        keep_signal: bool = False,  # as those were that releases before have saved
        **kwargs: Any,
    ):
        super().__init__(start, end, curve, autocast=False, **kwargs)
        self.keep_signal = keep_signal
        self.supports_masking = True
        self.unit, self.cap, self.replaced = unit, cap, replaced
        # Keras writes the inputs of a function's call in another form than those of a layer's.
        self._preserve_input_structure_in_config = (
            isinstance(replaced, dict) and replaced["class_name"] == "TFOpLambda"
        )

    # As tf.nn.relu, whose place it may take in a graph.
    @unconverted
    def call(self, features: tf.Tensor, name: str | None = None) -> tf.Tensor:
        value = self.value()

        def soft() -> tf.Tensor:
            found = _UNITS[self.unit](features, tf.cast(value, features.dtype))
            return found * tf.cast(self._gain(value), found.dtype) if self.keep_signal else found

        output = tf.cond(self.is_over(), lambda: tf.nn.relu(features), soft)
        output.set_shape(features.shape)
        return output if self.cap is None else tf.minimum(output, tf.cast(self.cap, output.dtype))

    def in_plain_layers(self, name: str) -> list[keras.layers.Layer]:
        """Layers of Keras' own that compute, one behind the other, what this one does now."""
        config, value = {"dtype": self.dtype_policy}, self.present()
        gain = float(self._gain(tf.constant(value))) if self.keep_signal else 1.0
        if bool(self.is_over()):
            found = [_layers.ReLU(name=name, **config)]
        elif self.unit == "pswish":  # x·σ(βx) is Swish(βx)/β
            scales = (
                _scaled(value, f"{name}_beta", config),
                _scaled(gain / value, f"{name}_scale", config),
            )
            found = [*scales[0], _layers.Activation("swish", name=name, **config), *scales[1]]
        elif value == 0:
            mish = _layers.Activation("mish", name=name, **config)
            found = [mish, *_scaled(gain, f"{name}_scale", config)]
        else:
            raise UsageError(
                f"Expected Mish as it begins, to be kept in the finished model; that of '{name}' "
                "has been blended into ReLU: train it from the start with `soft_activation_keep`."
            )
        if self.cap is not None:  # min(x, c) is c − ReLU(c − x)
            found += [
                _layers.Rescaling(-1.0, self.cap, name=f"{name}_below", **config),
                _layers.ReLU(name=f"{name}_cap", **config),
                _layers.Rescaling(-1.0, self.cap, name=f"{name}_capped", **config),
            ]
        return found

    def _gain(self, value: tf.Tensor) -> tf.Tensor:
        """What the unit's output is multiplied by. float32 []."""
        moment = tf.reduce_sum(_WEIGHTS * tf.square(_UNITS[self.unit](_POINTS, value)))
        return tf.sqrt(0.5 / moment)

    def get_config(self) -> dict[str, Any]:
        own = {"unit": self.unit, "cap": self.cap, "replaced": self.replaced}
        own["keep_signal"] = self.keep_signal
        return {**super().get_config(), **own}


# A fused activation in an .h5 file goes by the class's own name.
keras.utils.get_custom_objects()["SoftReLU"] = SoftReLU


def _scaled(scale: float, name: str, config: dict[str, Any]) -> list[keras.layers.Layer]:
    return [] if scale == 1 else [_layers.Rescaling(scale, name=name, **config)]


def _pswish(x: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(beta * x)


def _mish(x: tf.Tensor, blend: tf.Tensor) -> tf.Tensor:
    return (1 - blend) * x * tf.tanh(tf.math.softplus(x)) + blend * tf.nn.relu(x)


_UNITS = {"pswish": _pswish, "mish": _mish}
# The normal distribution at points, to take means by.
_POINTS = np.linspace(-6, 6, 241, dtype=np.float32)
_WEIGHTS = np.exp(-(_POINTS**2) / 2) / np.exp(-(_POINTS**2) / 2).sum()


@dataclasses.dataclass(frozen=True)
class SoftActivation(SoftActivationSettings, FadingTweak):
    """Smooth activations (PSwish, Mish) that turn into ReLU, in the place of every ReLU.

    A ticket has few paths; a smooth, non-monotonic unit passes gradient for small negative inputs
    too (arXiv 2101.03255). PSwish is x·σ(βx) (Ramachandran et al. 2017, arXiv 1710.05941) with β
    growing over the first share of the training; Mish (Misra 2019, arXiv 1908.08681) is blended
    into ReLU. Swish alone would lose a sixth of the signal a layer: ``keep_signal`` makes up for
    it. For the rest of the training the unit is exactly ReLU. ReLU6 becomes min(PSwish, 6). With
    ``keep`` it stays as it begins, and ``finish`` puts Keras' own layers in its place, a Swish
    between two scales.

    It finds ReLU layers, ``Activation("relu")``, fused ``activation="relu"`` and calls of
    ``tf.nn.relu``, in nested models too; one line is logged of what it left.
    """

    layer_class = SoftReLU

    @property
    def kept(self) -> bool:
        return self.keep

    @property
    def value_name(self) -> str:
        return "soft_activation_" + ("beta" if self.unit == "pswish" else "blend")

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        self.check_fresh(model)
        found: list[str] = []
        left: list[str] = []

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            copy = self._softened(layer)
            if copy is not None:
                found.append(layer.name)
                return copy
            what = _left(layer)
            if what:
                left.append(f"{layer.name} ({what})")
            return copy_layer(layer)

        changed = remake(model, change)
        log.info(
            "%s: %s made soft; not looked into: %s",
            *(model.name, counted(len(found), "ReLU"), some(left)),
        )
        self.check_kept(changed)
        return changed

    def restore(self, model: keras.Model) -> keras.Model:
        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            if isinstance(layer, SoftReLU):
                return _layers.deserialize(layer.replaced)
            if isinstance(getattr(layer, "activation", None), SoftReLU):
                own = "linear" if self.keep else layer.activation.replaced
                return copy_layer(layer, activation=own)
            return copy_layer(layer)

        if not self.layers(model):
            return model
        return remake(model, change, *([self._connect_plain(model)] if self.keep else []))

    def _connect_plain(self, model: keras.Model) -> Connect:
        """Has each soft unit's plain layers in its place."""
        made: dict[int, list[keras.layers.Layer]] = {}
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}

        def plain(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
            if id(layer) not in made:
                alone = isinstance(layer, SoftReLU)
                name, unit = (
                    (layer.name, layer) if alone else (f"{layer.name}_unit", layer.activation)
                )
                while not alone and name in taken:
                    name += "_"
                made[id(layer)] = unit.in_plain_layers(name)
            for each in made[id(layer)]:
                x = each(x)
            return x

        def call(node: Any) -> Callable[..., Any] | None:
            layer = unwrapped(layer_of(node))
            if isinstance(layer, SoftReLU):
                return lambda run, tensor: plain(layer, tensor(inputs_of(node)[0]))
            if isinstance(getattr(layer, "activation", None), SoftReLU):
                return lambda run, tensor: plain(layer, run())
            return None

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            calls = {id(n): made for n in calls_in(part) if (made := call(n)) is not None}
            return reconnected(part, copy_of, calls) if calls else None

        return connect

    def _softened(self, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        """A copy of ``layer`` with the soft unit in the place of its ReLU; None if it has none."""
        cap = _cap(layer)
        if cap is not None:
            return self._unit(cap, _layers.serialize(layer), name=layer.name)
        cap = _cap(getattr(layer, "activation", None))
        if cap is None or isinstance(layer, _layers.RNN) or "activation" not in layer.get_config():
            return None
        copy = copy_layer(layer)
        copy.activation = self._unit(cap, layer.get_config()["activation"])
        return copy

    def _unit(self, cap: float, replaced: Any, **kwargs: Any) -> SoftReLU:
        start, end = (self.beta_start, self.beta_end) if self.unit == "pswish" else (0.0, 1.0)
        highest = None if cap == math.inf else cap
        fade = (start, end, self.curve, self.keep_signal)
        return SoftReLU(self.unit, highest, replaced, *fade, **kwargs)


def _left(layer: keras.layers.Layer) -> str | None:
    """What in a layer without ReLU may rectify, its class or activation; None if nothing may."""
    known = type(layer).__module__.startswith(("tf_keras.", "lottery_tf."))
    function = getattr(layer, "symbol", None) in _LEFT_FUNCTIONS
    if function or isinstance(layer, _LEFT) or not known:
        return type(layer).__name__
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    smooth = activation is None or name.removesuffix("_v2") in _SMOOTH
    return None if smooth else name


def _cap(unit: Any) -> float | None:
    """The largest value of a ReLU, given as a layer or a function; None if it is something else."""
    symbol = getattr(unit, "symbol", None)
    if unit in _RELU or symbol == "nn.relu":
        return math.inf
    if unit in _RELU6 or symbol == "nn.relu6":
        return 6.0
    if type(unit) is _layers.ReLU and not unit.negative_slope and not unit.threshold:
        return math.inf if unit.max_value is None else float(unit.max_value)
    return None
