"""Where a ticket comes from: what a program has asked for, and what is shown of it."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lottery_tf.common.log import counted
from lottery_tf.common.summary import Summary, in_short, pairs, percent
from lottery_tf.masks.masks import Masks

_ROWS = 12  # of weights
_DEPTH = 12  # of what is described
_SAID = {
    "method": "method",
    "round": "round",
    "rewind_step": "rewound to step",
    "rewound_to": "rewound to the weights of",
    "model": "model",
    "dataset": "dataset",
    "seed": "seed",
    "structure": "structure",
}


# Of a ticket that a program has found, the key of what it was found with. ``settings`` is another
# matter: the flags of a run, which its retraining takes over.
FOUND_WITH = "found_with"


def described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a function as JSON knows them; those that are None are left out.

    What has a ``get_config``, such as an optimizer, is described by that and the name of its class.
    Of other things that JSON does not know there is the name, or the first words of the repr.
    """
    return {name: _plain(value) for name, value in arguments.items() if value is not None}


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value)
    if isinstance(value, np.integer):
        return int(value)
    config = None
    if depth < _DEPTH:  # something may hold itself
        if isinstance(value, Mapping):
            return {str(key): _plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple | set):
            return [_plain(each, depth + 1) for each in value]
        # A layer or schedule of the user's own need not have one, and may have another.
        with contextlib.suppress(Exception):
            config = dict(value.get_config())
    if config is None:
        return getattr(value, "__name__", in_short(repr(value), 80))
    told = {name: each for name, each in config.items() if each is not None}
    return {"class_name": type(value).__name__, **_plain(told, depth + 1)}


def summary_of(masks: Masks, sparsity_total: float, info: Mapping[str, Any]) -> Summary:
    """What is shown of a ticket: a row a weight, the first ones of many, and its origin.

    Args:
      masks: of the ticket.
      sparsity_total: share of all trainable parameters that is pruned.
      info: of the ticket.
    """
    rows = [
        [name, "×".join(map(str, mask.shape)), f"{kept:,}", percent(1 - kept / max(mask.size, 1))]
        for name, mask in list(masks.items())[:_ROWS]
        for kept in [int(mask.sum())]
    ]
    notes = []
    if len(masks) > _ROWS:
        rest = counted(len(masks) - _ROWS, "more weight")
        notes.append(f"… and {rest}; lt.inspect(ticket) has all.")
    rows.append(["total", "", f"{masks.kept:,}", percent(masks.sparsity)])
    notes.append(f"{percent(sparsity_total)} of all trainable parameters are pruned.")
    told = {
        what: in_short(info[name]) for name, what in _SAID.items() if info.get(name) is not None
    }
    notes.append("; ".join(f"{what} {text}" for what, text in told.items()))
    settings = info.get("settings") or info.get(FOUND_WITH)
    if isinstance(settings, Mapping) and settings:
        # An optimizer by its name alone; ``ticket.info`` has the whole of it.
        short = {
            name: value.get("class_name", value) if isinstance(value, Mapping) else value
            for name, value in settings.items()
        }
        notes.append(f"Found with {in_short(pairs(short), 300)}")
    return Summary("Ticket", ["weight", "shape", "kept", "pruned"], rows, [n for n in notes if n])
