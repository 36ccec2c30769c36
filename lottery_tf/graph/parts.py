"""The variables of a layer and of the layers within it, by path.

A path consists of names of attributes, indices of lists, and keys of dictionaries. The kernel of a
recurrent layer belongs to its cell and has the path ``cell/kernel``; in stacked cells it is
``cell/cells/0/kernel``. The kernels of an attention layer belong to its EinsumDense layers.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from lottery_tf.graph.compat import (
    attributes_of,
    held_variables,
    in_place_of,
    is_graph_network,
    is_kept_by_keras,
    is_layer,
    is_model,
    is_variable,
    keras,
    listed_weights,
    parts_of,
)

_Layer: TypeAlias = keras.layers.Layer
_Variable: TypeAlias = Any  # of either Keras


def variables_at(layer: _Layer) -> dict[str, _Variable]:
    """Path → weight, for all weights of a layer and of the layers within it.

    A weight that is held in several places has a path for each.
    """
    weights = {id(weight) for part in parts_of(layer) for weight in listed_weights(part)}
    return {
        f"{place}{name}": variable
        for place, part in parts_at(layer).items()
        for name, variable in _held(part)
        if id(variable) in weights
    }


def parts_at(layer: _Layer) -> dict[str, _Layer]:
    """Path → layer: the layer itself at "", and each layer within it, for instance at ``cell/``."""
    found: dict[str, _Layer] = {}
    seen: set[int] = set()

    def walk(part: _Layer, place: str) -> None:
        if id(part) not in seen:
            seen.add(id(part))
            found[place] = part
            for name, child in layers_held(part):
                walk(child, f"{place}{name}/")

    walk(layer, "")
    return found


def layers_held(layer: _Layer) -> Iterator[tuple[str, _Layer]]:
    """The layers in attributes of ``layer``, also in lists and dictionaries.

    Layers that Keras does not count as its parts are left out, such as the original layer that a
    Bidirectional has copied.
    """
    own = {id(part) for part in parts_of(layer)}
    for name, value in _attributes(layer):
        for path, each in _leaves(name, value):
            if is_layer(each) and id(each) in own:
                yield path, each


def at(layer: _Layer, path: str) -> Any:
    """The object at a path."""
    thing: Any = layer
    for step in path.split("/"):
        thing = _inner(thing, step)
    return thing


def holder_of(layer: _Layer, path: str) -> _Layer:
    """The layer that holds the variable at a path: ``layer`` itself, or one within it."""
    return _split(layer, path)[0]


@contextlib.contextmanager
def in_places_of(layer: _Layer, tensors: Mapping[str, Any]) -> Iterator[None]:
    """Within the block tensors replace variables, by path."""
    parts: dict[int, tuple[_Layer, dict[str, Any]]] = {}
    for path, tensor in tensors.items():
        part, (name, *steps) = _split(layer, path)
        _, placed = parts.setdefault(id(part), (part, {}))
        value = placed[name] if name in placed else getattr(part, name)
        placed[name] = _replaced(value, steps, tensor)
    with contextlib.ExitStack() as stack:
        for part, placed in parts.values():
            stack.enter_context(in_place_of(part, placed))
        yield


def _held(part: _Layer) -> Iterator[tuple[str, _Variable]]:
    yield from held_variables(part).items()
    for name, value in _attributes(part):
        if not is_variable(value):
            yield from ((path, each) for path, each in _leaves(name, value) if is_variable(each))


def _attributes(layer: _Layer) -> Iterator[tuple[str, Any]]:
    """The attributes, without those in which Keras tracks what a layer holds."""
    if is_model(layer) and is_graph_network(layer):
        yield "layers", list(layer.layers)
        return
    for name, value in attributes_of(layer).items():
        if not is_kept_by_keras(layer, name):
            yield name, value


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(key, str) and "/" not in key:
                yield from _leaves(f"{path}/{key}", each)
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _leaves(f"{path}/{place}", each)
    else:
        yield path, value


def _split(layer: _Layer, path: str) -> tuple[_Layer, list[str]]:
    """The last layer on a path, and the rest of the path."""
    thing: Any = layer
    last, rest = layer, (steps := path.split("/"))
    for place, step in enumerate(steps[:-1], 1):
        thing = _inner(thing, step)
        if is_layer(thing):
            last, rest = thing, steps[place:]
    return last, rest


def _inner(thing: Any, step: str) -> Any:
    if isinstance(thing, dict):
        return thing[step]
    return thing[int(step)] if isinstance(thing, list | tuple) else getattr(thing, step)


def _replaced(value: Any, steps: list[str], tensor: Any) -> Any:
    """``tensor`` if no steps are left; else a copy of ``value`` with the tensor at its place."""
    if not steps:
        return tensor
    step, *rest = steps
    if isinstance(value, dict):
        return {**value, step: _replaced(value[step], rest, tensor)}
    place = int(step)
    new = [*value[:place], _replaced(value[place], rest, tensor), *value[place + 1 :]]
    return tuple(new) if isinstance(value, tuple) else new
