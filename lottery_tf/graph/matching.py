"""Matching a model with one that the same code made again, with new numbers: ``dense_2``."""

import re
from collections.abc import Sequence

from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import Call, calls, input_names, named_layers, own_variables, unwrapped


def same_layers(model: keras.Model, other: keras.Model) -> dict[str, str] | None:
    """Path of a layer of ``model`` → that of the same layer in ``other``; None if they differ.

    They are the same if their layers, in order, have the same classes, and variables of the same
    names and shapes. The layers have to be connected in the same way, and their names may differ
    only in Keras' number at the end.

    Args:
      model, other: Sequential or functional models of one Keras; they may be wrapped.
    """
    mine, theirs = named_layers(model), named_layers(other)
    alike = len(mine) == len(theirs) and all(
        _unnumbered(path) == _unnumbered(name)
        and type(unwrapped(layer)) is type(unwrapped(each))
        and _shapes(layer) == _shapes(each)
        for (path, layer), (name, each) in zip(mine.items(), theirs.items(), strict=True)
    )
    if (
        not alike
        or _numbering([*mine]) != _numbering([*theirs])
        or _connections(model) != _connections(other)
    ):
        return None
    return dict(zip(mine, theirs, strict=True))


def variable_in(name: str, layers: dict[str, str]) -> str:
    """The name of the same variable in the other model; ``layers`` as from ``same_layers``."""
    path, _, own = name.rpartition("/")
    return f"{layers[path]}/{own}"


def _unnumbered(path: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", path)


def _numbering(paths: Sequence[str]) -> list[int]:
    """The places of layers; those with the same name are in the order of their numbers."""

    def numbers(place: int) -> list[int]:
        ends = (re.search(r"_(\d+)$", step) for step in paths[place].split("/"))
        return [int(end[1]) if end else 0 for end in ends]

    return sorted(range(len(paths)), key=lambda place: (_unnumbered(paths[place]), numbers(place)))


def _shapes(layer: keras.layers.Layer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(variable.shape) for name, variable in own_variables(layer).items()}


def _connections(model: keras.Model) -> list[tuple[str, list[int]]]:
    """Each call of a layer: its unnumbered path, and the places of the calls before it."""
    found, outputs = calls(model)
    places = {id(call): place for place, call in enumerate(found)}
    inputs = input_names(model)

    def before(call: Call) -> list[int]:
        return [
            places[id(each)] if id(each) in places else -1 - inputs.index(each.path)
            for each in call.before
        ]

    ends = [places.get(id(call), -1) for call in outputs]
    return [*((_unnumbered(call.path), before(call)) for call in found), ("", ends)]
