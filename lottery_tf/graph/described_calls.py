"""The calls in a description of a model: whether there is an order in which all can be made."""

from collections.abc import Iterator, Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some


def is_functional(config: Mapping[str, Any]) -> bool:
    """Whether a config describes layers and their calls.

    In the config of a user's own class ``layers`` may be anything."""
    layers = config.get("layers")
    return isinstance(layers, list) and any(
        isinstance(each, dict) and {"name", "inbound_nodes"} <= each.keys() for each in layers
    )


def check_order(config: Mapping[str, Any]) -> None:
    """Raises UsageError if calls in a functional model's config can never be made.

    They wait for one another, or for a call that is not described. tf_keras, which has this format,
    would loop forever. A call names an input as ``[layer, which of its calls, which output, …]``.
    """
    described = (each for each in config["layers"] if isinstance(each, dict))
    layers = {each["name"]: each for each in described if "inbound_nodes" in each}
    first = {name: _first_call(each) for name, each in layers.items()}
    waiting = {name: list(each["inbound_nodes"]) for name, each in layers.items()}
    made = dict.fromkeys(layers, 0)

    def is_there(name: str, number: Any) -> bool:
        if layers[name].get("class_name") == "InputLayer":
            return True
        return any(number in range(start, start + made[name]) for start in first[name])

    progress = True
    while progress:
        progress = False
        for name, calls in waiting.items():
            while calls and all(is_there(*taken) for taken in _taken(calls[0], layers)):
                del calls[0]
                made[name] += 1
                progress = True
    if stuck := [name for name, calls in waiting.items() if calls]:
        raise UsageError(
            "Expected layers that take the outputs of layers before them; in the model "
            f"'{config.get('name')}' {some(stuck)} would wait for one another without end: the "
            "file is damaged, write it anew."
        )


def _first_call(layer: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers that a layer's first call in the description may have.

    A nested model's call with its own inputs, by which it was made, is not described."""
    inner = layer["config"].get("layers") if isinstance(layer.get("config"), dict) else None
    if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
        return (0,)
    if layer.get("class_name") not in ("Functional", "Model", "Sequential"):
        return (0, 1)  # a user's own class may be either
    return (1,) if not inner or inner[0].get("class_name") == "InputLayer" else (0,)


def _taken(value: Any, layers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The calls that a call takes outputs of."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    if len(value) in (3, 4) and isinstance(value[0], str):  # tf_keras' own test
        if value[0] in layers:
            yield value[0], value[1]
        value = value[3:]
    for inner in value:
        yield from _taken(inner, layers)
