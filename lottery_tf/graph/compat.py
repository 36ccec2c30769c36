"""The one door to Keras: ``tf_keras``, the Keras that tensorflow-model-optimization works with, and
Keras 3, of which the functions here hand on to their namesakes in ``keras3``.

What has no public name in tf_keras, tfmot or TensorFlow stands here and nowhere else, behind plain
functions, and so does whatever replaces a method of theirs. A release that moves something fails in
the tests of this module first. Both Kerases live in one process; which one a thing is of is seen
from the thing.
"""

import contextlib
import functools
import os
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, ParamSpec, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2, tensor_bundle_pb2
from tensorflow.python.autograph.impl.api import autograph_artifact
from tensorflow.python.eager import context
from tensorflow.python.framework import kernels, ops
from tensorflow.python.saved_model import loader_impl
from tensorflow.python.util.tf_export import get_symbol_from_name

from lottery_tf.common.files import plain_path
from lottery_tf.graph import keras3
from lottery_tf.graph.absent import absent_keras
from lottery_tf.graph.keras3 import (
    PruningWrapper,
    attributes_set_by,
    chained,
    changing_variables,
    code_allowed,
    compiled,
    constrain_too,
    is_operation_of_keras,
    is_public_class,
    is_traced,
    mask_of,
    operation_like,
    read_in,
    with_gradients,
    words_of,
)

try:
    import tf_keras as keras
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
        PruneLowMagnitude,
    )
    from tf_keras.protobuf import saved_metadata_pb2
    from tf_keras.src import (
        activations,
        backend,
        constraints,
        initializers,
        losses,
        metrics,
        regularizers,
    )
    from tf_keras.src.engine.functional import Functional, has_functional_like_constructor
    from tf_keras.src.engine.keras_tensor import KerasTensor
    from tf_keras.src.layers import serialization
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda
    from tf_keras.src.layers.preprocessing.index_lookup import IndexLookup
    from tf_keras.src.mixed_precision import autocast_variable
except ImportError as error:
    keras = absent_keras(str(error))
    saved_metadata_pb2 = keras.protobuf
    activations, constraints, initializers = keras.src, keras.src, keras.src
    losses, metrics, regularizers, serialization, autocast_variable = (keras.src,) * 5
    PruneLowMagnitude, Functional, KerasTensor = keras.Pruned, keras.Functional, keras.KerasTensor
    TFOpLambda, IndexLookup = keras.TFOpLambda, keras.IndexLookup
    has_functional_like_constructor = keras.src
    backend = types.SimpleNamespace(_SEED_GENERATOR=None)

# What has no public name and is used as it is.
__all__ = [
    "SCHEDULES",
    "Functional",
    "PruneLowMagnitude",
    "PruningWrapper",
    "TFOpLambda",
    "Trackable",
    "chained",
    "changing_variables",
    "code_allowed",
    "compiled",
    "constrain_too",
    "fingerprint_pb2",
    "is_operation_of_keras",
    "is_public_class",
    "is_traced",
    "keras",
    "mask_of",
    "operation_like",
    "read_in",
    "saved_metadata_pb2",
    "saved_model_pb2",
    "tensor_bundle_pb2",
    "with_gradients",
    "words_of",
]

Trackable = tf.__internal__.tracking.Trackable
Layer: TypeAlias = keras.layers.Layer
Model: TypeAlias = keras.Model
Variable: TypeAlias = tf.Variable

SCHEDULES = (
    keras.optimizers.schedules.LearningRateSchedule,
    keras3.keras.optimizers.schedules.LearningRateSchedule,
)


class Callback(keras3.keras.callbacks.Callback, keras.callbacks.Callback):
    """A callback of both Kerases, whose callbacks have the same methods: which one the model is of
    is known when ``fit`` hands it over."""

    def __init__(self) -> None:
        super().__init__()  # that of Keras 3; what tf_keras' own would set:
        self.validation_data, self._chief_worker_only = None, None
        self._supports_tf_logs = False


_Taken = ParamSpec("_Taken")
_Given = TypeVar("_Given")


# The two Kerases


def is_keras3(thing: Any) -> bool:
    """Whether a model, layer, call, symbolic tensor, variable, optimizer, schedule, loss, metric or
    callback is one of Keras 3."""
    return isinstance(thing, keras3.KINDS)


def keras_of(thing: Any) -> ModuleType:
    """The Keras that a thing is of, as ``is_keras3`` tells it: its public module."""
    return keras3.keras if is_keras3(thing) else keras


# Name of a Keras → its public module; "keras" is Keras 3.
KERASES: dict[str, ModuleType] = {"tf_keras": keras, "keras": keras3.keras}


def both(*names: str) -> tuple[Any, ...]:
    """The layer classes of these names in tf_keras and in Keras 3, for ``isinstance``."""
    places = (keras.layers, keras3.keras.layers)
    return tuple(getattr(each, name) for each in places for name in names if hasattr(each, name))


def is_layer(thing: Any) -> bool:
    """Whether it is a layer; a call of a function of ``keras.ops`` is recorded as none."""
    return isinstance(thing, keras.layers.Layer | keras3.Layer)


def is_model(thing: Any) -> bool:
    """Whether it is a model of either Keras."""
    return isinstance(thing, keras.Model | keras3.Model)


def is_variable(thing: Any) -> bool:
    """Whether it is a variable of either Keras."""
    return isinstance(thing, tf.Variable | keras3.Variable)


def is_pruning_wrapper(thing: Any) -> bool:
    """Whether it is a layer that prunes the one in it, of tfmot's or ours."""
    return isinstance(thing, PruneLowMagnitude | keras3.PruningWrapper)


def _of_either(function: Callable[_Taken, _Given]) -> Callable[_Taken, _Given]:
    """Hands on to the namesake in ``keras3`` what is of Keras 3; a decorator."""
    theirs = getattr(keras3, function.__name__)

    @functools.wraps(function)
    def either(*args: _Taken.args, **kwargs: _Taken.kwargs) -> _Given:
        return (theirs if is_keras3(args[0]) else function)(*args, **kwargs)

    return either


def clear_sessions() -> None:
    """Has both Kerases forget the graphs and the names of layers that this process has made."""
    for each in (keras, keras3.keras):
        each.backend.clear_session()


def noise_by_variables() -> None:
    """Has the layers of tf_keras that are made from now on draw their noise by variables, as those
    of Keras 3 do, and not by kernels, whose place in their sequence nobody can read."""
    keras.backend.experimental.enable_tf_random_generator()


def on_tensorflow(model: Model) -> bool:
    """Whether a model computes by TensorFlow: of tf_keras, or of Keras 3 with that backend."""
    return not is_keras3(model) or keras3.keras.backend.backend() == "tensorflow"


def backend_of(model: Model) -> str:
    """The name of what a model computes by."""
    if on_tensorflow(model):
        return "TensorFlow"
    name = keras3.keras.backend.backend()
    return "JAX" if name == "jax" else name


def on_jax(model: Model) -> bool:
    """Whether a model computes by JAX."""
    return is_keras3(model) and keras3.keras.backend.backend() == "jax"


def scope_of(model: Model) -> contextlib.AbstractContextManager[Any]:
    """The scope in which what is made is for the devices that a model is on."""
    return model.distribute_strategy.scope() if on_tensorflow(model) else contextlib.nullcontext()


# Models and their layers


@_of_either
def is_graph_network(model: Model) -> bool:
    """Whether a model knows the calls of its layers: built, and Sequential or functional."""
    return model._is_graph_network


@_of_either
def input_layers(model: Model) -> list[Layer]:
    """The InputLayers of a model's inputs, in their order."""
    return list(model._input_layers)


@_of_either
def parts_of(layer: Layer) -> Iterator[Layer]:
    """A layer and the layers that it holds, in the order in which it got them."""
    return layer._flatten_layers()


@_of_either
def states_of_noise(layer: Layer) -> list[Variable]:
    """The variables by which a layer draws its noise, such as a Dropout's; not those of its
    parts."""
    generators = (getattr(each, "_generator", None) for each in vars(layer).values())
    return [each.state for each in generators if isinstance(each, tf.random.Generator)]


@_of_either
def listed_weights(layer: Layer) -> list[Variable]:
    """The variables of a layer alone as it made them; what is frozen changes nothing in it."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]


@_of_either
def last_name(variable: Variable, layer: Layer) -> str:
    """The name of a variable within the layer that holds it, the same in both Kerases."""
    return variable.name.rpartition("/")[2].partition(":")[0]


@_of_either
def made_trainable(layer: Layer) -> list[Variable]:
    """The variables that a layer has made to be trained, whether it is frozen or not."""
    return [each for each in layer.weights if isinstance(each, tf.Variable) and each.trainable]


@_of_either
def is_open(layer: Layer) -> bool:
    """Whether a layer, or a model, is not frozen itself, whatever holds it or is in it."""
    return layer._trainable


@_of_either
def set_open(layer: Layer, trainable: bool) -> None:
    """Freezes a layer or a model itself, or thaws it, and nothing that is in it."""
    layer._trainable = trainable


@_of_either
def open_as(copy: Layer, layer: Layer) -> None:
    """Freezes a layer, or not, as another is, in Keras 3 each of its variables."""
    set_open(copy, is_open(layer))


@_of_either
def held_variables(layer: Layer) -> dict[str, Variable]:
    """Name of an attribute of a layer → the variable that it is."""
    return {name: value for name, value in vars(layer).items() if isinstance(value, tf.Variable)}


@_of_either
def attributes_of(layer: Layer) -> dict[str, Any]:
    """What a layer holds, by name."""
    return vars(layer)


@_of_either
def is_kept_by_keras(layer: Layer, name: str) -> bool:
    """Whether an attribute of a layer is Keras' own account of what it holds."""
    return name in _kept_by_keras()


@functools.cache
def _kept_by_keras() -> frozenset[str]:
    inner = keras.layers.Layer()
    layer = keras.layers.Wrapper(inner)
    layer(tf.zeros((1, 1)))
    return frozenset(vars(layer)) - {"layer"}


@_of_either
def read_by(layer: Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which variables are read in the precision that a layer computes in."""
    return autocast_variable.enable_auto_cast_variables(layer._compute_dtype_object)


@_of_either
def functions_of(layer: Layer) -> set[FunctionType]:
    """The functions that a layer and the layers in it hold, such as activations."""
    parts = parts_of(layer)
    return {f for part in parts for f in vars(part).values() if isinstance(f, FunctionType)}


@_of_either
def rename(layer: Layer, name: str) -> None:
    """Gives a layer another name; its variables keep theirs."""
    layer._name = name


@_of_either
def set_by_keras(model: Model) -> frozenset[str]:
    """Names of the attributes that Keras itself sets on its models."""
    return attributes_set_by(keras)


@_of_either
def is_like_functional(model: Model) -> bool:
    """Whether a model's class is made of inputs and outputs, so that Keras can write it down."""
    return has_functional_like_constructor(type(model))


@_of_either
def plain_class_of(model: Model) -> type:
    """Keras' own class for the graph of a model."""
    return keras.Sequential if isinstance(model, keras.Sequential) else Functional


def has_state(thing: Any) -> bool:
    """Whether it is a variable of either Keras, or holds some, as layers and optimizers do."""
    kinds = (keras3.keras.Operation, keras3.keras.optimizers.Optimizer, keras3.keras.metrics.Metric)
    return isinstance(thing, (Trackable, keras3.Variable, *kinds))


@_of_either
def vocabulary_of(layer: Layer) -> dict[str, Any]:
    """The config of what ``adapt`` has found for a lookup or TextVectorization, which their own
    config lacks."""
    return words_of(layer, IndexLookup)


@_of_either
def made_from(layer: Layer, config: Mapping[str, Any]) -> Layer:
    """A new layer of the class of ``layer``.

    Args:
      layer: the layer that the configuration is of; a copy may have its functions.
      config: as from ``get_config``.
    """
    return type(layer).from_config(config)


@_of_either
def set_value(variable: Variable, value: Any) -> None:
    """Gives a variable the value of another one, or of an array, in its own dtype."""
    variable.assign(tf.cast(value, variable.dtype))


@_of_either
def tf_variable(variable: Variable) -> tf.Variable:
    """The variable of TensorFlow that holds the value of a layer's: what a GradientTape watches."""
    return variable


@_of_either
def build_parts(layer: Layer, other: Layer) -> None:
    """Builds those layers in a layer that its own call has not built, as they are in ``other``.

    In Keras 3 a layer is built without being called, and what is within it, such as a PReLU for an
    activation, has no variables before it is.
    """


@_of_either
def is_adapted(layer: Layer) -> bool:
    """Whether what a layer holds comes from ``adapt``, not from training."""
    return isinstance(layer, keras.layers.experimental.preprocessing.PreprocessingLayer)


@_of_either
def takes(layer: Layer) -> dict[str, bool]:
    """Whether a layer's call takes ``training`` and ``mask``."""
    spec = layer._call_spec
    return {"training": spec.expects_training_arg, "mask": spec.expects_mask_arg}


def unconverted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Has AutoGraph take the call of a layer or loss of ours as it is; a decorator.

    It has no branch on a tensor, and converting it takes longer than running it. What it calls of
    the user's own is converted as ever, which it would not be under TensorFlow's do_not_convert.
    """
    return autograph_artifact(call)


def take_input_shape(layer: Layer, other: Layer) -> None:
    """Gives a layer the input shape of ``other``, if that begins a Sequential and it has none."""
    if not hasattr(layer, "_batch_input_shape") and hasattr(other, "_batch_input_shape"):
        layer._batch_input_shape = other._batch_input_shape


@_of_either
def unfuse(layer: Layer) -> None:
    """Has the recurrent layers in a layer compute step by step, not by cuDNN, which has no second
    derivative."""
    for part in parts_of(layer):
        if hasattr(part, "_could_use_gpu_kernel"):
            part._could_use_gpu_kernel = False


@_of_either
def take_as_given(layer: Layer) -> None:
    """Has a layer take inputs in whatever precision they come."""
    layer._autocast = False


def take_call_of(layer: Layer, other: Layer) -> None:
    """Has Keras call a layer with the arguments, by place and by name, that ``other`` takes."""
    layer._call_spec = other._call_spec


def by_name(layer: Layer, args: tuple[Any, ...]) -> dict[str, Any]:
    """What a layer's call takes behind its first argument, by name: some layers, the recurrent
    ones, take it no other way."""
    return dict(zip(layer._call_spec.arg_names[1:], args, strict=False))


def build_projections(layer: Layer) -> None:
    """Makes the kernels of an attention layer that knows what it will be called with.

    Keras makes them when it is called, which is too late for what is loaded from a SavedModel.
    """
    if isinstance(layer, keras.layers.MultiHeadAttention) and layer._built_from_signature:
        heads = layer._num_heads, layer._value_dim
        for part, shape in (
            (layer._query_dense, layer._query_shape),
            (layer._key_dense, layer._key_shape),
            (layer._value_dense, layer._value_shape),
            (layer._output_dense, [*layer._query_shape[:-1], *heads]),
        ):
            if not part.built:
                with keras.backend.name_scope(part.name):
                    part.build(tf.TensorShape(shape))


@_of_either
def regularize_instead(layer: Layer, kernel: Variable, seen: Callable[[], tf.Tensor]) -> None:
    """Has the regularizers of one of a layer's variables see ``seen()`` in its place."""
    for place, tagged in enumerate(layer._callable_losses):
        # Keras keeps partial(tag, partial(regularize, variable)).
        inner = tagged.args[0]
        if any(each is kernel for each in getattr(inner, "args", ())):
            layer._callable_losses[place] = functools.partial(
                tagged.func, lambda regularize=inner.func: regularize(seen())
            )


@_of_either
@contextlib.contextmanager
def in_place_of(layer: Layer, tensors: Mapping[str, tf.Tensor]) -> Iterator[None]:
    """Within the block the layer has tensors in the place of variables, by attribute.

    It goes past Keras' own ``__setattr__``, which would drop a variable from the layer's weights.
    """
    own = {attribute: vars(layer)[attribute] for attribute in tensors}
    try:
        vars(layer).update(tensors)
        yield
    finally:
        vars(layer).update(own)


@_of_either
def moments_by(layer: Layer, moments: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    """Has a BatchNormalization compute the mean and variance of a batch by a function.

    Args:
      layer: it computes as Keras has it where there is a mask.
      moments: ``(inputs, axes, keep_dims)`` → mean, variance.
    """
    theirs = layer._no_sync_calculate_mean_and_var

    def batch_moments(
        inputs: tf.Tensor, axes: Any, keep_dims: bool, mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if mask is not None:
            return theirs(inputs, axes, keep_dims, mask)
        return moments(inputs, axes, keep_dims)

    layer._no_sync_calculate_mean_and_var = batch_moments


# The calls of layers


@_of_either
def calls_in(model: Model) -> Iterator[Any]:
    """Keras' nodes of one model in the order of computation, without the inputs'."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


@_of_either
def has_losses(model: Model) -> bool:
    """Whether there is an ``add_loss`` or ``add_metric`` on tensors of the model."""
    return min(model._nodes_by_depth) < 0


@_of_either
def added_losses(model: Model) -> list[Any]:
    """What the latest call of a model has added by ``add_loss`` and activity regularizers."""
    found = (loss for layer in model._flatten_layers() for loss in layer._eager_losses)
    return [loss for loss in found if not isinstance(loss, str)]  # of one from a SavedModel


@_of_either
def layer_of(node: Any) -> Layer:
    """The layer that is called."""
    return node.layer


@_of_either
def function_of(layer: Any) -> str | None:
    """The name of the function that is called where the call is none of a layer: ``x + y``."""
    return getattr(layer, "symbol", None)


@_of_either
def inputs_of(node: Any) -> list[Any]:
    """The symbolic tensors that a call takes, in whatever structure."""
    return tf.nest.flatten(node.keras_inputs)


@_of_either
def outputs_of(node: Any) -> list[Any]:
    """The symbolic tensors that a call makes, in whatever structure."""
    return tf.nest.flatten(node.outputs)


@_of_either
def arguments_of(node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a call was made with, by place and by name: symbolic tensors and whatever else."""
    return node.call_args, node.call_kwargs


@_of_either
def called_again(node: Any, layer: Callable[..., Any], new: Callable[[Any], Any]) -> Any:
    """Calls a layer, or a function, as ``node`` called its layer.

    Args:
      node: Keras' record of a call.
      layer: what is called.
      new: symbolic tensor that the call took → the tensor in its place.
    """
    args, kwargs = node.map_arguments({str(id(old)): _Held(new(old)) for old in inputs_of(node)})
    return layer(*args, **kwargs)


class _Held(list[Any]):
    """A tensor, in the form in which a node asks for its inputs: however often it pops."""

    def __init__(self, tensor: Any):
        super().__init__([tensor])

    def pop(self, index: SupportsIndex = -1, /) -> Any:
        return self[0]


@_of_either
def given_to(node: Any) -> list[Variable]:
    """The variables among the arguments of a call."""
    arguments = tf.nest.flatten((node.call_args, node.call_kwargs))
    return [each for each in arguments if isinstance(each, tf.Variable)]


@_of_either
def input_like(layer: Layer, **config: Any) -> Any:
    """The symbolic tensor of a new InputLayer with the configuration of another, but ``config``."""
    return keras.layers.InputLayer(**{**layer.get_config(), **config}).output


@_of_either
def ends_of(model: Model) -> tuple[Any, Any]:
    """The symbolic inputs and outputs of a model, each in the structure that it was made with."""
    return model.input, model.output


@_of_either
def packed(model: Model, flat: Sequence[Any]) -> Any:
    """What ``model.inputs`` stand for, in the structure in which the model is called."""
    return tf.nest.pack_sequence_as(model.input, list(flat))


@_of_either
def flattened(model: Model, outputs: Any) -> list[Any]:
    """What a call of the model gives, in the order of its outputs."""
    return tf.nest.flatten(outputs)


@_of_either
def output_names(model: Model) -> list[str]:
    """The names of a model's outputs, by which losses and labels may be given, in their order."""
    return list(model.output_names)


@_of_either
def connected(model: Model, ends: tuple[Any, Any]) -> Model:
    """A functional model of symbolic inputs and outputs, called as ``model`` is."""
    return keras.Model(*ends, name=model.name)


@_of_either
def sequence_of(model: Model, layers: Sequence[Layer]) -> Model:
    """A Sequential of those layers, the first an InputLayer or its tensor, named as ``model``."""
    return keras.Sequential(layers, name=model.name)


@_of_either
def spec_of(tensor: Any) -> Any:
    """The TensorSpec, or another TypeSpec, of a symbolic tensor."""
    return tensor.type_spec


@_of_either
def producer_of(tensor: Any) -> Layer:
    """The layer whose call makes a symbolic tensor."""
    return tensor._keras_history.layer


@_of_either
def call_of(tensor: Any) -> Any:
    """Keras' node of the call that makes a symbolic tensor."""
    layer, number, _ = tensor._keras_history
    return layer._inbound_nodes[number]


# Layers whose call does nothing but compute: it makes no variable, and sets nothing on the layer.
_ONLY_COMPUTE = frozenset(
    getattr(keras.layers, name)
    for name in (
        *("Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv1D"),
        *("Conv2D", "Conv2DTranspose", "Conv3D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "LeakyReLU"),
        *("LayerNormalization", "MaxPooling1D", "MaxPooling2D", "Multiply", "PReLU", "ReLU"),
        *("Reshape", "SeparableConv2D", "Softmax", "ZeroPadding2D"),
    )
)


@_of_either
def only_computes(layer: Layer) -> bool:
    """Whether a call of the layer is known to change nothing in it, once it is built.

    Others of which it is not known may be such layers too.
    """
    if type(layer) not in _ONLY_COMPUTE or "call" in vars(layer):
        return False
    # A layer may stand in the place of an activation.
    return not (layer.dynamic or layer._activity_regularizer or len(list(parts_of(layer))) > 1)


@contextlib.contextmanager
def called_as(layer: Layer, other: Layer) -> Iterator[None]:
    """Within the block, calls of a layer as those of ``other`` have symbolic outputs like theirs.

    That is much faster than Keras' own way to find these out: it runs the layer's code in a graph
    that it throws away. The layer is built as there. Calls that ``other`` has not had, by shapes
    and dtypes, and calls with masks go Keras' own way.

    Args:
      layer: a new layer, which ``only_computes`` or whose parts do.
      other: a layer of the same configuration, but for what leaves shapes and dtypes alone.
    """
    theirs = layer._infer_output_signature

    def infer(inputs: Any, args: Any, kwargs: dict[str, Any], input_masks: Any) -> Any:
        given, masks = map(tf.nest.flatten, (inputs, (input_masks, kwargs.get("mask"))))
        simple = not args and kwargs.keys() <= {"training", "mask"}
        unmasked = all(each is None for each in masks)
        uncast = all(each.dtype == layer.compute_dtype for each in given)
        outputs = _known_outputs(other, given) if simple and unmasked and uncast else None
        if outputs is None:
            return theirs(inputs, args, kwargs, input_masks)
        with (
            tf.__internal__.FuncGraph("scratch_graph").as_default(),
            keras.backend.name_scope(layer._name_scope()),
        ):
            layer._maybe_build(inputs)
        layer._set_save_spec(inputs, args, kwargs)
        unnamed = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), inputs)
        for part in parts_of(layer):
            part._called = True
            part._set_save_spec(unnamed, (), {})
        return outputs

    vars(layer)["_infer_output_signature"] = infer
    try:
        yield
    finally:
        del vars(layer)["_infer_output_signature"]


def _known_outputs(layer: Layer, given: list[Any]) -> Any:
    """New tensors like the outputs of a layer's call with such inputs; None if there was none."""
    for node in layer._inbound_nodes:
        args, kwargs, outputs = node.call_args, node.call_kwargs, tf.nest.flatten(node.outputs)
        if len(args) != 1 or kwargs.keys() - {"training"}:
            continue
        before = tf.nest.flatten(args[0])
        plain = all(type(each) is KerasTensor for each in (*given, *before, *outputs))
        if (
            plain
            and [each.type_spec for each in given] == [each.type_spec for each in before]
            and not any(getattr(each, "_keras_mask", None) is not None for each in outputs)
        ):
            return tf.nest.map_structure(_like, node.outputs)
    return None


def _like(tensor: Any) -> Any:
    return KerasTensor(tensor.type_spec, tensor._inferred_value, tensor._name)


# Optimizers and training

# Where an optimizer, of either Keras, keeps its learning rate, and what of it is no memory:
# TensorFlow's own accounts of what is tracked, devices, and the rate of a schedule, which each step
# computes anew.
_RATE = "_learning_rate"
_NO_MEMORY = ("_self_", "_coalesced_", "_distribution_strategy", "_mesh", "_current_learning_rate")
_OF_WEIGHTS = "_index_dict"
_LISTS = ("_variables", _OF_WEIGHTS, "_trainable_variables", "_trainable_variables_indices")


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate as it was given: a schedule, or the variable that Keras has made of it."""
    return vars(optimizer).get(_RATE)


@contextlib.contextmanager
def rate_replaced(optimizer: keras.optimizers.Optimizer, rate: Any) -> Iterator[None]:
    """Within the block the optimizer has another learning rate, of any type."""
    own = vars(optimizer)[_RATE]
    vars(optimizer)[_RATE] = rate
    try:
        yield
    finally:
        vars(optimizer)[_RATE] = own


@_of_either
def undecayed(optimizer: keras.optimizers.Optimizer) -> tuple[bool, list[str]]:
    """Whether variables, and by which names some, are excluded from weight decay."""
    names = getattr(optimizer, "_exclude_from_weight_decay_names", None)
    return bool(getattr(optimizer, "_exclude_from_weight_decay", None)), list(names or ())


@_of_either
def weights_known_to(optimizer: keras.optimizers.Optimizer) -> dict[Any, int]:
    """Key → place of each weight that a built optimizer trains; empty where it is not built."""
    return dict(getattr(optimizer, _OF_WEIGHTS, None) or {})


def place_of(optimizer: keras.optimizers.Optimizer, weight: Variable) -> int | None:
    """The place of a weight among those that the optimizer trains; None if it does not."""
    known = weights_known_to(optimizer)
    return known.get(optimizer._var_key(weight)) if known else None


def is_rate(path: str) -> bool:
    """Whether an attribute of an optimizer, or what it holds, is the learning rate."""
    return path.partition("/")[0] == _RATE


def is_no_memory(name: str) -> bool:
    """Whether an attribute of an optimizer remembers nothing from one step to the next."""
    return name.startswith(_NO_MEMORY)


def is_of_keras(path: str) -> bool:
    """Whether an attribute of an optimizer is Keras' own list of all variables, or of the weights,
    or account of which weight is at which place."""
    return path in _LISTS


def build_for(optimizer: Any, weights: Sequence[Variable]) -> None:
    """Makes the variables that an optimizer, a legacy one too, needs to train ``weights``."""
    build = getattr(optimizer, "build", None) or optimizer._create_all_weights
    build(list(weights))


def steps_per_execution(model: Model) -> Variable:
    """How many steps a call of a compiled model's training function runs. int64 []."""
    return model._steps_per_execution


def count_steps(model: Model, steps: tf.Tensor) -> None:
    """Adds to the steps that a model has trained, as its training function has to."""
    model._train_counter.assign_add(tf.cast(steps, tf.int64))


def train_by(model: Model, function: Callable[[Any], Any]) -> None:
    """Has ``fit`` call ``function(iterator)`` for an execution, until the model is compiled."""
    model.train_function = function


@_of_either
def steps_counted(optimizer: keras.optimizers.Optimizer) -> int:
    """How many steps an optimizer has been called for, also where it adds gradients up first."""
    return int(optimizer.iterations.numpy())


@contextlib.contextmanager
def without_averages(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within the block Keras does not put averages of the weights in their place as a fit ends."""
    vars(optimizer)["finalize_variable_values"] = lambda variables: None
    try:
        yield
    finally:
        del vars(optimizer)["finalize_variable_values"]


@_of_either
def inner_variable(variable: Variable) -> Variable | None:
    """The variable in full precision of one that casts what is read."""
    inner = vars(variable).get("_variable")
    return inner if isinstance(inner, tf.Variable) else None


def xla_types(operation: str, device: str) -> dict[str, set[int]] | None:
    """For which types XLA can compile an operation of TensorFlow; None if it cannot at all.

    Args:
      operation: its name, ``MatMul``.
      device: "CPU" or "GPU".

    Returns:
      name of an attribute → the numbers of those types that it may be; one that is not named may
      be any.
    """
    _register_xla()
    found: dict[str, set[int]] | None = None
    for kernel in kernels.get_registered_kernels_for_op(operation).kernel:
        if kernel.device_type == f"XLA_{device}_JIT":
            limits = {each.name: set(each.allowed_values.list.type) for each in kernel.constraint}
            known = found or {}
            found = {
                name: known.get(name, set()) | types
                for name, types in limits.items()
                if found is None or name in known
            }
    return found


@functools.cache
def _register_xla() -> None:
    """TensorFlow registers what XLA compiles when it compiles something for the first time."""
    tf.function(lambda: tf.constant(0), jit_compile=True)()


def differentiate_by(operation: str, gradient: Callable[..., Any]) -> None:
    """Has TensorFlow, in this process, differentiate an operation by a function, instead of in its
    own way if it has one.

    Args:
      operation: its type.
      gradient: as for ``tf.RegisterGradient``.
    """
    ops.gradient_registry._registry.pop(operation, None)
    tf.RegisterGradient(operation)(gradient)


def add_gradients_in_order() -> None:
    """Has TensorFlow add several gradients in one order, in this process.

    Where a step is thought to take over 80 % of the memory (a CPU is said to have 256 MiB),
    Grappler's memory optimizer adds what comes first. Of what it does the level set here leaves the
    rest, swapping; no public function sets it.
    """
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.memory_optimization = options.SWAPPING_HEURISTICS
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})  # drops what was made of the config before


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """What is drawn within the block changes no random number behind it.

    Copying a layer draws initial values that nobody wants. Python's, NumPy's, Keras' and
    TensorFlow's eager numbers go on as if they had not been drawn.
    """
    eager = context.context()
    keras_own = getattr(backend._SEED_GENERATOR, "generator", None)
    states = random.getstate(), np.random.get_state(), keras_own and keras_own.getstate()
    seeded = hasattr(eager, "_rng")
    seeds = eager._rng.getstate() if seeded else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if keras_own:
            keras_own.setstate(states[2])
        if seeded and eager._rng.getstate() != seeds:
            # With the kernels: one of the same seed would go on where it was.
            eager._set_global_seed(eager._seed)
            eager._rng.setstate(seeds)


# Files


def symbol(name: str) -> Any:
    """What ``tensorflow`` exports as ``name``, such as ``keras.layers.Dense``; None for nothing."""
    return get_symbol_from_name(name)


def read_saved_model(folder: str | os.PathLike[str]) -> Any:
    """The protocol buffer of a SavedModel's folder."""
    with plain_path(folder) as place:
        return loader_impl.parse_saved_model(os.fspath(place))


def is_metric(name: Any) -> bool:
    """Whether Keras has a metric of that class name."""
    found = getattr(metrics, str(name), None)
    return isinstance(found, type) and issubclass(found, keras.metrics.Metric)


def is_found_by_name(name: str) -> bool:
    """Whether Keras, asked to make an object of that name, finds one in its own modules."""
    serialization.populate_deserializable_objects()
    places = (activations, constraints, initializers, losses, metrics, regularizers)
    return name in serialization.LOCAL.ALL_OBJECTS or any(hasattr(each, name) for each in places)


@contextlib.contextmanager
def saved_with(model: Model, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Within the block a SavedModel of ``model`` has these attributes too.

    Keras adds them in the same place, if it saves traces; there is no public one.
    """
    own = model._trackable_children

    def children(save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        added = attributes if save_type == "savedmodel" else {}
        return {**own(save_type, **kwargs), **added}

    vars(model)["_trackable_children"] = children
    try:
        yield
    finally:
        del vars(model)["_trackable_children"]
