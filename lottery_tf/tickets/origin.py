"""Where a ticket comes from, for whoever looks at it."""

from collections.abc import Mapping
from typing import Any

from lottery_tf.common.log import counted
from lottery_tf.common.summary import Summary, in_short, pairs, percent
from lottery_tf.masks.masks import Masks

_ROWS = 12  # of weights
_SAID = {
    "method": "method",
    "round": "round",
    "rewind_step": "rewound to step",
    "model": "model",
    "dataset": "dataset",
    "seed": "seed",
    "structure": "structure",
}


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
    if isinstance(settings := info.get("settings"), Mapping) and settings:
        notes.append(f"Found with {in_short(pairs(dict(settings)), 300)}")
    return Summary("Ticket", ["weight", "shape", "kept", "pruned"], rows, [n for n in notes if n])
