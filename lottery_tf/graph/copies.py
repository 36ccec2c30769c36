"""Copies of a model in which some layers, or some calls of layers, are changed."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from textwrap import shorten
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    build_parts,
    called_again,
    called_as,
    calls_in,
    chained,
    connected,
    copy_trainable,
    ends_of,
    functions_of,
    has_losses,
    input_layers,
    input_like,
    is_keras3,
    is_layer,
    is_model,
    is_trainable,
    keras,
    keras_of,
    layer_of,
    made_from,
    only_computes,
    operation_like,
    outputs_of,
    parts_of,
    rename,
    scope_of,
    set_trainable,
    set_value,
    vocabulary_of,
)
from lottery_tf.graph.layers import finalize, own_variables, places, unwrapped
from lottery_tf.graph.own_classes import carry_over
from lottery_tf.graph.sharing import check_untied, is_foreign, pass_on

# (a model, a function from an old layer to the new one) → its copy; None for the usual copy.
Connect = Callable[[keras.Model, Callable[..., Any]], keras.Model | None]
# Copy → the layer that ``copy_layer`` was given, if nothing in the configuration differs.
_unchanged: weakref.WeakKeyDictionary[keras.layers.Layer, weakref.ref[keras.layers.Layer]]
_unchanged = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _copying(what: str) -> Iterator[None]:
    """Raises a UsageError for any error of Keras' while it copies ``what``."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the layer's own code may raise anything
        reason = str(error).rpartition("Exception encountered: ")[2]
        raise UsageError(
            f"Expected layers that Keras can make anew from their config; it cannot make {what} "
            f"({shorten(reason, 120, placeholder=' …').rstrip('.')}). Give it named functions, "
            "registered by keras.saving.register_keras_serializable, and a get_config with all "
            "arguments of its constructor."
        ) from error


def copy_layer(layer: keras.layers.Layer, /, **config: Any) -> keras.layers.Layer:
    """A new layer of the same configuration, except for what ``config`` changes in it.

    The user's own parts of the layer, such as an activation, a regularizer, or a cell, need not be
    registered.

    Raises:
      UsageError: if the layer cannot be made from its config.
    """
    own = functions_of(layer) | _own_classes(layer)
    # A config holds only the name of a function or class.
    count = Counter(each.__name__ for each in own)
    named = {each.__name__: each for each in own if count[each.__name__] == 1}
    with _copying(_called(layer)), keras_of(layer).saving.custom_object_scope(named):
        copy = made_from(layer, {**layer.get_config(), **vocabulary_of(layer), **config})
    if not config:
        _unchanged[copy] = weakref.ref(layer)
    return copy


def _own_classes(layer: keras.layers.Layer) -> set[Any]:
    """The user's own classes among the layers in a layer, and among the objects that they hold."""
    held = (thing for part in parts_of(layer) for thing in (part, *vars(part).values()))
    return {type(each) for each in held if is_foreign(each) and hasattr(each, "get_config")}


def _has_outputs_of(copy: keras.layers.Layer, layer: keras.layers.Layer) -> bool:
    """Whether the outputs of a new layer are known to have the shapes and dtypes of another's."""
    inner = unwrapped(copy)
    same = inner is copy or getattr(copy, "keeps_outputs", False)
    known = _unchanged.get(inner, lambda: None)() is unwrapped(layer)
    return same and known and only_computes(inner)


def _called(layer: keras.layers.Layer) -> str:
    return f"the layer '{layer.name}' ({type(layer).__name__})"


def freeze_as(copy: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """Freezes in the copy of a layer what is frozen in the layer and in those that it holds.

    Their configs may not tell. A model is frozen as a whole, with all that is in it."""
    new, old = unwrapped(copy), unwrapped(layer)
    pairs = [(new, old)]
    if not is_model(layer):
        set_trainable(copy, is_trainable(old))  # a wrapper is frozen as its layer is
        held = [list(parts_of(each)) for each in (new, old)]
        if [type(each) for each in held[0]] == [type(each) for each in held[1]]:
            pairs = list(zip(*held, strict=True))
    for new, old in pairs:
        copy_trainable(new, old)


def rebuild(
    model: keras.Model,
    change: Callable[[keras.layers.Layer], keras.layers.Layer],
    connect: Connect = lambda part, copy_of: None,
) -> keras.Model:
    """A copy of ``model`` in which each layer is ``change(layer)``, with the variables' values.

    ``change`` is called once for each layer that is not a model, even a shared one, and returns a
    new layer. Nested models are rebuilt in turn. Variables that only the copy has keep their
    initial values. The copy is not compiled.

    Args:
      model: a Sequential or functional model.
      change: old layer → new layer.
      connect: called for the model and each nested one, with that model and a function from an old
        layer to the new one. It returns the copy of that model, for instance by ``reconnected``,
        or None for a copy with layers connected as they were.
    """
    check_untied(model, copy_layer)
    made: dict[int, keras.layers.Layer] = {}
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def copied(part: keras.Model) -> keras.Model:
        copy = connect(part, copy_of)
        sequential = isinstance(part, keras_of(part).Sequential)
        if copy is None and not (sequential or has_losses(part)):
            # Keras' clone_model turns a call's constants into JSON lists, which layers refuse.
            copy = reconnected(part, copy_of, {})
        if copy is None:
            with _copying(f"the model '{part.name}'"):
                copy = _cloned(part, copy_of)
        carry_over(part, copy, made)
        freeze_as(copy, part)
        return copy

    def copy_of(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in made:
            if is_model(layer):
                made[id(layer)] = copied(layer)
            else:
                made[id(layer)] = new = change(layer)
                # The config of a user's own layer may lack its name.
                for each in (new, unwrapped(new)):
                    rename(each, unwrapped(layer).name)
                pass_on(layer, new)
                if _has_outputs_of(new, layer):
                    known.enter_context(called_as(new, layer))
                pairs.append((layer, new))
        return made[id(layer)]

    with scope_of(model):
        with contextlib.ExitStack() as known:
            copy = copied(model)
        # Layer by layer, as a layer in several models may be found in another one first.
        for old, new in pairs:
            build_parts(unwrapped(new), unwrapped(old))
            theirs = own_variables(old)
            for name, variable in own_variables(new).items():
                if name in theirs:
                    set_value(variable, theirs[name])
            finalize(new)
            freeze_as(new, old)
            # tf_keras omits it from the config of a ReLU, BatchNormalization, RNN and others.
            for mine, theirs in zip(
                parts_of(unwrapped(new)), parts_of(unwrapped(old)), strict=False
            ):
                if type(mine) is type(theirs) and theirs.activity_regularizer is not None:
                    mine.activity_regularizer = theirs.activity_regularizer
    return copy


def reconnected(
    part: keras.Model,
    copy_of: Callable[..., Any],
    calls: Mapping[int, Callable[[Callable[..., Any], Callable[..., Any]], Any]],
    inputs: Sequence[Any] | None = None,
    given: Sequence[Any] | None = None,
) -> keras.Model:
    """The functional copy of a model in which some calls of layers are changed.

    Args:
      part: the model. Models nested in it are called as they are.
      copy_of: old layer → new layer.
      calls: id of a node of ``part`` → function(run, tensor) that returns the copy's tensor for
        the node's output. ``run`` calls the new layer at that place and returns its output;
        ``tensor`` maps an old tensor to the new one.
      inputs: the copy's input tensors, in the order of ``part.inputs``; default: new ones like
        them.
      given: what is made of them before the first calls take it; default: nothing, they are taken
        as they are.

    Raises:
      UsageError: if the model has losses or metrics of its own (``add_loss``), which such a copy
        would lose.
    """
    if has_losses(part):
        raise UsageError(
            f"Expected a model without add_loss and add_metric on its tensors; '{part.name}' has "
            "some: put them into a layer's call."
        )
    if inputs is None:
        inputs = [input_like(layer) for layer in input_layers(part)]
    raw = {id(old): new for old, new in zip(part.inputs, inputs, strict=True)}
    held = dict(zip(raw, inputs if given is None else given, strict=True))

    def tensor(old: Any) -> Any:
        return held[id(old)]

    made: dict[int, Any] = {}

    def run(node: Any) -> Any:
        layer = layer_of(node)
        if is_layer(layer):
            layer = copy_of(layer)
        else:  # a function of keras.ops, which a model may call repeatedly
            layer = made.setdefault(id(layer), operation_like(layer))
        with _copying(_called(layer_of(node))):
            return called_again(node, layer, tensor)

    for node in calls_in(part):
        outputs = calls[id(node)](partial(run, node), tensor) if id(node) in calls else run(node)
        pairs = zip(outputs_of(node), tf.nest.flatten(outputs), strict=True)
        held.update({id(old): new for old, new in pairs})
    taken, made_of_it = ends_of(part)
    taken = tf.nest.map_structure(lambda old: raw[id(old)], taken)
    return connected(part, (taken, tf.nest.map_structure(tensor, made_of_it)))


def _cloned(part: keras.Model, copy_of: Callable[..., Any]) -> keras.Model:
    """A copy of a model with layers that are connected as before."""
    if not is_keras3(part):
        return keras.models.clone_model(part, clone_function=copy_of)
    made: dict[int, Any] = {}

    def once(layer: Any) -> Any:  # not Keras' clone_model, which would also compile the copy
        if id(layer) not in made:
            made[id(layer)] = copy_of(layer)
        return made[id(layer)]

    if isinstance(part, keras_of(part).Sequential):
        return chained(part, once)
    return reconnected(part, once, {})


def copy_with_paths(model: keras.Model, paths: list[str], new_seeds: bool = False) -> keras.Model:
    """A copy of ``model``, with new initial weights, whose ``layer_paths`` are ``paths``.

    Layers get these names, and layers with the same path become one. With ``new_seeds`` even
    initializers with seeds of their own draw new weights.
    """
    wanted = {id(layer): path for layer, path in zip(places(model), paths, strict=True)}
    made: dict[str, keras.layers.Layer] = {}

    def change(layer: keras.layers.Layer) -> keras.layers.Layer:
        if is_model(layer):
            copy = _cloned(layer, change)
            freeze_as(copy, layer)
            return copy
        path = wanted[id(layer)]
        if path not in made:
            made[path] = copy_layer(layer, **(_without_seeds(layer) if new_seeds else {}))
            rename(made[path], path.rpartition("/")[2])
        return made[path]

    copy = change(model)
    for old, new in zip(places(model), places(copy), strict=True):
        freeze_as(new, old)
    return copy


def _without_seeds(layer: keras.layers.Layer) -> dict[str, Any]:
    """The parts of a layer's config that describe objects such as initializers, without seeds."""

    def unseeded(value: Any) -> Any:
        if isinstance(value, list):
            return [unseeded(each) for each in value]
        if not isinstance(value, dict):
            return value
        value = {name: unseeded(each) for name, each in value.items()}
        if "class_name" in value and isinstance(value.get("config"), dict):
            value["config"] |= {"seed": None} if "seed" in value["config"] else {}
        return value

    return {n: unseeded(v) for n, v in layer.get_config().items() if isinstance(v, dict | list)}
