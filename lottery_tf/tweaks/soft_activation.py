"""Soft activation: smooth units that turn into ReLU while the ticket trains."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.graph.compat import (
    called_again,
    calls_in,
    function_of,
    inputs_of,
    is_keras3,
    is_layer,
    keras,
    keras_of,
    layer_classes,
    layer_of,
    rename,
    unconverted,
)
from lottery_tf.graph.copies import Connect, copy_layer, reconnected
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import nodes, unwrapped
from lottery_tf.graph.ops import ops_for, shaped_as
from lottery_tf.masks.wrapper import remake
from lottery_tf.tweaks.fade import Fading, FadingLayer, FadingLayer3, FadingTweak
from lottery_tf.tweaks.settings import SoftActivationSettings

_RELU = (keras.activations.relu, tf.nn.relu, keras3.activations.relu, keras3.ops.relu)
_RELU6 = (
    *(keras.activations.get("relu6"), tf.nn.relu6, keras3.activations.relu6, keras3.ops.relu6),
)
# Rectifiers that are not ReLU, and layers that are not searched for a ReLU inside.
_LEFT = layer_classes(
    "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Lambda", "RNN", "Wrapper"
)
_LEFT_FUNCTIONS = (
    *("math.maximum", "nn.leaky_relu", "nn.elu", "nn.selu"),
    *("Maximum", "ReLU", "LeakyRelu", "Elu", "Selu"),  # of Keras 3
)
# Names of functions that are not rectifiers; any other function may be one.
_SMOOTH = (
    *("linear", "identity", "exponential", "tanh", "sigmoid", "hard_sigmoid", "softmax"),
    *("log_softmax", "softplus", "softsign", "gelu", "swish", "silu", "mish"),
)


class SoftUnit(Fading):
    """A smooth unit that is ReLU from the end of its fade on.

    pswish: x·σ(βx), with β from ``start`` to ``end``; mish: (1 − τ)·Mish(x) + τ·ReLU(x) with
    Mish(x) = x·tanh(softplus(x)) and τ from ``start`` to ``end``. Of any shape and floating dtype.

    Args:
      unit: "pswish" or "mish".
      cap: the largest output, 6 if it replaces a ReLU6; None for no limit.
      replaced: the description of the replaced ReLU, from which it is restored.
      start, end, curve: the schedule of β or τ.
      keep_signal: whether the output is multiplied by √(E[relu(x)²]/E[unit(x)²]), x ~ N(0, 1), so
        that its second moment always equals ReLU's.
      **kwargs: as for any Keras layer.
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
        keep_signal: bool = False,  # for layers saved by older releases
        **kwargs: Any,
    ):
        super().__init__(start, end, curve, autocast=False, **kwargs)
        self.keep_signal = keep_signal
        self.supports_masking = True
        self.unit, self.cap, self.replaced = unit, cap, replaced

    # The arguments of tf.nn.relu, which it may replace in a graph.
    @unconverted
    def call(self, features: tf.Tensor, name: str | None = None) -> tf.Tensor:
        value, ops = self.value(), ops_for(self)

        def soft() -> tf.Tensor:
            found = _UNITS[self.unit](ops, features, ops.cast(value, features.dtype))
            return found * ops.cast(self._gain(value), found.dtype) if self.keep_signal else found

        output = shaped_as(features, ops.cond(self.is_over(), lambda: ops.relu(features), soft))
        return output if self.cap is None else ops.minimum(output, ops.cast(self.cap, output.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def in_plain_layers(self, name: str) -> list[keras.layers.Layer]:
        """Keras' own layers that, in sequence, compute what this layer does now."""
        layers = keras_of(self).layers
        config, value = {"dtype": self.dtype_policy}, self.present()

        def scaled(scale: float, end: str) -> list[keras.layers.Layer]:
            return [] if scale == 1 else [layers.Rescaling(scale, name=f"{name}_{end}", **config)]

        gain = float(self._gain(value)) if self.keep_signal else 1.0
        if bool(self.is_over()):
            found = [layers.ReLU(name=name, **config)]
        elif self.unit == "pswish":  # x·σ(βx) is Swish(βx)/β
            swish = layers.Activation("swish", name=name, **config)
            found = [*scaled(value, "beta"), swish, *scaled(gain / value, "scale")]
        elif value == 0:
            mish = layers.Activation("mish", name=name, **config)
            found = [mish, *scaled(gain, "scale")]
        else:
            raise UsageError(
                f"Expected an unchanged Mish, to be kept in the finished model; that of '{name}' "
                "was blended into ReLU: train it from the start with `soft_activation_keep`."
            )
        if self.cap is not None:  # min(x, c) is c − ReLU(c − x)
            found += [
                layers.Rescaling(-1.0, self.cap, name=f"{name}_below", **config),
                layers.ReLU(name=f"{name}_cap", **config),
                layers.Rescaling(-1.0, self.cap, name=f"{name}_capped", **config),
            ]
        return found

    def _gain(self, value: float | tf.Tensor) -> tf.Tensor:
        """The factor of the unit's output. float32 []."""
        ops = ops_for(self)
        weights, points = map(ops.convert_to_tensor, (_WEIGHTS, _POINTS))
        moment = ops.sum(weights * ops.square(_UNITS[self.unit](ops, points, value)))
        return ops.sqrt(0.5 / moment)

    def get_config(self) -> dict[str, Any]:
        own = {"unit": self.unit, "cap": self.cap, "replaced": self.replaced}
        own["keep_signal"] = self.keep_signal
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("lottery_tf")
class SoftReLU(SoftUnit, FadingLayer):
    __doc__ = SoftUnit.__doc__

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Keras saves the inputs of a function's call in another form than those of a layer's.
        self._preserve_input_structure_in_config = (
            isinstance(self.replaced, dict) and self.replaced["class_name"] == "TFOpLambda"
        )


@keras3.saving.register_keras_serializable("lottery_tf", "SoftReLU")
class SoftReLU3(SoftUnit, FadingLayer3):
    __doc__ = SoftUnit.__doc__

    def compute_output_spec(self, features: Any, name: str | None = None) -> Any:
        return keras3.KerasTensor(features.shape, features.dtype)


# An .h5 file names a fused activation by the class's own name.
keras.utils.get_custom_objects()["SoftReLU"] = SoftReLU


def _pswish(ops: Any, x: tf.Tensor, beta: float | tf.Tensor) -> tf.Tensor:
    return x * ops.sigmoid(beta * x)


def _mish(ops: Any, x: tf.Tensor, blend: float | tf.Tensor) -> tf.Tensor:
    return (1 - blend) * x * ops.tanh(ops.softplus(x)) + blend * ops.relu(x)


_UNITS = {"pswish": _pswish, "mish": _mish}
# Points and weights of the normal distribution, to compute means.
_POINTS = np.linspace(-6, 6, 241, dtype=np.float32)
_WEIGHTS = np.exp(-(_POINTS**2) / 2) / np.exp(-(_POINTS**2) / 2).sum()


@dataclasses.dataclass(frozen=True)
class SoftActivation(SoftActivationSettings, FadingTweak):
    """Replaces every ReLU by a smooth activation (PSwish, Mish) that turns into ReLU again.

    A ticket has few paths. A smooth, non-monotonic unit also passes a gradient for small negative
    inputs (arXiv 2101.03255). PSwish is x·σ(βx) (Ramachandran et al. 2017, arXiv 1710.05941) with
    β growing over the first share of the training. Mish (Misra 2019, arXiv 1908.08681) is blended
    into ReLU. Swish alone would lose a sixth of the signal at each layer; ``keep_signal`` corrects
    that. For the rest of the training the unit is exactly ReLU. ReLU6 becomes min(PSwish, 6). With
    ``keep`` the unit stays as it begins, and ``finish`` replaces it by Keras' own layers, a Swish
    between two scales.

    It finds ReLU layers, ``Activation("relu")``, fused ``activation="relu"`` and calls of
    ``tf.nn.relu`` or ``keras.ops.relu``, in nested models too. A line names what it left out.
    """

    layer_class = SoftUnit

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

        def looked_at(layer: Any) -> Any:
            copy = self._softened(layer)
            what = None if copy is not None else _left(layer)
            if copy is not None:
                found.append(layer.name)
            elif what:
                left.append(f"{layer.name} ({what})")
            return copy

        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            copy = looked_at(layer)
            return copy_layer(layer) if copy is None else copy

        def function(called: Any) -> Any:
            return None if is_layer(called) else looked_at(called)

        changed = remake(model, change, _calls_changed(function))
        log.info(
            "%s: %s made soft%s",
            *(model.name, counted(len(found), "ReLU")),
            f"; left as they are: {some(left)}" if left else "",
        )
        self.check_kept(changed)
        return changed

    def restore(self, model: keras.Model) -> keras.Model:
        def change(layer: keras.layers.Layer) -> keras.layers.Layer:
            if isinstance(layer, SoftUnit):
                return _made_from(layer)
            if isinstance(getattr(layer, "activation", None), SoftUnit):
                own = "linear" if self.keep else layer.activation.replaced
                return copy_layer(layer, activation=own)
            return copy_layer(layer)

        def function(layer: Any) -> Any:
            came = _made_from(layer) if isinstance(layer, SoftReLU3) else None
            return None if is_layer(came) else came

        if not self.layers(model):
            return model
        connect = self._connect_plain(model) if self.keep else _calls_changed(function)
        return remake(model, change, connect)

    def _connect_plain(self, model: keras.Model) -> Connect:
        """A ``Connect`` that replaces each soft unit by its plain layers."""
        made: dict[int, list[keras.layers.Layer]] = {}
        taken = {layer.name for part, _ in nodes(model) for layer in part.layers}

        def plain(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
            if id(layer) not in made:
                alone = isinstance(layer, SoftUnit)
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
            if isinstance(layer, SoftUnit):
                return lambda run, tensor: plain(layer, tensor(inputs_of(node)[0]))
            if isinstance(getattr(layer, "activation", None), SoftUnit):
                return lambda run, tensor: plain(layer, run())
            return None

        def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
            calls = {id(n): made for n in calls_in(part) if (made := call(n)) is not None}
            return reconnected(part, copy_of, calls) if calls else None

        return connect

    def _softened(self, layer: Any) -> keras.layers.Layer | None:
        """A copy of a layer with the soft unit instead of its ReLU; None if it has no ReLU.

        For a ReLU layer, or a ReLU function of ``keras.ops``, it is the unit itself."""
        kind = SoftReLU3 if is_keras3(layer) else SoftReLU
        cap = _cap(layer)
        if cap is not None:
            return self._unit(kind, cap, _described(layer), name=layer.name)
        cap = _cap(getattr(layer, "activation", None))
        if (
            cap is None
            or isinstance(layer, layer_classes("RNN"))
            or "activation" not in layer.get_config()
        ):
            return None
        unit = self._unit(kind, cap, layer.get_config()["activation"])
        if is_keras3(layer):  # nothing can be added to a layer that its constructor has built
            return copy_layer(layer, activation=unit)
        copy = copy_layer(layer)
        copy.activation = unit
        return copy

    def _unit(self, kind: type, cap: float, replaced: Any, **kwargs: Any) -> SoftUnit:
        start, end = (self.beta_start, self.beta_end) if self.unit == "pswish" else (0.0, 1.0)
        highest = None if cap == math.inf else cap
        fade = (start, end, self.curve, self.keep_signal)
        return kind(self.unit, highest, replaced, *fade, **kwargs)


def _described(layer: Any) -> dict[str, Any]:
    """The description of a layer, or of a function of ``keras.ops``, as its Keras writes it."""
    if is_layer(layer):
        return keras_of(layer).layers.serialize(layer)
    return keras3.saving.serialize_keras_object(layer)


def _made_from(unit: SoftUnit) -> Any:
    """The ReLU that a unit has replaced: a layer, or a function of ``keras.ops``."""
    if not is_keras3(unit):
        return keras.layers.deserialize(unit.replaced)
    made = keras3.saving.deserialize_keras_object(unit.replaced)
    rename(made, unit.name)  # the config of a function may lack the name
    return made


def _calls_changed(change: Callable[[Any], Any]) -> Connect:
    """A ``Connect`` that replaces the functions and layers of some calls.

    Args:
      change: function or layer of a call → the one to call instead; None for its copy.
    """
    made: dict[int, Any] = {}

    def other(node: Any) -> Any:
        called = layer_of(node)
        if id(called) not in made:
            made[id(called)] = change(called)
        return made[id(called)]

    def call(node: Any) -> Callable[..., Any]:
        return lambda run, tensor: called_again(node, other(node), tensor)

    def connect(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model | None:
        calls = {id(node): call(node) for node in calls_in(part) if other(node) is not None}
        return reconnected(part, copy_of, calls) if calls else None

    return connect


def _left(layer: keras.layers.Layer) -> str | None:
    """The class or activation of a layer without ReLU that may rectify; None if none may."""
    known = type(layer).__module__.startswith(("tf_keras.", "keras.", "lottery_tf."))
    function = function_of(layer) in _LEFT_FUNCTIONS
    if function or isinstance(layer, _LEFT) or not known:
        return type(layer).__name__
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    smooth = activation is None or name.removesuffix("_v2") in _SMOOTH
    return None if smooth else name


def _cap(unit: Any) -> float | None:
    """The largest value of a ReLU, given as a layer or a function; None if it is not a ReLU."""
    function = function_of(unit)
    if unit in _RELU or function in ("nn.relu", "Relu"):
        return math.inf
    if unit in _RELU6 or function in ("nn.relu6", "Relu6"):
        return 6.0
    is_relu = type(unit) in layer_classes("ReLU") or function == "ReLU"
    if is_relu and not unit.negative_slope and not unit.threshold:
        return math.inf if unit.max_value is None else float(unit.max_value)
    return None
