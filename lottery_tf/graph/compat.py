"""The one door to Keras: ``tf_keras``, which tensorflow-model-optimization works with, and Keras 3.

For an object of Keras 3 the functions here call their namesakes in ``keras3``.

Whatever has no public name in tf_keras, tfmot or TensorFlow is used here and nowhere else, behind
plain functions. The same holds for code that replaces a method of theirs. If a release moves
something, the tests of this module fail first. Both Kerases live in one process; an object itself
tells which one it belongs to.
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

# What other modules take from here as it is.
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
    """A callback of both Kerases, which have the same methods. Which Keras the model is of is known
    only when ``fit`` passes it."""

    def __init__(self) -> None:
        super().__init__()  # Keras 3's; below is what tf_keras' would set
        self.validation_data, self._chief_worker_only = None, None
        self._supports_tf_logs = False


_Taken = ParamSpec("_Taken")
_Given = TypeVar("_Given")


# The two Kerases


def is_keras3(thing: Any) -> bool:
    """Whether an object is of Keras 3: a model, layer, call, symbolic tensor, variable, optimizer,
    schedule, loss, metric or callback."""
    return isinstance(thing, keras3.KINDS)


def keras_of(thing: Any) -> ModuleType:
    """The public module of an object's Keras, by ``is_keras3``."""
    return keras3.keras if is_keras3(thing) else keras


# Name of a Keras → its public module; "keras" is Keras 3.
KERASES: dict[str, ModuleType] = {"tf_keras": keras, "keras": keras3.keras}


def layer_classes(*names: str) -> tuple[Any, ...]:
    """The layer classes of these names in tf_keras and in Keras 3, for ``isinstance``."""
    places = (keras.layers, keras3.keras.layers)
    return tuple(getattr(each, name) for each in places for name in names if hasattr(each, name))


def is_layer(thing: Any) -> bool:
    """Whether it is a layer. The recorded call of a function of ``keras.ops`` is not one."""
    return isinstance(thing, keras.layers.Layer | keras3.Layer)


def is_model(thing: Any) -> bool:
    """Whether it is a model of either Keras."""
    return isinstance(thing, keras.Model | keras3.Model)


def is_variable(thing: Any) -> bool:
    """Whether it is a variable of either Keras."""
    return isinstance(thing, tf.Variable | keras3.Variable)


def is_pruning_wrapper(thing: Any) -> bool:
    """Whether it is a layer that prunes the layer inside, tfmot's or ours."""
    return isinstance(thing, PruneLowMagnitude | keras3.PruningWrapper)


def _of_either(function: Callable[_Taken, _Given]) -> Callable[_Taken, _Given]:
    """A decorator that calls the namesake in ``keras3`` if the first argument is of Keras 3."""
    theirs = getattr(keras3, function.__name__)

    @functools.wraps(function)
    def either(*args: _Taken.args, **kwargs: _Taken.kwargs) -> _Given:
        first = next(iter((*args, *kwargs.values())))
        return (theirs if is_keras3(first) else function)(*args, **kwargs)

    return either


def clear_sessions() -> None:
    """Makes both Kerases forget the graphs and the layers' names of this process."""
    for each in (keras, keras3.keras):
        each.backend.clear_session()


def noise_by_variables() -> None:
    """Makes layers of tf_keras that are created from now on draw their noise with variables.

    Layers of Keras 3 do so anyway. The place of a kernel in its random sequence cannot be read."""
    keras.backend.experimental.enable_tf_random_generator()


def on_tensorflow(model: Model) -> bool:
    """Whether a model runs on TensorFlow: one of tf_keras, or of Keras 3 with that backend."""
    return not is_keras3(model) or keras3.keras.backend.backend() == "tensorflow"


def backend_of(model: Model) -> str:
    """The name of a model's backend."""
    if on_tensorflow(model):
        return "TensorFlow"
    name = keras3.keras.backend.backend()
    return "JAX" if name == "jax" else name


def on_jax(model: Model) -> bool:
    """Whether a model runs on JAX."""
    return is_keras3(model) and keras3.keras.backend.backend() == "jax"


def scope_of(model: Model) -> contextlib.AbstractContextManager[Any]:
    """The scope in which objects are made for the devices of a model."""
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
    """A layer and the layers that it holds, in the order in which they were added."""
    return layer._flatten_layers()


@_of_either
def states_of_noise(layer: Layer) -> list[Variable]:
    """The variables with which a layer draws its noise, such as a Dropout's, without its parts'."""
    generators = (getattr(each, "_generator", None) for each in vars(layer).values())
    return [each.state for each in generators if isinstance(each, tf.random.Generator)]


@_of_either
def listed_weights(layer: Layer) -> list[Variable]:
    """The variables of a layer without its parts'; those made as trainable first, frozen or not."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]


@_of_either
def last_name(variable: Variable, layer: Layer) -> str:
    """The name of a variable within the layer that holds it, the same in both Kerases."""
    return variable.name.rpartition("/")[2].partition(":")[0]


@_of_either
def made_trainable(layer: Layer) -> list[Variable]:
    """The variables that a layer has made as trainable, whether it is frozen or not."""
    return [each for each in layer.weights if isinstance(each, tf.Variable) and each.trainable]


@_of_either
def is_trainable(layer: Layer) -> bool:
    """Whether a layer or model is not frozen itself, whatever holds it or is in it."""
    return layer._trainable


@_of_either
def set_trainable(layer: Layer, trainable: bool) -> None:
    """Freezes or thaws a layer or model itself, and nothing inside of it."""
    layer._trainable = trainable


@_of_either
def copy_trainable(copy: Layer, layer: Layer) -> None:
    """Freezes or thaws a layer as ``layer`` is; in Keras 3 each of its variables."""
    set_trainable(copy, is_trainable(layer))


@_of_either
def held_variables(layer: Layer) -> dict[str, Variable]:
    """Name → variable for the attributes of a layer that are variables."""
    return {name: value for name, value in vars(layer).items() if isinstance(value, tf.Variable)}


@_of_either
def attributes_of(layer: Layer) -> dict[str, Any]:
    """Name → value of all attributes of a layer."""
    return vars(layer)


@_of_either
def is_kept_by_keras(layer: Layer, name: str) -> bool:
    """Whether an attribute of a layer is one with which Keras tracks what the layer holds."""
    return name in _kept_by_keras()


@functools.cache
def _kept_by_keras() -> frozenset[str]:
    inner = keras.layers.Layer()
    layer = keras.layers.Wrapper(inner)
    layer(tf.zeros((1, 1)))
    return frozenset(vars(layer)) - {"layer"}


@_of_either
def autocast_of(layer: Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which variables are read in a layer's compute dtype."""
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
    """Whether a model's class is constructed from inputs and outputs, so that Keras can save it."""
    return has_functional_like_constructor(type(model))


@_of_either
def plain_class_of(model: Model) -> type:
    """Keras' own class for a model's kind of graph."""
    return keras.Sequential if isinstance(model, keras.Sequential) else Functional


def has_state(thing: Any) -> bool:
    """Whether it is a variable of either Keras, or holds some, as layers and optimizers do."""
    kinds = (keras3.keras.Operation, keras3.keras.optimizers.Optimizer, keras3.keras.metrics.Metric)
    return isinstance(thing, (Trackable, keras3.Variable, *kinds))


@_of_either
def vocabulary_of(layer: Layer) -> dict[str, Any]:
    """The config of what ``adapt`` has found for a lookup or TextVectorization.

    The layer's own config lacks it."""
    return words_of(layer, IndexLookup)


@_of_either
def made_from(layer: Layer, config: Mapping[str, Any]) -> Layer:
    """A new layer of the class of ``layer``.

    Args:
      layer: the layer to copy; a copy may use its functions.
      config: as from its ``get_config``.
    """
    return type(layer).from_config(config)


@_of_either
def set_value(variable: Variable, value: Any) -> None:
    """Gives a variable the value of another one, or of an array, in its own dtype."""
    variable.assign(tf.cast(value, variable.dtype))


@_of_either
def tf_variable(variable: Variable) -> tf.Variable:
    """The variable of TensorFlow that holds a layer's variable, for a GradientTape to watch."""
    return variable


@_of_either
def build_parts(layer: Layer, other: Layer) -> None:
    """Builds the parts of a layer that its own build has left out, as they are in ``other``.

    Keras 3 builds a layer without a call. A part, such as a PReLU as its activation, has no
    variables before it is called.
    """


@_of_either
def is_adapted(layer: Layer) -> bool:
    """Whether a layer's variables come from ``adapt``, not from training."""
    return isinstance(layer, keras.layers.experimental.preprocessing.PreprocessingLayer)


@_of_either
def takes(layer: Layer) -> dict[str, bool]:
    """Whether a layer's call takes ``training`` and ``mask``, by their names."""
    spec = layer._call_spec
    return {"training": spec.expects_training_arg, "mask": spec.expects_mask_arg}


def unconverted(call: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that stops AutoGraph from converting the call of a layer or loss of ours.

    Such a call has no branch on a tensor, and converting it takes longer than running it. User's
    code that it calls is still converted, unlike with TensorFlow's do_not_convert.
    """
    return autograph_artifact(call)


def take_input_shape(layer: Layer, other: Layer) -> None:
    """Gives a layer without an input shape that of ``other``, if ``other`` begins a Sequential."""
    if not hasattr(layer, "_batch_input_shape") and hasattr(other, "_batch_input_shape"):
        layer._batch_input_shape = other._batch_input_shape


@_of_either
def unfuse(layer: Layer) -> None:
    """Makes the recurrent layers in a layer compute step by step.

    cuDNN's implementation has no second derivative."""
    for part in parts_of(layer):
        if hasattr(part, "_could_use_gpu_kernel"):
            part._could_use_gpu_kernel = False


@_of_either
def take_as_given(layer: Layer) -> None:
    """Makes a layer take inputs of any precision without a cast."""
    layer._autocast = False


def take_call_of(layer: Layer, other: Layer) -> None:
    """Makes Keras call a layer with the arguments that ``other`` takes, by place and by name."""
    layer._call_spec = other._call_spec


def by_name(layer: Layer, args: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of a layer's call behind the first, by name.

    Some layers, such as recurrent ones, take them only by name."""
    return dict(zip(layer._call_spec.arg_names[1:], args, strict=False))


def build_projections(layer: Layer) -> None:
    """Makes the kernels of an attention layer that knows the shapes of its inputs.

    Keras makes them in the first call, which is too late for a layer from a SavedModel.
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
    """Makes the regularizers of one of a layer's variables see ``seen()`` instead of it."""
    for place, tagged in enumerate(layer._callable_losses):
        # Keras holds it as partial(tag, partial(regularize, variable)).
        inner = tagged.args[0]
        if any(each is kernel for each in getattr(inner, "args", ())):
            layer._callable_losses[place] = functools.partial(
                tagged.func, lambda regularize=inner.func: regularize(seen())
            )


@_of_either
@contextlib.contextmanager
def in_place_of(layer: Layer, tensors: Mapping[str, tf.Tensor]) -> Iterator[None]:
    """Within the block the layer has tensors instead of variables, by attribute.

    It bypasses Keras' own ``__setattr__``, which would drop a variable from the layer's weights.
    """
    own = {attribute: vars(layer)[attribute] for attribute in tensors}
    try:
        vars(layer).update(tensors)
        yield
    finally:
        vars(layer).update(own)


@_of_either
def moments_by(layer: Layer, moments: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    """Makes a BatchNormalization compute the mean and variance of a batch by a function.

    Args:
      layer: the layer. Where there is a mask it still computes as in Keras.
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
    """Keras' nodes of one model in the order of computation, without those of inputs."""
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
    return [loss for loss in found if not isinstance(loss, str)]  # str: from a SavedModel


@_of_either
def layer_of(node: Any) -> Layer:
    """The layer that is called."""
    return node.layer


@_of_either
def function_of(layer: Any) -> str | None:
    """The name of the function of a call that calls no layer, such as ``x + y``; else None."""
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
    """The arguments of a call, by place and by name: symbolic tensors and anything else."""
    return node.call_args, node.call_kwargs


@_of_either
def called_again(node: Any, layer: Callable[..., Any], new: Callable[[Any], Any]) -> Any:
    """Calls a layer, or a function, as ``node`` called its layer.

    Args:
      node: Keras' record of a call.
      layer: what is called.
      new: symbolic tensor of that call → the new tensor.
    """
    args, kwargs = node.map_arguments({str(id(old)): _Held(new(old)) for old in inputs_of(node)})
    return layer(*args, **kwargs)


class _Held(list[Any]):
    """A list that returns the same tensor at each pop; a node pops its inputs from it."""

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
    """The symbolic tensor of a new InputLayer with another's config, changed by ``config``."""
    return keras.layers.InputLayer(**{**layer.get_config(), **config}).output


@_of_either
def ends_of(model: Model) -> tuple[Any, Any]:
    """The symbolic inputs and outputs of a model, in the structures that it was made with."""
    return model.input, model.output


@_of_either
def packed(model: Model, flat: Sequence[Any]) -> Any:
    """``flat``, one for each of ``model.inputs``, in the structure in which the model is called."""
    return tf.nest.pack_sequence_as(model.input, list(flat))


@_of_either
def flattened(model: Model, outputs: Any) -> list[Any]:
    """The results of a call of the model, in the order of ``model.outputs``."""
    return tf.nest.flatten(outputs)


@_of_either
def output_names(model: Model) -> list[str]:
    """The names of a model's outputs in their order; losses and labels may be given by them."""
    return list(model.output_names)


@_of_either
def connected(model: Model, ends: tuple[Any, Any]) -> Model:
    """A functional model of symbolic inputs and outputs, with the name of ``model``."""
    return keras.Model(*ends, name=model.name)


@_of_either
def sequence_of(model: Model, layers: Sequence[Layer]) -> Model:
    """A Sequential of those layers, first an InputLayer or its tensor; named as ``model``."""
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


# Layers with a call that only computes: it makes no variable, and sets nothing on the layer.
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
    """Whether a call of the layer, once it is built, is known to change nothing in it.

    False only says that it is not known.
    """
    if type(layer) not in _ONLY_COMPUTE or "call" in vars(layer):
        return False
    # The activation may be a layer itself.
    return not (layer.dynamic or layer._activity_regularizer or len(list(parts_of(layer))) > 1)


@contextlib.contextmanager
def called_as(layer: Layer, other: Layer) -> Iterator[None]:
    """Within the block, a call of a layer takes its symbolic outputs from calls of ``other``.

    That is much faster than Keras' own way, which runs the layer's code in a graph and throws the
    graph away. The layer is built as Keras would. Keras' own way is taken for calls with masks,
    and for calls with shapes and dtypes that ``other`` was never called with.

    Args:
      layer: a new layer which ``only_computes``, or has parts that do.
      other: a layer of the same configuration, as far as it matters for shapes and dtypes.
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
    """New tensors like the outputs of an earlier call with such inputs; None if there is none."""
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

# The attribute in which an optimizer of either Keras holds its learning rate. Below are attributes
# that are no memory: TensorFlow's tracking, devices, and the rate of a schedule, which each step
# computes anew.
_RATE = "_learning_rate"
_NO_MEMORY = ("_self_", "_coalesced_", "_distribution_strategy", "_mesh", "_current_learning_rate")
_OF_WEIGHTS = "_index_dict"
_LISTS = ("_variables", _OF_WEIGHTS, "_trainable_variables", "_trainable_variables_indices")


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate: a schedule as it was given, or the variable that Keras has made of it."""
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
    """Whether any variables are excluded from weight decay, and the names that exclude some."""
    names = getattr(optimizer, "_exclude_from_weight_decay_names", None)
    return bool(getattr(optimizer, "_exclude_from_weight_decay", None)), list(names or ())


@_of_either
def weights_known_to(optimizer: keras.optimizers.Optimizer) -> dict[Any, int]:
    """Key → place of each weight that an optimizer trains; empty if it is not built."""
    return dict(getattr(optimizer, _OF_WEIGHTS, None) or {})


def place_of(optimizer: keras.optimizers.Optimizer, weight: Variable) -> int | None:
    """The place of a weight among those that the optimizer trains; None if it does not."""
    known = weights_known_to(optimizer)
    return known.get(optimizer._var_key(weight)) if known else None


def is_rate(path: str) -> bool:
    """Whether the path of an attribute of an optimizer leads to its learning rate."""
    return path.partition("/")[0] == _RATE


def is_no_memory(name: str) -> bool:
    """Whether an attribute of an optimizer remembers nothing from one step to the next."""
    return name.startswith(_NO_MEMORY)


def is_list_of_keras(path: str) -> bool:
    """Whether an attribute of an optimizer is one of Keras' own lists: of all its variables, of the
    weights, or of the weights' places."""
    return path in _LISTS


def build_for(optimizer: Any, weights: Sequence[Variable]) -> None:
    """Makes the variables that an optimizer, a legacy one too, needs to train ``weights``."""
    build = getattr(optimizer, "build", None) or optimizer._create_all_weights
    build(list(weights))


def steps_per_execution(model: Model) -> Variable:
    """The variable that holds the steps of one execution of a compiled model. int64 []."""
    return model._steps_per_execution


def count_steps(model: Model, steps: tf.Tensor) -> None:
    """Adds to a model's count of trained steps, which its training function has to do."""
    model._train_counter.assign_add(tf.cast(steps, tf.int64))


def train_by(model: Model, function: Callable[[Any], Any]) -> None:
    """Makes ``fit`` call ``function(iterator)`` for an execution, until the model is compiled."""
    model.train_function = function


@_of_either
def steps_counted(optimizer: keras.optimizers.Optimizer) -> int:
    """How many steps an optimizer was called for, also if it accumulates gradients."""
    return int(optimizer.iterations.numpy())


@contextlib.contextmanager
def without_averages(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within the block Keras does not replace the weights by their averages at the end of a fit."""
    vars(optimizer)["finalize_variable_values"] = lambda variables: None
    try:
        yield
    finally:
        del vars(optimizer)["finalize_variable_values"]


@_of_either
def inner_variable(variable: Variable) -> Variable | None:
    """The full-precision variable inside of one that casts on reading; None if there is none."""
    inner = vars(variable).get("_variable")
    return inner if isinstance(inner, tf.Variable) else None


def xla_types(operation: str, device: str) -> dict[str, set[int]] | None:
    """The types for which XLA can compile an operation of TensorFlow; None if it cannot.

    Args:
      operation: its name, such as ``MatMul``.
      device: "CPU" or "GPU".

    Returns:
      name of an attribute → the numbers of the types that it may have; an attribute that is not
      named may have any.
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
    """Makes TensorFlow register XLA's kernels, which it does at the first compilation."""
    tf.function(lambda: tf.constant(0), jit_compile=True)()


def differentiate_by(operation: str, gradient: Callable[..., Any]) -> None:
    """Makes TensorFlow differentiate an operation by a function, in this process.

    A gradient of TensorFlow's own is replaced.

    Args:
      operation: the operation's type.
      gradient: as for ``tf.RegisterGradient``.
    """
    ops.gradient_registry._registry.pop(operation, None)
    tf.RegisterGradient(operation)(gradient)


def add_gradients_in_order() -> None:
    """Makes TensorFlow add several gradients in a fixed order, in this process.

    Grappler may expect a step to take over 80 % of the memory (it assumes 256 MiB for a CPU). Then
    its memory optimizer adds gradients in the order in which they arrive. The level set here leaves
    it only the swapping; no public function sets that level.
    """
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.memory_optimization = options.SWAPPING_HEURISTICS
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})  # drops the cached config


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Random numbers drawn within the block do not change those drawn after it.

    Copying a layer draws initial values that are not used. Python's, NumPy's, Keras' and
    TensorFlow's eager generators go on as if these had not been drawn.
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
            # This drops cached kernels: one with the same seed would go on from its last state.
            eager._set_global_seed(eager._seed)
            eager._rng.setstate(seeds)


# Files


def symbol(name: str) -> Any:
    """TensorFlow's public object of a name such as ``keras.layers.Dense``, or None."""
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
    """Whether Keras finds an object of that name in its own modules, when it deserializes."""
    serialization.populate_deserializable_objects()
    places = (activations, constraints, initializers, losses, metrics, regularizers)
    return name in serialization.LOCAL.ALL_OBJECTS or any(hasattr(each, name) for each in places)


@contextlib.contextmanager
def saved_with(model: Model, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Within the block a SavedModel of ``model`` also gets these attributes.

    Keras adds its own attributes at the same place, if it saves traces. There is no public way.
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
