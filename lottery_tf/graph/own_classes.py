"""Models of the user's own class: what a copy takes over besides the graph of layers."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import has_state, keras, keras_of, parts_of, set_by_keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.prepared_step import is_of_prepared_step


def carry_over(model: keras.Model, copy: keras.Model, made: dict[int, keras.layers.Layer]) -> None:
    """Gives a plain copy of ``model`` its class, and the attributes that were set on it.

    In these attributes, layers and methods of the model become those of the copy, and metrics are
    made anew. If the model is of a plain Keras class, only attributes without state are copied, as
    such a class does not read them.

    Args:
      model: a model of any class.
      copy: a model of Keras' own class, with the same graph.
      made: id of a layer of ``model`` → the layer of ``copy``.

    Raises:
      UsageError: for an attribute with state, which both would share, and for a method of Keras'
        that was set on the model itself.
    """
    of = keras_of(model)
    if is_own(type(model)):
        if isinstance(copy, of.Sequential) != isinstance(model, of.Sequential):
            raise UsageError(
                f"Expected a functional model, to add connections to; '{model.name}' is a "
                f"Sequential of a class of its own, {type(model).__name__}: build it as "
                f"{type(model).__name__}(inputs, outputs) from keras.Model."
            )
        copy.__class__ = type(model)
    layers = (layer for layer in parts_of(model) if id(layer) in made)
    model_itself = {id(each) for each in (model, *layers, *model.variables)}
    for name, value in set_on(model).items():
        if callable(value) and hasattr(of.Model, name):
            _refuse_method(model, name)
        parts = _mapped(functools.partial(_of_copy, model, copy, made, model_itself), value)
        if not any(part is _STATE for part in _leaves(parts)):
            setattr(copy, name, parts)
        elif is_own(type(model)):
            raise UsageError(
                f"Expected a model whose weights and state are in the layers of its graph; "
                f"'{model.name}' also has {name}, which copies of it would share. Put it into a "
                "layer, a metric of compile or a callback."
            )


def _refuse_method(model: keras.Model, name: str) -> None:
    raise UsageError(
        f"Expected a model with the {name} of its class; '{model.name}' has another one set, "
        "which copies of it would lack: put it into a subclass."
    )


_STATE = object()  # marks values that cannot be carried over


def _of_copy(
    model: keras.Model,
    copy: keras.Model,
    made: Mapping[int, keras.layers.Layer],
    model_itself: set[int],
    part: Any,
) -> Any:
    """The copy's value for an object that was set on the model."""
    if id(part) in made:
        return made[id(part)]
    if isinstance(part, keras.metrics.Metric | keras3.metrics.Metric):
        return type(part).from_config(part.get_config())
    if isinstance(part, MethodType) and part.__self__ is model:
        return MethodType(part.__func__, copy)
    return _STATE if has_state(part) or _refers(part, model_itself) else part


def _refers(thing: Any, things: set[int], depth: int = 4) -> bool:
    """Whether a function, or a user's own object, holds one of ``things`` (given by id)."""
    if id(thing) in things:
        return True
    return depth > 0 and any(_refers(part, things, depth - 1) for part in _held_by(thing))


def _held_by(thing: Any) -> Iterator[Any]:
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield thing.__self__
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # the cell is still empty
                yield cell.cell_contents
        yield from (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set):
        yield from thing
    elif hasattr(thing, "__dict__") and not (isinstance(thing, type) or has_state(thing)):
        yield from vars(thing).values()


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to each item that is not a list, tuple or dictionary."""
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_mapped(function, part) for part in value]
    if isinstance(value, tuple):
        parts = (_mapped(function, part) for part in value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return function(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def is_own(kind: type) -> bool:
    """Whether a class of models is not Keras' own."""
    return not kind.__module__.startswith(("tf_keras.", "keras."))


def own_methods(kind: type) -> list[str]:
    """Names of Keras' public methods that a class of models overrides, except the config's."""
    of = keras3 if issubclass(kind, keras3.Model) else keras
    own = [each for each in kind.__mro__ if is_own(each) and issubclass(each, of.Model)]
    names = {name for each in own for name in vars(each) if name[0] != "_"}
    return sorted(names & set(dir(of.Model)) - {"get_config", "from_config"})


def set_on(model: keras.Model) -> dict[str, Any]:
    """The attributes of a model that neither Keras nor a recipe's ``PreparedStep`` has set."""
    return {
        name: value
        for name, value in vars(model).items()
        if name not in set_by_keras(model)
        and (is_own(type(model)) or name[0] != "_")
        and not is_of_prepared_step(value)
    }
