"""lottery-tf inspect: shows what is left of a ticket, layer by layer."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.measure import Measurement
from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import InspectSettings, SignalSettings, parameters_for
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import write_json
from lottery_tf.common.log import log, some
from lottery_tf.common.ownership import Kind, check_ours, has_keys
from lottery_tf.common.summary import percent
from lottery_tf.data import DataSettings, load
from lottery_tf.data.settings import data_as_in_older_release
from lottery_tf.inspecting import (
    PICTURE,
    Signal,
    TicketFacts,
    WeightFacts,
    blocked,
    draw,
    draw_signal,
    inspect,
    sentence_of,
    side_by_side,
)
from lottery_tf.inspecting.signal import signal
from lottery_tf.runs.experiment import check_data
from lottery_tf.runs.find import round_folder
from lottery_tf.runs.retrain import complete_recipe
from lottery_tf.runs.settings import Experiment
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.settings import as_read, names_in

UNKNOWN = "–"
_FACTS = Kind(
    "the numbers of a ticket",
    {".": has_keys("weights", "sparsity", "flops_dense", "trainable_parameters")},
)


def run(flags: Parsed) -> None:
    """Prints a row for each prunable weight and the totals; draws and writes them if asked to."""
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
    signals, numbers = {}, dataclasses.asdict(facts)
    if flags.settings(SignalSettings).signal:
        signals = signals_of(Path(path), ticket, flags)
        numbers["signal"] = _numbers(signals)
        print_signals(path, signals, flags.settings(SignalSettings).recipe)
    try:
        if settings.json:
            write_json(settings.json, numbers)
        if settings.plot and signals:
            labels = {"recipe": f"with {as_read(flags.settings(SignalSettings).recipe or '')}"}
            draw_signal(side_by_side(**signals), settings.plot, path, labels)
        elif settings.plot:
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
            f"Not compared, since one ticket has no mask there: {some(facts.not_compared)}",
            markup=False,
        )


def signals_of(path: Path, ticket: Ticket, flags: Parsed) -> dict[str, Signal]:
    """The signal of the ``ticket``, of the ``dense`` network of its run, and of the ticket with the
    ``recipe``, where there are these. All see the first batches of the training.

    Raises:
      UsageError: if neither the flags nor the ticket say which data, or they do not fit.
    """
    settings = flags.settings(SignalSettings)
    found_with = data_as_in_older_release(ticket.info.get("settings", {}))
    if "dataset" not in {*flags.given, *found_with}:
        raise UsageError(
            f"Expected the ticket {path} to say which data its network is trained on; it does not "
            f"(method {ticket.info.get('method')}): give --dataset."
        )
    with console.status("reading data, looking at the layers"):
        data = load(flags.settings(DataSettings, **found_with))
        model = ticket.build()
        check_data(model, data, f"ticket in {path}")
        batches = data.stream(ticket.info.get("rewind_step", 0))
        networks = {"ticket": model}
        if dense := _dense_of(path, ticket):
            networks["dense"] = dense.build()
        if settings.recipe:
            recipe = Recipe(settings.recipe, parameters_for(settings.recipe, flags))
            # A teacher is used in the loss alone, which is not looked at here.
            recipe = Recipe([each for each in recipe.tweaks if not isinstance(each, Distillation)])
            recipe = complete_recipe(recipe, path, Experiment.restore(found_with))
            networks["recipe"] = recipe.prepare(ticket.build(), data.stream())
        return {
            name: signal(each, batches, batches=settings.batches) for name, each in networks.items()
        }


def _dense_of(path: Path, ticket: Ticket) -> Ticket | None:
    """The dense ticket of the ticket's own run; None, and a line in the log, if it is not there."""
    place = round_folder(path.resolve().parent.parent, 0)
    dense = Ticket.load(place) if (place / "ticket.json").is_file() else None
    if dense is None:
        log.info("No dense network to compare with: there is no %s.", place)
    elif any(not mask.all() for mask in dense.masks.values()) or not _same_network(dense, ticket):
        log.info("No dense network to compare with: %s is pruned or of another network.", place)
        return None
    return dense


def _same_network(one: Ticket, other: Ticket) -> bool:
    shapes = [{name: value.shape for name, value in each.weights.items()} for each in (one, other)]
    return shapes[0] == shapes[1]


def print_signals(path: str, signals: dict[str, Signal], recipe: str | None) -> None:
    """Shows the signals of several networks layer by layer, and the layers that get none."""
    table = Table(title=f"{path}: mean square of activations, norm of gradients")
    table.add_column("layer", overflow="fold")
    for what in ("activations", "gradient"):
        for name in signals:
            table.add_column(f"{what}\n{name}", justify="right", no_wrap=True)
    for row in side_by_side(**signals):
        found = [*row.activations.values(), *row.gradient.values()]
        table.add_row(row.layer, *(UNKNOWN if each is None else f"{each:.3g}" for each in found))
    table.add_section()
    _print(table)
    losses = ", ".join(f"{name} {each.loss:.4g}" for name, each in signals.items())
    console.print(f"Loss: {losses}", markup=False)
    dense = signals.get("dense")
    if told := sentence_of(signals["ticket"], dense):
        console.print(told, markup=False)
    if "recipe" in signals:
        told = sentence_of(signals["recipe"], dense, names_in(recipe or ""))
        told = told or "the signal reaches every layer."
        console.print(f"With {as_read(recipe or '')}: {told}", markup=False)


def _numbers(signals: dict[str, Signal]) -> dict[str, Any]:
    """The signals as JSON has them."""
    dense = signals.get("dense")
    return {
        "layers": [dataclasses.asdict(row) for row in side_by_side(**signals)],
        "loss": {name: each.loss for name, each in signals.items()},
        "inputs": signals["ticket"].inputs,
        "blocked": {
            name: blocked(each, dense) for name, each in signals.items() if name != "dense"
        },
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("weight", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """As wide as the terminal; in a file as wide as the content needs."""
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
