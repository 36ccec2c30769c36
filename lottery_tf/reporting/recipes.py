"""Recipes compared in a program: one ticket, retrained by each recipe with each seed."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, some
from lottery_tf.common.settings import check_number
from lottery_tf.common.summary import UNKNOWN, Summarised, Summary, in_short, percent
from lottery_tf.graph.compat import keras
from lottery_tf.reporting.comparing import CONFIDENCE
from lottery_tf.reporting.comparing import compare as compared
from lottery_tf.reporting.runs import VANILLA
from lottery_tf.reporting.tables import Table, cells, head, markdown
from lottery_tf.reporting.trial import Fit, Trial
from lottery_tf.tickets.ticket import Ticket, ticket_of
from lottery_tf.training.progress import Progress
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.settings import as_read


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Summarised):
    """What recipes come to on one ticket.

    Attributes:
      table: the report's table of them.
    """

    table: Table

    @property
    def frame(self) -> pd.DataFrame:
        """A row a recipe: ``recipe``, ``seeds``, and means such as ``test_accuracy`` with their
        standard errors, ``test_accuracy_sem``. ``gain`` is that over the baseline in ``pairs`` of
        the same seed, with ``gain_sem``, the interval from ``gain_low`` to ``gain_high``, ``p`` and
        ``p_holm``. Accuracies and gains are shares."""
        return self.table.frame

    @property
    def runs(self) -> pd.DataFrame:
        """A row a run: ``recipe``, ``seed``, ``test_accuracy``, ``seconds`` and so on."""
        return self.table.runs

    def markdown(self) -> str:
        """The table in Markdown, what it is about below."""
        return markdown(self.table)

    def __repr__(self) -> str:
        recipes = counted(len(self.frame), "recipe")
        return f"Comparison({recipes}, {counted(len(self.runs), 'run')}, {self.table.title})"

    def summary(self) -> Summary:
        """What ``print`` and notebooks show: a row a recipe, as in a report."""
        names, rows = head(self.table)[2:], [row[2:] for row in cells(self.table)]
        told = [
            place
            for place, column in enumerate(zip(*rows, strict=True))
            if not place or any(cell not in ("", UNKNOWN) for cell in column)
        ]
        shown = [[row[place] for place in told] for row in rows]
        return Summary(self.table.title, [names[i] for i in told], shown, self.table.about)


def compare(
    model_or_ticket: keras.Model | Ticket,
    recipes: Sequence[str | Recipe] | Mapping[str, str | Recipe],
    seeds: Iterable[int] = (0, 1, 2),
    fit: Fit | None = None,
    *,
    train_data: Any = None,
    test_data: Any = None,
    dev_data: Any = None,
    optimizer: Any = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    loss: Any = None,
    jit_compile: bool | None = None,
    baseline: str = VANILLA,
    verbose: int | str = "auto",
) -> Comparison:
    """Retrains one ticket by each recipe with each seed, and compares what they come to.

    The short form trains by itself::

        lt.compare(
            ticket, ["vanilla", "label_smoothing", "tost"], seeds=range(5),
            train_data=(x_train, y_train), test_data=(x_test, y_test),
            optimizer=keras.optimizers.Adam(1e-3), epochs=10,
        )

    A ``fit`` of your own compiles and trains the prepared model. The tweaks are taken off and the
    finished model is measured on ``test_data`` afterwards::

        def fit(model, recipe, seed):
            model.compile("adam", loss=recipe.loss(), metrics=["accuracy"])
            model.fit(x_train, y_train, epochs=10, callbacks=recipe.callbacks(), verbose=0)

        lt.compare(
            ticket, ["vanilla", "tost"], range(5), fit,
            train_data=(x_train, y_train), test_data=(x_test, y_test),
        )

    Args:
      model_or_ticket: a ticket, or a model with zeros in its kernels, of which a ticket is made as
        by ``Ticket.from_pruned``. It is left as it is.
      recipes: recipes or their names; a mapping gives each a label, which two recipes of one name
        with other parameters need. The baseline is added where it is not among them.
      seeds: of each recipe's runs. Before each run the seed is set by ``keras.utils``.
      fit: a function of the prepared model, the recipe and the seed. If it returns None, the model
        is finished and measured here, as if it returns Keras' ``History``; a finished model is
        measured. Or it returns the test accuracy
        in [0, 1], or a mapping with ``test_accuracy``, ``dev_accuracy``, ``train_accuracy``, as far
        as they are known. Default: the training of ``find_tickets``, from the ticket's rewind step
        to the end of ``epochs``.
      train_data: as ``find_tickets`` takes them, or a function of the seed that gives them. With a
        ``fit`` of your own they are for the tweaks that look at data, as in ``tost``. Arrays are
        shuffled by the seed, alike for all recipes. A ``tf.data.Dataset`` has an order of its own:
        give a function for the seeds to decide it.
      test_data: (inputs, labels), with an end; measured when a run has ended.
      dev_data: the same, measured besides.
      optimizer: as ``find_tickets`` takes it, without a ``fit``; each run has a new one.
      epochs, steps_per_epoch, loss: likewise. ``loss`` is that of the measurement too; default:
        cross-entropy, on logits or probabilities as the model has them.
      jit_compile: whether XLA compiles the steps. That takes seconds in each run, and pays off in
        long ones; default: it does not, on TensorFlow.
      baseline: the label of the recipe that the others are compared with.
      verbose: what is shown. 0: nothing. 1: one line that is written over, and a line for each run.
        2: a line for each epoch too. "auto": 1 in a terminal or a notebook, 2 elsewhere.

    Returns:
      A ``Comparison``: ``print`` shows it, ``frame`` and ``runs`` have the numbers. Mean and
      standard error are over the seeds; gains are paired by seed, with a 95 % interval and p of a
      paired t-test, corrected by Holm. One seed has none of these, as is said.

    Raises:
      UsageError: for unknown recipes, two of one label, no seed or one twice, and missing data. For
        arguments that only the training without ``fit`` takes. And for what ``fit`` returns if it
        is none of the above.
      Diverged: if weights become NaN or infinite.
    """
    ticket = ticket_of(model_or_ticket)
    named, notes = _named(recipes, baseline)
    chosen = _seeds(seeds)
    if fit is None:
        _check_given(train_data=train_data, test_data=test_data, optimizer=optimizer, epochs=epochs)
        if isinstance(train_data, tf.data.Dataset) and len(chosen) > 1:
            notes.append(
                "A tf.data.Dataset has its own order, whatever the seed. Where it is fixed, seeds "
                "differ by noise such as dropout alone: give a function seed → data."
            )
    else:
        needless = {"optimizer": optimizer, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
        if given := [name for name, value in needless.items() if value is not None]:
            raise UsageError(
                f"Expected either fit, which trains, or {some(given)} for the training without it; "
                "got both."
            )
    if epochs is not None:
        check_number(epochs, "epochs", whole=True)
    trial = Trial(
        *(ticket, fit, train_data, {"test": test_data, "dev": dev_data}, optimizer),
        *(epochs, steps_per_epoch, loss, jit_compile),
    )
    rows: list[dict[str, Any]] = []
    total = len(chosen) * len(named)
    length, per_epoch = trial.length(chosen[0])
    shown = Progress(verbose, total * length, per_epoch)
    for seed in chosen:
        for label, recipe in named.items():
            begun = time.perf_counter()
            name = in_short(as_read(label), 60)
            shown.begin(f"run {len(rows) + 1} of {total}: {name}, seed {seed}", length)
            found = trial.run(recipe, seed, f"by {name} with seed {seed}", shown)
            rows.append(
                {
                    **{"run": f"{label}, seed {seed}", "recipe": label, "seed": seed},
                    **{"data_seed": seed, "ticket_sha256": "the ticket", **found},
                    "best_dev_test_accuracy": np.nan,
                    "seconds": time.perf_counter() - begun,
                }
            )
            shown.end(f"test accuracy {percent(found['test_accuracy'])}")
    frame = pd.DataFrame(rows)
    method = str(ticket.info.get("method") or "unknown")
    frame = frame.assign(method=method, sparsity=ticket.sparsity, level=ticket.sparsity)
    frame = frame.assign(sparsity_total=ticket.sparsity_total)
    table, more = compared(frame, [], [], baseline)
    places = {label: place for place, label in enumerate(named)}
    table = table.sort_values("recipe", key=lambda column: column.map(places))
    table = table.reset_index(drop=True)
    about = [
        "Accuracies of the finished models in percent, mean ± standard error over the seeds.",
        f"Gains over {as_read(baseline)} with the same seed in points, with a "
        f"{100 * CONFIDENCE:.0f} % interval and p of a paired t-test; the last column is corrected "
        "by Holm.",
        *notes,
        *more,
    ]
    title = f"Recipes on a ticket of {percent(ticket.sparsity)} sparsity ({in_short(method)})"
    return Comparison(Table("table", title, frame, table, [], [], about, baseline))


def _named(recipes: Any, baseline: str) -> tuple[dict[str, Recipe], list[str]]:
    """The recipes by their labels, the baseline in front, and a sentence if that was added."""
    if isinstance(recipes, str | Recipe):
        recipes = [recipes]
    if isinstance(recipes, Mapping):
        pairs = [(str(label), each) for label, each in recipes.items()]
    else:
        pairs = [(each.name if isinstance(each, Recipe) else str(each), each) for each in recipes]
    labels = [label for label, _ in pairs]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(
            f"Expected recipes of different names; {some(twice)} came twice: give a mapping, label "
            "→ recipe."
        )
    found = {label: e if isinstance(e, Recipe) else Recipe(e) for label, e in pairs}
    notes = []
    if baseline not in found:
        if baseline != VANILLA:
            raise UsageError(
                f"Expected the baseline among the recipes {some(labels)}; '{baseline}' is not."
            )
        found[VANILLA] = Recipe(VANILLA)
        notes.append(f"{VANILLA} was added: without it there is nothing to compare with.")
    first = found.pop(baseline)
    return {baseline: first, **found}, notes


def _seeds(given: Iterable[int]) -> list[int]:
    seeds = list(given) if isinstance(given, Iterable) else [given]
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in seeds)
    listed = isinstance(given, Iterable)  # a number alone may mean so many seeds, or that one
    if not listed or not seeds or not whole or len(set(seeds)) < len(seeds):
        raise UsageError(
            "Expected seeds, each a whole number once, such as range(5) or [3]; got "
            f"{in_short(seeds if listed else given)}."
        )
    return [int(seed) for seed in seeds]


def _check_given(**needed: Any) -> None:
    if missing := [name for name, value in needed.items() if value is None]:
        raise UsageError(
            f"Expected {some(missing)}: without a fit of your own the training needs train_data, "
            "optimizer and epochs, and the measurement test_data."
        )
