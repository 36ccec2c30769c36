"""What the runs of a report have in common: data, model, length and rate, for its heading."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lottery_tf.reporting.comparing import order
from lottery_tf.reporting.runs import Gathered
from lottery_tf.reporting.tables import Report, shown
from lottery_tf.reporting.verdict import number, percent

RATE = "learning_rate"
_MOST = 3  # values that are listed
_UNITS = {"it": "step", "ep": "epoch"}


def facts(report: Report) -> list[tuple[str, str]]:
    """What it is about: a name and a few words each. What the runs do not tell is left out."""
    gathered, table = report.gathered, report.tables[0]
    runs = gathered.runs
    found = {
        "data": _data(gathered),
        "model": _model(gathered),
        "training": _listed([_length(value) for value in _values(gathered, "train_for")]),
        "learning rate": _rate(gathered, table.chosen),
        "tickets": _tickets(table.frame),
        "seeds": str(runs[["seed", "data_seed"]].drop_duplicates().shape[0]),
        "runs": str(len(runs)),
    }
    return [(name, words) for name, words in found.items() if words]


def _values(gathered: Gathered, name: str) -> list[Any]:
    """The values of a setting in all runs, by size; none where it is unknown."""
    if name in gathered.common:
        values = [gathered.common[name]]
    elif name in gathered.settings:
        values = list(gathered.runs[name].dropna().unique())
    else:
        return []
    return sorted((v for v in values if v is not None), key=lambda value: order([value]))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:_MOST]) + (f" and {len(words) - _MOST} more" if words[_MOST:] else "")


def _data(gathered: Gathered) -> str:
    words = _listed([shown(value) for value in _values(gathered, "dataset")])
    examples = _values(gathered, "train_examples")
    if words and len(examples) == 1:
        return f"{words}, {examples[0]} training examples"
    return words


def _model(gathered: Gathered) -> str:
    words = _listed([shown(value) for value in _values(gathered, "model")])
    widths = _listed([shown(value) for value in _values(gathered, "width")])
    return f"{words}, width {widths}" if words and widths else words


def _length(value: Any) -> str:
    """``30 epochs`` of ``30ep``; any other text as it is."""
    text = str(value)
    count, unit = text[:-2], _UNITS.get(text[-2:])
    if unit is None or not count.isdigit():
        return text
    return f"{count} {unit}" if count == "1" else f"{count} {unit}s"


def _rate(gathered: Gathered, chosen: Sequence[str]) -> str:
    rates = [shown(value) for value in _values(gathered, RATE)]
    if len(rates) < 2:
        return "".join(rates)
    words = ", ".join(rates)
    if len(rates) > _MOST:
        words = f"{number(len(rates))} from {rates[0]} to {rates[-1]}"
    return f"{words}; each recipe has its best on dev images" if RATE in chosen else words


def _tickets(frame: pd.DataFrame) -> str:
    methods = _listed(list(frame["method"].unique()))
    shares = [percent(share) for share in sorted(frame["sparsity"].unique())]
    if len(shares) > _MOST:
        return f"{methods}; {number(len(shares))} sparsities, {shares[0]} to {shares[-1]}"
    return f"{methods}; {', '.join(shares)} pruned"
