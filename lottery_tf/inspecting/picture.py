"""A ticket's facts as a picture: a row a weight, as in the table; its signal, a row a layer."""

import io
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import write_bytes
from lottery_tf.common.log import some
from lottery_tf.common.ownership import PICTURE_MARKS, Kind, check_ours, is_picture
from lottery_tf.common.settings import one_of
from lottery_tf.inspecting.facts import TicketFacts
from lottery_tf.inspecting.settings import SUFFIXES
from lottery_tf.inspecting.signal import SignalRow

if TYPE_CHECKING:  # matplotlib is not always there
    from matplotlib.axes import Axes

PICTURE = Kind("a picture that lottery_tf has drawn", {".": is_picture})
# Colours that colour-blind readers can tell, also by their lightness.
_BLUE, _ORANGE, _GREY = "#0072b2", "#e69f00", "#c8c8c8"
# Colour and mark of the networks: ticket, dense, with a recipe.
_LINES = ((_BLUE, "o"), ("#7f7f7f", "s"), (_ORANGE, "^"))


def draw(
    facts: TicketFacts, path: str | os.PathLike[str], names: Sequence[str] = ("ticket", "other")
) -> None:
    """Draws the sparsity of each weight, its share of the FLOPs, and the overlap of two tickets.

    Args:
      facts: what ``inspect`` returned.
      path: the file, .png or .svg; it appears whole or not at all, in the place of an older one.
      names: of the ticket and of the one it is compared with, for the title.

    Raises:
      UsageError: for another kind of file, if anything else is at ``path``, or where matplotlib
        (the extra [plot]) is missing.
    """
    figure_of = _figure_for(path)
    compared = facts.other_sparsity is not None
    panels = [_sparsity]
    panels += [_flops] if facts.flops_dense else []
    panels += [_jaccard] if compared else []
    count = len(facts.weights)
    # Many rows stand closer, so that 110 of them stay below half a metre.
    row, size = (0.24, 9) if count <= 40 else (0.14, 7)
    label = max((len(weight.name) for weight in facts.weights), default=0) * size / 120
    shape = (0.5 + label + 3.1 * len(panels), 2 + row * count)
    figure = figure_of(figsize=shape, layout="constrained")
    title = f"{names[0]}\ncompared with {names[1]}" if compared else names[0]
    title += f", but for {some(facts.not_compared)}" if facts.not_compared else ""
    figure.suptitle(title, fontsize="medium", wrap=True)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        panel(axes, facts, size)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(labeltop=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2, frameon=False)
    every[0].set_yticks(range(count), [weight.name for weight in facts.weights], fontsize=size)
    every[0].set_ylim(count - 0.4, -0.6)
    _write(figure, path)


def draw_signal(
    rows: Sequence[SignalRow],
    path: str | os.PathLike[str],
    title: str = "ticket",
    labels: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Draws the activations and the gradients of several networks, layer by layer, on log axes.

    What is 0 or unknown is a gap in the line.

    Args:
      rows: what ``side_by_side`` returned.
      path: as ``draw`` takes it.
      title: of the picture.
      labels: name of a network → its label; default: the name.

    Raises:
      UsageError: as ``draw``.
    """
    figure_of = _figure_for(path)
    count, names = len(rows), list(rows[0].gradient) if rows else []
    row, size = (0.24, 9) if count <= 40 else (0.14, 7)
    label = max((len(each.layer) for each in rows), default=0) * size / 120
    figure = figure_of(figsize=(0.5 + label + 6.2, 2 + row * count), layout="constrained")
    figure.suptitle(title, fontsize="medium", wrap=True)
    every = figure.subplots(1, 2, sharey=True)
    heads = {"activations": "Mean square of activations", "gradient": "Norm of gradients"}
    for axes, (what, head) in zip(every, heads.items(), strict=True):
        for name, (colour, mark) in zip(names, itertools.cycle(_LINES)):
            found = [getattr(each, what)[name] or math.nan for each in rows]
            style = {"color": colour, "marker": mark, "ms": 4, "label": labels.get(name, name)}
            axes.plot(found, range(count), **style)
        axes.set(title=head, xscale="log")
        axes.tick_params(axis="x", which="minor", labelsize=6)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2, frameon=False)
    every[0].set_yticks(range(count), [each.layer for each in rows], fontsize=size)
    every[0].set_ylim(count - 0.4, -0.6)
    _write(figure, path)


def _figure_for(path: str | os.PathLike[str]) -> Any:
    """matplotlib's class; a UsageError where it is missing or no picture may be at ``path``."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"Expected a picture {one_of(SUFFIXES)}, got {path}.")
    check_ours(path, PICTURE)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "Expected matplotlib for the picture; it is not installed: install lottery_tf with "
            "its extra [plot]."
        ) from None
    return Figure


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    import matplotlib  # which is there, as the figure is
    from matplotlib.text import Text

    suffix, content = Path(path).suffix.lower(), io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may hold $
    with matplotlib.rc_context({"text.parse_math": False}):  # and what is drawn late
        figure.savefig(content, format=suffix[1:], dpi=150, metadata=PICTURE_MARKS[suffix])
    write_bytes(path, content.getvalue())


def _sparsity(axes: "Axes", facts: TicketFacts, size: int) -> None:
    """Bars of one or two tickets; a number beside each where there is one."""
    weights = facts.weights
    own = facts.sparsity if facts.compared_sparsity is None else facts.compared_sparsity
    tickets = [("ticket", _BLUE, own, [w.sparsity for w in weights])]
    if facts.other_sparsity is not None:
        others = [_known(w.other_sparsity) for w in weights]
        tickets.append(("compared", _ORANGE, facts.other_sparsity, others))
    height = 0.8 / len(tickets)
    style: dict[str, Any] = {"va": "center", "fontsize": size if len(tickets) == 1 else 0.7 * size}
    for number, (name, colour, total, shares) in enumerate(tickets):
        places = [row + height * (number + 0.5) - 0.4 for row in range(len(weights))]
        label = f"{name}: {100 * total:.2f} in total"
        axes.barh(places, [100 * share for share in shares], height, color=colour, label=label)
        for place, share in zip(places, shares, strict=True):
            if share == 1:
                axes.text(101, place, "collapsed", weight="bold", **style)
            elif len(tickets) == 1:
                axes.text(100 * share + 1, place, f"{100 * share:.2f}", **style)
    axes.set(title="Sparsity, %", xlim=(0, 125), xticks=range(0, 101, 25))


def _flops(axes: "Axes", facts: TicketFacts, size: int) -> None:
    """The ticket's FLOPs in front of the dense network's."""

    dense, kept = facts.flops_dense or 1, facts.flops_sparse or 0  # drawn where both are known

    def bars(flops: Sequence[int | None], height: float, colour: str, label: str) -> None:
        shares = [100 * (each or 0) / dense for each in flops]
        axes.barh(range(len(shares)), shares, height, color=colour, label=label)

    left = 100 * kept / dense
    bars([w.flops_dense for w in facts.weights], 0.8, _GREY, "dense")
    bars([w.flops_sparse for w in facts.weights], 0.4, _BLUE, f"ticket: {left:.2f} in total")
    axes.set(title="FLOPs, % of the dense network's")


def _jaccard(axes: "Axes", facts: TicketFacts, size: int) -> None:
    """The overlap of the two masks, and a line where that of two random ones would be."""
    overlaps = [(_known(w.jaccard), _known(w.random)) for w in facts.weights]
    rows = range(len(overlaps))
    found, random = zip(*overlaps, strict=True) if overlaps else ((), ())
    total = "none" if facts.jaccard is None else f"{facts.jaccard:.3f}"
    axes.barh(rows, found, 0.8, color=_GREY, label=f"these two: {total} in total")
    axes.plot(random, rows, "|", color="black", ms=size, mew=2, label="two random masks")
    axes.set(title="Jaccard overlap", xlim=(0, 1))


def _known(share: float | None) -> float:
    """``share``; NaN, which is not drawn, where there is none."""
    return math.nan if share is None else share
