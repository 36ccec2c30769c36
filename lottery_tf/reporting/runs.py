"""The retrain runs below some folders, as a table with a row a run."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, some
from lottery_tf.common.settings import check_types, nearest
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.reporting.differences import (
    RUN,
    TICKET,
    DataNames,
    Settings,
    column,
    differing,
    fill_in_defaults,
    for_readers,
    same_in_all,
    settings_of,
)
from lottery_tf.reporting.tickets import Origin, TicketsBelow, origin, teacher_settings
from lottery_tf.runs.records import read_config, read_result
from lottery_tf.runs.settings import Experiment
from lottery_tf.tweaks.settings import as_read

# What a run has below itself, none of which is a run.
_OF_A_RUN = {"model", "checkpoint", "tickets", "dense_model"}
_NEEDED = ("recipe", "sparsity", "sparsity_total", "seconds", "seed")
_OPTIONAL = (
    *("test_accuracy", "dev_accuracy", "train_accuracy", "best_dev_test_accuracy"),
    "nonzero_parameters",
)
VANILLA = "vanilla"
# The columns by which the rows of a table differ, before the settings.
KIND = ("recipe", "method", "level")
# Two sparsities count as one if the shares of weights they leave differ by less than this.
_SAME = 0.01


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What lies below the folders.

    Attributes:
      runs: a row a finished retrain run: ``run`` (its folder), ``recipe``, ``method`` of its
        ticket, ``ticket_sha256``, and ``data_seed``. ``level`` is the mean of the sparsities that
        count as one with its own, ``ticket`` the ticket's folder, None where it is gone. Then
        the shares, counts and seconds of ``result.json``, by their names there. Then ``settings``:
        None is a setting's own default, or stands where a run has no such setting.
      settings: the columns of settings that differ between the runs.
      of_tweaks: those of them that are parameters of tweaks. Vanilla has none.
      known: the columns that the runs' settings would have, whether they differ or not.
      notes: sentences on what is left out or unknown.
      baseline: the recipe that the others are compared with.
      common: the other settings, each with the one value that it has in all runs that have it.
    """

    runs: pd.DataFrame
    settings: list[str]
    of_tweaks: list[str]
    known: frozenset[str]
    notes: list[str]
    baseline: str = VANILLA
    common: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shared(self) -> list[str]:
        """The settings that every recipe has."""
        return [name for name in self.settings if name not in self.of_tweaks]


def gather(folders: Sequence[str | os.PathLike], baseline: str = VANILLA) -> Gathered:
    """Reads the retrain runs below ``folders``, at any depth; each folder counts once.

    Args:
      folders: any number.
      baseline: the recipe that the others are compared with. Some run has to have it, unless it
        is vanilla.

    Raises:
      UsageError: if a folder is not there, if no finished retrain run is below any of them, or if
        no run has the baseline's recipe.
    """
    left_out: dict[str, list[str]] = {}
    rows: list[dict[str, Any]] = []
    settings: list[Settings] = []
    recorded: list[Settings] = []
    tickets, data_names = TicketsBelow(folders), DataNames()
    for run, top in _runs_below(folders):
        try:
            if found := _read(run, top, tickets, data_names):
                rows.append(found[0])
                settings.append(found[1])
                recorded.append(found[2])
        except _LeftOut as why:
            left_out.setdefault(str(why), []).append(str(run))
    notes = [f"{counted(len(r), 'run')} left out, {why}: {some(r)}." for why, r in left_out.items()]
    if not rows:
        raise UsageError(
            "Expected folders with finished retrain runs (config.json, result.json) below them; "
            f"there is none below {', '.join(map(str, folders))}. {' '.join(notes)}".strip()
        )
    recipes = {row["recipe"] for row in rows}
    if baseline not in recipes | {VANILLA}:
        raise UsageError(
            f"Expected a recipe of the runs as the baseline, got "
            f"'{as_read(baseline)}'{nearest(as_read(baseline), sorted(map(as_read, recipes)))}."
        )
    fill_in_defaults(settings)
    differ = differing(settings, [row["recipe"] for row in rows])
    settings = for_readers(settings, recorded)
    runs = pd.DataFrame(rows, columns=list(rows[0]))
    runs["ticket"] = pd.Series([row["ticket"] for row in rows], dtype=object)  # keeps its None
    runs["level"] = _levels(runs["sparsity"])
    for each in differ:
        runs[column(each)] = pd.Series([_cell(own.get(each)) for own in settings], dtype=object)
    if gone := list(runs["run"][runs["ticket"].isna()]):
        notes.append(
            f"{counted(len(gone), 'run')} whose ticket is gone or changed. Its layers are unknown, "
            f"and its method too, unless a find run tells it: {some(gone)}."
        )
    names = [column(each) for each in differ]
    runs, repeated = _once(runs, names, baseline)
    of_tweaks = [column(each) for each in differ if each[0] not in (RUN, TICKET)]
    known = frozenset(column(each) for own in settings for each in own)
    common = {column(each): _cell(value) for each, value in same_in_all(settings).items()}
    return Gathered(runs, names, of_tweaks, known, notes + repeated, baseline, common)


def key(row: Any, columns: Iterable[str]) -> tuple:
    """The values of some columns of a row. Missing ones are None, which equals itself."""
    return tuple(None if pd.isna(row[name]) else row[name] for name in columns)


class _LeftOut(Exception):
    """Why a run is left out. Its text is read behind a number of runs."""


def _runs_below(folders: Iterable[str | os.PathLike]) -> Iterator[tuple[Path, Path]]:
    """Folders with config.json or result.json, and below which of ``folders`` they are."""
    seen = set()
    for top in map(Path, folders):
        if not top.is_dir():
            raise UsageError(f"Expected a folder with runs below it, got {top}: there is none.")
        for path, inner, files in os.walk(top):
            is_run = bool({"config.json", "result.json"} & set(files))
            inside = _OF_A_RUN if is_run else set()
            inner[:] = sorted(name for name in inner if name not in inside and name[0] != ".")
            real = os.path.realpath(path)
            if is_run and real not in seen:
                seen.add(real)
                yield Path(path), top


def _read(
    run: Path, top: Path, tickets: TicketsBelow, data_names: DataNames
) -> tuple[dict[str, Any], Settings, Settings] | None:
    """A run's row, its settings as they are compared and as they are recorded; None for runs of
    other commands."""
    if os.fsencode(run) != str(run).encode(errors="replace"):  # pandas holds no other texts
        raise _LeftOut("whose folder's name is no UTF-8")
    if not (run / "config.json").is_file():
        raise _LeftOut("without config.json")
    try:
        config = read_config(run)
        if config.get("command") != "retrain":
            return None
        _check_kinds(config)
    except (UsageError, OSError):
        raise _LeftOut("config.json damaged") from None
    if not (run / "result.json").is_file():
        raise _LeftOut("not finished (no result.json)")
    try:
        result = read_result(run)
    except (UsageError, OSError):
        raise _LeftOut("result.json damaged") from None
    # A run that is tuned is measured on the test images only if its values are the best.
    measured = "test_accuracy" if result.get("dev_accuracy") is None else "dev_accuracy"
    if missing := [name for name in (*_NEEDED, measured) if result.get(name) is None]:
        raise _LeftOut(f"without {', '.join(missing)} in result.json")
    ticket = origin(run, config, top, tickets)
    try:
        check_types(ticket.settings, *Experiment.owners(), FindingSettings)
    except UsageError:
        raise _LeftOut("whose ticket's settings are damaged") from None
    row = {
        "run": str(run),
        "recipe": result["recipe"],
        "method": ticket.method or "unknown",
        **{name: result[name] for name in _NEEDED if name != "recipe"},
        **{name: result.get(name) for name in _OPTIONAL},
        "data_seed": config.get("data_seed"),
        "ticket_sha256": config.get("ticket_sha256"),
        "ticket": ticket.folder and str(ticket.folder),
        "draw": _draw(ticket, config),
    }
    of = config, ticket.settings, teacher_settings(run, config, top), data_names
    return row, settings_of(*of), settings_of(*of, recorded=True)


def _draw(ticket: Origin, config: dict[str, Any]) -> str | None:
    """A key that two tickets share if one is the other, found again: the seeds of their runs.

    A model's file, and a ticket whose run is unknown, have keys of their own.
    """
    if ticket.method == "from_model" or "seed" not in ticket.settings:
        return config.get("ticket_sha256")
    return f"seeds {ticket.settings['seed']}, {ticket.settings.get('data_seed')}"


def _check_kinds(config: dict[str, Any]) -> None:
    """Raises UsageError where a setting is of another type than a retrain run writes."""
    check_types(config, *Experiment.owners())
    for name in ("ticket", "ticket_sha256", "teacher"):
        if not isinstance(config.get(name), str | None):
            raise UsageError(f"Expected {name} to be a text, got {config[name]!r}.")


def _cell(value: Any) -> Any:
    """A setting's value as one cell of a table."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _levels(sparsities: pd.Series) -> pd.Series:
    """For each sparsity, the mean of all that count as one with it."""
    left = (1 - sparsities).sort_values(ascending=False)
    first, number, group = None, 0, {}
    for place, share in left.items():
        if first is None or share < (1 - _SAME) * first:
            first, number = share, number + 1
        group[place] = number
    return sparsities.groupby(pd.Series(group)).transform("mean")


def _once(runs: pd.DataFrame, settings: list[str], baseline: str) -> tuple[pd.DataFrame, list[str]]:
    """The runs without repetitions, and a sentence on the repetitions.

    Within a row each pair of seeds counts once, as a ticket that was found twice is one draw of its
    method. To keep pairs together, the ticket with a run of the baseline is kept, and then the one
    with the most runs.
    """
    same = [*KIND, "draw", "seed", "data_seed", *settings]
    keys = pd.Series([key(row, same) for _, row in runs.iterrows()])
    runs = runs.drop(columns="draw")
    tickets = runs["ticket_sha256"]
    ranks = {
        "unpaired": ~tickets.isin(tickets[runs["recipe"] == baseline]),
        "runs": -tickets.map(tickets.value_counts()),
        "ticket": tickets,
    }
    order = pd.DataFrame(ranks).sort_values([*ranks], kind="stable").index
    repeated = keys[order].duplicated()[runs.index]
    if not repeated.any():
        return runs, []
    names = list(runs["run"][repeated])
    note = (
        f"{counted(len(names), 'run')} left out, of the same recipe, method, sparsity, seeds and "
        f"settings as another one: {some(names)}."
    )
    return runs[~repeated].reset_index(drop=True), [note]
