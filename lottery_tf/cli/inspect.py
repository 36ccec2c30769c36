"""lottery-tf inspect: shows what is left of a ticket, layer by layer."""

import dataclasses

from rich.measure import Measurement
from rich.table import Table

from lottery_tf.cli.console import console, percent
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import (
    InspectSettings,
)
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import write_json
from lottery_tf.common.log import some
from lottery_tf.common.ownership import Kind, check_ours, has_keys
from lottery_tf.inspecting import PICTURE, TicketFacts, WeightFacts, draw, inspect
from lottery_tf.tickets.ticket import Ticket

UNKNOWN = "–"
_FACTS = Kind(
    "the numbers of a ticket",
    {".": has_keys("weights", "sparsity", "flops_dense", "trainable_parameters")},
)


def run(flags: Parsed) -> None:
    """Prints a row a prunable weight and the totals; draws and writes them if asked to."""
    settings = flags.settings(InspectSettings)
    (path,) = flags.positional
    for file, kind in ((settings.json, _FACTS), (settings.plot, PICTURE)):
        if file:
            check_ours(file, kind)
    ticket = Ticket.load(path)
    other = Ticket.load(settings.compare) if settings.compare else None
    facts = inspect(ticket, other)
    print_facts(path, facts)
    if settings.compare:
        print_overlap(settings.compare, facts)
    try:
        if settings.json:
            write_json(settings.json, dataclasses.asdict(facts))
        if settings.plot:
            draw(facts, settings.plot, (path, settings.compare or ""))
    except OSError as error:
        raise UsageError(f"Expected files that can be written; {error}.") from None


def print_facts(path: str, facts: TicketFacts) -> None:
    """Shows the facts as a table, FLOPs as shares of the dense network's, and the totals."""
    table = _table(
        path, "shape", "kept", "sparsity", "dead\noutputs", "FLOPs\ndense", "FLOPs\nleft"
    )
    for weight in facts.weights:
        known, collapsed = weight.outputs is not None, weight.sparsity == 1
        table.add_row(
            weight.name,
            "×".join(map(str, weight.shape)),
            f"{weight.kept:,}",
            "collapsed" if collapsed else percent(weight.sparsity),
            f"{weight.dead_outputs:,} of {weight.outputs:,}" if known else UNKNOWN,
            *_shares(weight.flops_dense, weight.flops_sparse, facts),
            style="bold red" if collapsed else None,
        )
    table.add_section()
    if facts.flops_dense:
        rest = facts.flops_dense - sum(weight.flops_dense or 0 for weight in facts.weights)
        table.add_row("left dense", *[""] * 4, *_shares(rest, rest, facts))
    shares = _shares(facts.flops_dense, facts.flops_sparse, facts)
    table.add_row("total", "", f"{facts.kept:,}", percent(facts.sparsity), "", *shares)
    _print(table)
    console.print(
        f"Pruned: {percent(facts.sparsity)} of the {facts.prunable:,} prunable weights, "
        f"{percent(facts.sparsity_total)} of all {facts.trainable_parameters:,} trainable "
        "parameters"
    )
    if facts.unknown:
        console.print(f"FLOPs: unknown. {facts.unknown}", markup=False)
        return
    console.print(
        f"FLOPs of one example: {facts.flops_dense:,} dense, {facts.flops_sparse:,} if pruned "
        "weights cost nothing; two for each multiply-add of convolutions, Dense and EinsumDense"
    )
    if facts.not_counted:
        console.print(f"Not counted: {some(facts.not_counted)}", markup=False)


def print_overlap(path: str, facts: TicketFacts) -> None:
    """Shows what two tickets have in common, and what two random ones would have."""
    table = _table(f"compared with {path}", "sparsity", "its sparsity", "Jaccard", "at random")
    for weight in facts.weights:
        if weight.other_sparsity is not None:
            table.add_row(weight.name, *_overlap(weight.sparsity, weight))
    table.add_section()
    table.add_row("total", *_overlap(facts.compared_sparsity, facts))
    _print(table)
    if facts.not_compared:
        console.print(
            f"Masked in one alone, not compared: {some(facts.not_compared)}", markup=False
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("weight", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """In a terminal as wide as that is, in a file as wide as need be."""
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table)


def _shares(dense: int | None, left: int | None, facts: TicketFacts) -> list[str]:
    """As shares of the dense network's FLOPs."""
    total = facts.flops_dense
    return [percent(f / total) if total and f is not None else UNKNOWN for f in (dense, left)]


def _overlap(sparsity: float, row: WeightFacts | TicketFacts) -> list[str]:
    shares = (row.jaccard, row.random)
    overlaps = [UNKNOWN if share is None else f"{share:.3f}" for share in shares]
    return [percent(sparsity), percent(row.other_sparsity), *overlaps]
