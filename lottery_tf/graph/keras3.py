"""The second door to Keras: the functions of ``compat`` for Keras 3.

A function here has the name, arguments and meaning of the one in ``compat``, which calls it for
objects of Keras 3. What only Keras 3 needs, and the base class of wrappers around a layer, have no
namesake there.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError

try:
    import keras
    from keras import KerasTensor
    from keras.src.backend.common.masking import get_keras_mask
    from keras.src.backend.common.variables import AutocastScope
    from keras.src.layers.preprocessing.index_lookup import IndexLookup
    from keras.src.models.functional import Functional, functional_like_constructor
    from keras.src.ops.node import Node
    from keras.src.saving.serialization_lib import SafeModeScope
except ImportError as error:
    raise UsageError(
        f"Expected Keras 3 with its chosen backend; it cannot be imported ({error}): unset "
        "KERAS_BACKEND, or install what it names."
    ) from error

# What other modules take from here as it is.
__all__ = ["Functional", "Node", "keras"]

Layer: TypeAlias = keras.layers.Layer
Model: TypeAlias = keras.Model
Variable: TypeAlias = keras.Variable

KINDS = (
    *(keras.Operation, KerasTensor, keras.Variable, Node),
    *(keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric),
    *(keras.callbacks.Callback, keras.optimizers.schedules.LearningRateSchedule),
)
_UNNAMED = re.compile(r"variable(_\d+)?")  # Keras' names of weights without a given name
# The dtype of step counts; JAX has no 64-bit integers.
WHOLE = "int32" if keras.backend.backend() == "jax" else "int64"
# The method of a model that calls its loss on symbolic tensors, to find shapes.
SHAPES_STEP = "_symbolic_build"
# The modules in which Keras has the functions of keras.ops, and the ReLU of keras.activations.
_OPERATIONS = re.compile(
    r"keras\.src\.(ops\.(core|einops|fft|image|linalg|math|nn|numpy)|activations\.activations)"
)
# Attributes in which Keras notes the arguments of a layer's call.
_SIGNATURE = (
    *("_call_signature", "call_signature_parameters", "_call_has_training_arg"),
    *("_call_has_mask_arg", "_call_context_args", "_call_has_context_arg"),
)


class PruningWrapper(keras.layers.Wrapper):
    """A wrapper that prunes some of a layer's weights, and takes the arguments of that layer.

    Args:
      layer: any layer.
      **kwargs: as for any Keras layer; default: the layer's own name and precision.
    """

    keeps_outputs: ClassVar[bool] = True  # outputs have the shapes and dtypes of the layer inside

    def __init__(self, layer: Layer, **kwargs: Any):
        kwargs = {"name": layer.name, "dtype": layer.dtype_policy, **kwargs}
        super().__init__(layer, autocast=layer.autocast, **kwargs)
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit
        self.__dict__.update({n: vars(layer)[n] for n in _SIGNATURE if n in vars(layer)})

    def _maybe_build(self, call_spec: Any) -> None:
        # The layer inside is built by all arguments of the call, as there may be several.
        if not self.layer.built:
            with self.layer._open_name_scope():
                self.layer._maybe_build(call_spec)
        super()._maybe_build(call_spec)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)


# Models and their layers


def is_graph_network(model: Model) -> bool:
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, Functional)


def _graph_of(model: Model) -> Functional:
    """The functional model that holds the calls of a model's layers; usually the model itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def input_layers(model: Model) -> list[Layer]:
    return [tensor._keras_history.operation for tensor in _graph_of(model).inputs]


def parts_of(layer: Layer) -> Iterator[Layer]:
    yield from dict.fromkeys(layer._flatten_layers())


def states_of_noise(layer: Layer) -> list[Variable]:
    seeds = (each for each in vars(layer).values() if isinstance(each, keras.random.SeedGenerator))
    return [each.state for each in seeds]


def listed_weights(layer: Layer) -> list[Variable]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def last_name(variable: Variable, layer: Layer) -> str:
    depthwise = isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)
    if _UNNAMED.fullmatch(variable.name):  # Keras numbers them across the process
        return "variable"
    return "depthwise_kernel" if depthwise and variable.name == "kernel" else variable.name


def read_in(call: Callable[..., Any], tensors: Sequence[KerasTensor]) -> list[Variable]:
    """The variables that ``call`` reads when it gets zeros for symbolic tensors."""
    seen: list[Variable] = []

    class Reading(keras.StatelessScope):
        def get_current_value(self, ref: Variable) -> Any:
            seen.append(ref)
            return super().get_current_value(ref)

    zeros = [keras.ops.zeros([n or 1 for n in each.shape], each.dtype) for each in tensors]
    # Errors of the layer's own code are raised when the copy itself is called.
    with contextlib.suppress(Exception), Reading():
        call(*zeros)
    return seen


def made_trainable(layer: Layer) -> list[Variable]:
    # Not by `trainable` of the variables, which freezing a built layer changes.
    return [each for part in parts_of(layer) for each in part._trainable_variables]


def is_trainable(layer: Layer) -> bool:
    return layer._trainable


def set_trainable(layer: Layer, trainable: bool) -> None:
    if layer._trainable != trainable:
        layer._trainable = trainable
        for variable in layer._trainable_variables:
            variable.trainable = trainable


def copy_trainable(copy: Layer, layer: Layer) -> None:
    set_trainable(copy, is_trainable(layer))
    known = getattr(layer, "_trainable_variables", ())  # a layer of tf_keras has none
    for mine, theirs in zip(copy._trainable_variables, known, strict=False):
        mine.trainable = theirs.trainable


def held_variables(layer: Layer) -> dict[str, Variable]:
    found = {}
    for name, value in vars(layer).items():
        if isinstance(value, keras.Variable):
            # Some have `kernel` as a property, as with LoRA or 8 bits it is more than a variable.
            public = name.removeprefix("_")
            found[public if getattr(layer, public, None) is value else name] = value
    return found


def attributes_of(layer: Layer) -> dict[str, Any]:
    """Name → value of all attributes of a layer; torch stores layers within it separately."""
    apart = vars(layer)["_modules"] if keras.backend.backend() == "torch" else {}
    return {**vars(layer), **apart}


def is_kept_by_keras(layer: Layer, name: str) -> bool:
    return name in _kept_by_keras()


@functools.cache
def _kept_by_keras() -> frozenset[str]:
    layer = keras.layers.Wrapper(keras.layers.Layer())
    layer.build((1, 1))
    return frozenset(vars(layer)) - {"layer"}


def autocast_of(layer: Layer) -> contextlib.AbstractContextManager[Any]:
    return AutocastScope(layer.compute_dtype if layer.autocast else None)


def functions_of(layer: Layer) -> set[FunctionType]:
    # Keras sets wrapped versions of some methods on each layer.
    return {
        value
        for part in parts_of(layer)
        for name, value in vars(part).items()
        if isinstance(value, FunctionType) and not hasattr(type(part), name)
    }


@functools.cache
def attributes_set_by(of: ModuleType) -> frozenset[str]:
    """The attributes that a Keras sets on models when they are made, compiled and trained."""
    inputs, own = of.Input((1,)), type("Own", (of.Model,), {})
    models = own(inputs, inputs), of.Sequential([of.Input((1,))])
    names = {name for model in models for name in vars(model)}
    for model in models:
        model.compile("sgd", "mse", metrics=["mse"])
    trained = (
        *("history", "stop_evaluating", "stop_predicting", "train_tf_function", "_jax_state"),
        "_eval_epoch_iterator",
    )
    # set on a model from a SavedModel
    loaded = (
        *("asset_paths", "graph_debug_info", "signatures", "_serialized_attributes"),
        *("tensorflow_git_version", "tensorflow_version"),
    )
    return frozenset(names.union(*map(vars, models), trained, loaded))


def set_by_keras(model: Model) -> frozenset[str]:
    return attributes_set_by(keras)


def is_like_functional(model: Model) -> bool:
    return functional_like_constructor(type(model))


def plain_class_of(model: Model) -> type:
    return keras.Sequential if isinstance(model, keras.Sequential) else Functional


def rename(layer: Layer, name: str) -> None:
    layer.name = name


def vocabulary_of(layer: Layer) -> dict[str, Any]:
    return words_of(layer, IndexLookup)


def words_of(layer: Any, kind: Any) -> dict[str, Any]:
    """The config of a lookup's vocabulary, if the layer's own config lacks or contradicts it.

    Args:
      layer: a layer of either Keras.
      kind: that Keras' class of lookups.
    """
    lookup = getattr(layer, "_lookup_layer", layer)
    if not isinstance(lookup, kind):
        return {}
    words = lookup.get_vocabulary(include_special_tokens=False)
    given = lookup.input_vocabulary  # set_vocabulary does not update it
    same = isinstance(given, str) or (given is not None and list(given) == list(words))
    if same or not len(words):
        return {}
    found: dict[str, Any] = {"vocabulary": list(words)}
    if lookup.output_mode == "tf_idf":
        start = lookup._token_start_index()
        found["idf_weights"] = lookup.idf_weights.numpy()[start : start + len(words)].tolist()
    return found


def made_from(layer: Layer, config: Mapping[str, Any]) -> Layer:
    config = dict(config)
    for name, value in config.items():
        # A lambda is written as code, without the variables that it refers to.
        written = isinstance(value, dict) and (value.get("class_name") or "__lambda__")
        if written == "__lambda__" and isinstance(vars(layer).get(name), FunctionType):
            config[name] = vars(layer)[name]
    if isinstance(layer, keras.layers.Lambda):  # its from_config takes no functions
        config["function"], config["arguments"] = layer.function, dict(layer.arguments)
        config |= {"output_shape": layer._output_shape, "mask": layer.mask}
        return type(layer)(**config)
    return type(layer).from_config(config)


def set_value(variable: Variable, value: Any) -> None:
    # On JAX both would share an array, and training deletes it.
    shared = keras.backend.backend() == "tensorflow"
    variable.assign(value if shared else np.array(value))


def tf_variable(variable: Variable) -> tf.Variable:
    return variable.value


def build_parts(layer: Layer, other: Layer) -> None:
    for mine, theirs in zip(parts_of(layer), parts_of(other), strict=False):
        if type(mine) is type(theirs) and theirs.built and not mine.built:
            mine.build_from_config(theirs.get_build_config())


def is_adapted(layer: Layer) -> bool:
    return hasattr(layer, "adapt")


def takes(layer: Layer) -> dict[str, bool]:
    return {"training": layer._call_has_training_arg, "mask": layer._call_has_mask_arg}


def unfuse(layer: Layer) -> None:
    for part in parts_of(layer):
        if hasattr(part, "use_cudnn"):
            part.use_cudnn = False


def take_as_given(layer: Layer) -> None:
    layer.autocast = False


def regularize_instead(layer: Layer, kernel: Variable, seen: Callable[[], Any]) -> None:
    if kernel.regularizer is not None:
        kernel.regularizer = _OfAnother(kernel.regularizer, seen)


class _OfAnother(keras.regularizers.Regularizer):
    """A regularizer that is applied to ``seen()`` instead of its variable."""

    def __init__(self, regularize: Callable[[Any], Any], seen: Callable[[], Any]):
        self.regularize, self.seen = regularize, seen

    def __call__(self, value: Any) -> Any:
        return self.regularize(self.seen())


def constrain_too(kernel: Variable, constrain: Callable[[Any], Any]) -> None:
    """Makes each step of an optimizer end in ``kernel ← constrain(kernel)``.

    The kernel's own constraint comes before it."""
    kernel.constraint = _Both(kernel.constraint, constrain)


class _Both(keras.constraints.Constraint):
    """One constraint, if there is one, and then another."""

    def __init__(self, first: Callable[[Any], Any] | None, then: Callable[[Any], Any]):
        self.first, self.then = first, then

    def __call__(self, value: Any) -> Any:
        return self.then(value if self.first is None else self.first(value))


@contextlib.contextmanager
def in_place_of(layer: Layer, tensors: Mapping[str, Any]) -> Iterator[None]:
    held, known = vars(layer), attributes_of(layer)
    placed = {name if name in known else f"_{name}": each for name, each in tensors.items()}
    own = {name: held[name] for name in placed if name in held}
    try:
        held.update(placed)
        yield
    finally:
        held.update(own)
        for name in placed.keys() - own.keys():
            del held[name]  # then torch's own entry is visible again


def moments_by(layer: Layer, moments: Callable[..., tuple[Any, Any]]) -> None:
    theirs = layer._moments

    def batch_moments(inputs: Any, mask: Any) -> tuple[Any, Any]:
        if mask is not None:
            return theirs(inputs, mask)
        return moments(inputs, layer._reduction_axes, False)

    layer._moments = batch_moments


def is_traced(tensor: Any) -> bool:
    """Whether a tensor has no value yet: JAX is compiling, or torch computes only shapes."""
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "torch" and tensor.is_meta


def mask_of(tensor: Any) -> Any:
    """The mask that layers have given a tensor; None if there is none."""
    return get_keras_mask(tensor)


def with_gradients(function: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    """A function's value and its gradients, by JAX or torch; it can be differentiated again.

    Args:
      function: (tensors, …) → (value [], anything else).

    Returns:
      a function (tensors, …) → ((value, anything else), gradients by the tensors).
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.value_and_grad(function, has_aux=True)
    import torch

    def of_torch(tensors: Sequence[Any], *args: Any) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # torch has no second derivative of fused attention.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            # Tensors of an outer derivative have to stay the same objects here.
            leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in tensors]
            value, other = function(leaves, *args)
            wanted: Any = {"create_graph": True, "materialize_grads": True}
            if not value.requires_grad:  # for instance if the outputs are constants
                return (value, other), [torch.zeros_like(each) for each in leaves]
            return (value, other), list(torch.autograd.grad(value, leaves, **wanted))

    return of_torch


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled if the backend is JAX."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def changing_variables(model: Model, step: Callable[..., Any]) -> Callable[..., Any]:
    """A training step of JAX, usable as one that changes variables like those of other backends.

    Args:
      step: function (state, data) → (logs, state).

    Returns:
      a function (state, run) → (logs, state). It calls ``run`` with the step as a function
      data → logs. Values that ``run`` assigns to variables of the model are in the new state.
    """

    def stepped(state: Any, run: Callable[[Callable[[Any], Any]], Any]) -> Any:
        variables = (
            *(model.trainable_variables, model.non_trainable_variables),
            *(model.optimizer.variables, model.metrics_variables),
        )

        def pairs(values: Any) -> list[tuple[Variable, Any]]:
            each = zip(variables, values, strict=True)
            return [pair for one in each for pair in zip(*one, strict=True)]

        with keras.StatelessScope(pairs(state)) as scope:

            def now() -> tuple[list[Any], ...]:
                return tuple([scope.get_current_value(v) for v in each] for each in variables)

            def changing(data: Any) -> Any:
                logs, new = step(now(), data)
                for pair in pairs(new):
                    scope.add_update(pair)
                return logs

            return run(changing), now()

    return stepped


# The calls of layers


def calls_in(model: Model) -> Iterator[Node]:
    by_depth = _graph_of(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def has_losses(model: Model) -> bool:
    return False  # add_loss of Keras 3 takes no symbolic tensor


def added_losses(model: Model) -> list[Any]:
    return [loss for layer in model._flatten_layers() for loss in layer._get_own_losses()]


def layer_of(node: Node) -> keras.Operation:
    return node.operation


def function_of(layer: keras.Operation) -> str | None:
    return None if isinstance(layer, keras.layers.Layer) else type(layer).__name__


def inputs_of(node: Node) -> list[KerasTensor]:
    return list(node.arguments.keras_tensors)


def outputs_of(node: Node) -> list[KerasTensor]:
    return list(node.outputs)


def arguments_of(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return node.arguments.args, node.arguments.kwargs


def called_again(node: Node, layer: Callable[..., Any], new: Callable[[Any], Any]) -> Any:
    def renewed(each: Any) -> Any:
        return new(each) if isinstance(each, KerasTensor) else each

    args, kwargs = node.arguments.convert(renewed)
    return layer(*args, **kwargs)


def given_to(node: Node) -> list[Variable]:
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return [each for each in arguments if isinstance(each, keras.Variable)]


def spec_of(tensor: KerasTensor) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def producer_of(tensor: KerasTensor) -> keras.Operation:
    return tensor._keras_history.operation


def call_of(tensor: KerasTensor) -> Node:
    operation, number, _ = tensor._keras_history
    return operation._inbound_nodes[number]


def only_computes(layer: Layer) -> bool:
    return False  # a call of a new layer costs little in Keras 3


def operation_like(operation: keras.Operation) -> keras.Operation:
    """A new operation like ``operation``, not yet recorded in a model."""
    try:
        new = type(operation).from_config(operation.get_config())
    except NotImplementedError:  # made from functions or arrays, but it has no state
        return operation
    new.name = operation.name  # outputs are named by it, and some configs lack it
    return new


def input_like(layer: Layer, **config: Any) -> KerasTensor:
    return type(layer).from_config({**layer.get_config(), **config}).output


def ends_of(model: Model) -> tuple[Any, Any]:
    graph = _graph_of(model)
    return tuple(map(_alone, (graph._inputs_struct, graph._outputs_struct)))


def packed(model: Model, flat: Sequence[Any]) -> Any:
    return keras.tree.pack_sequence_as(_alone(_graph_of(model)._inputs_struct), list(flat))


def flattened(model: Model, outputs: Any) -> list[Any]:
    return keras.tree.flatten(outputs)


def output_names(model: Model) -> list[str]:
    found: list[str] = []
    for name in _graph_of(model).output_names:  # a layer with several outputs repeats its name
        again = sum(each == name or each.startswith(f"{name}_") for each in found)
        found.append(f"{name}_{again}" if name in found else name)
    return found


def _alone(structure: Any) -> Any:
    one = isinstance(structure, list | tuple) and len(structure) == 1
    return structure[0] if one else structure


def connected(model: Model, ends: tuple[Any, Any]) -> Model:
    return _frozen_as(model, keras.Model(*ends, name=model.name))


def chained(model: keras.Sequential, copy_of: Callable[[Layer], Layer]) -> keras.Sequential:
    """A Sequential of copies of another one's layers."""
    first = input_like(input_layers(model)[0])
    return sequence_of(model, [first, *map(copy_of, model.layers)])


def sequence_of(model: Model, layers: Sequence[Layer]) -> keras.Sequential:
    return _frozen_as(model, keras.Sequential(layers, name=model.name))


def _frozen_as(model: Model, copy: Model) -> Model:
    # The setter of `trainable` would freeze or thaw all that is in it.
    copy._trainable = model._trainable
    return copy


# Optimizers


def undecayed(optimizer: keras.optimizers.Optimizer) -> tuple[bool, list[str]]:
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    names = [] if pattern is None else pattern.pattern.split("|")
    return bool(getattr(optimizer, "_exclude_from_weight_decay", None)), names


def weights_known_to(optimizer: keras.optimizers.Optimizer) -> dict[Any, int]:
    return dict(optimizer._trainable_variables_indices)


def steps_counted(optimizer: keras.optimizers.Optimizer) -> int:
    return int(np.asarray(getattr(optimizer, "inner_optimizer", optimizer)._iterations))


def inner_variable(variable: Variable) -> Any:
    return variable.value


# Files


@contextlib.contextmanager
def code_allowed() -> Iterator[None]:
    """Within the block Keras may make functions from code in a description."""
    with SafeModeScope(safe_mode=False):
        yield


def is_public_class(module: str, name: str) -> bool:
    """Whether Keras has a class of that name in one of its public modules, ``keras.layers``."""
    place: Any = keras
    for part in module.split(".")[1:]:
        place = getattr(place, part, None)
    return isinstance(getattr(place, name, None), type)


def is_operation_of_keras(module: str, name: str) -> bool:
    """Whether models record a function of ``keras.ops`` by a class of that name."""
    if not _OPERATIONS.fullmatch(module):
        return False
    found = getattr(sys.modules.get(module), name, None)
    known = isinstance(found, type) and issubclass(found, keras.Operation)
    return known and found.__module__ == module
