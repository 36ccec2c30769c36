"""The settings by which runs differ: the columns of a report.

A setting is known by ``(part, name)``. Its part is ``run``, ``ticket`` (the ticket was found with
it) or the name of a tweak. Paths and seeds are not counted as settings.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_tf.common.settings import defaults
from lottery_tf.data.readers import FOLDER_IS_DATASET, options_of
from lottery_tf.data.settings import DataSettings
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.masks.settings import as_compared
from lottery_tf.runs.settings import CLASS_NAMES, DATA_SUM, Experiment
from lottery_tf.tweaks.settings import PARAMETERS, defaults_of, with_older_defaults

Settings = dict[tuple[str, str], Any]

RUN, TICKET, TEACHER = "run", "ticket", ("distillation", "teacher")
_PLACES_AND_SEEDS = {
    *("command", "versions", "devices", "seed", "data_seed", "data_dir", DATA_SUM, "tweaks"),
    *("ticket", "ticket_sha256", "teacher", "teacher_sha256", "model_path", "model_sha256"),
    *("dense_ticket", "dense_ticket_sha256"),
    *("rewind_path", "rewind_sha256", CLASS_NAMES),
}
# The columns sparsity and method say these.
_SAID_BY_TICKETS = {"rounds", "sparsity", "method", "train_tickets"}


class DataNames:
    """The names of folders that are datasets.

    A dataset is known by its sum. It keeps the first name that it had, and no other dataset gets
    that name. The options with which it is read decide its sum, so that it keeps the first ones
    too.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._there: dict[str, str] = {}  # folder → the sum of its data
        self._options: dict[str, dict[str, Any]] = {}

    def of(self, folder: str, sha256: str | None) -> str:
        """The name of a folder. Without a sum, as in runs of older releases, the folder's own."""
        called = Path(folder).name
        sha256 = sha256 or self._there.get(folder)
        if sha256 is None:
            return called
        self._there[folder] = sha256
        if sha256 not in self._names:
            taken = called in self._names.values()
            self._names[sha256] = f"{called} ({sha256[:8]})" if taken else called
        return self._names[sha256]

    def options(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options of the dataset of ``settings``; empty if its sum is not known."""
        if settings.get(DATA_SUM) is None:
            return {}
        own = options_of({**defaults(DataSettings), **settings})
        return self._options.setdefault(settings[DATA_SUM], own)


def settings_of(
    config: Mapping[str, Any],
    found_with: Mapping[str, Any],
    taught_with: Mapping[str, Any],
    names: DataNames | None = None,
    *,
    recorded: bool = False,
) -> Settings:
    """The settings of a retrain run.

    Args:
      config: its ``config.json``. A teacher, and a folder that is the dataset, count by their
        names, wherever they lie: the dataset is ``"idx fashion_mnist"``.
      found_with: the settings of the run that found its ticket; empty where they are unknown.
      taught_with: the settings of the run that trained its teacher; empty where they are unknown.
      names: the names of the folders that are datasets, for all runs that are compared.
      recorded: whether values are as the files have them; by default as ``as_compared`` has them,
        so that runs of older releases are equal to others.
    """
    names = names or DataNames()
    config, found_with, taught_with = (
        _with_folder(each, names) for each in (config, found_with, taught_with)
    )
    if not recorded:
        config, found_with, taught_with = map(as_compared, (config, found_with, taught_with))
    of = {(RUN, name): v for name, v in config.items() if name not in _PLACES_AND_SEEDS}
    for tweak, parameters in config.get("tweaks", {}).items():
        of |= {(tweak, name): v for name, v in parameters.items() if name != "teacher"}
    none = _PLACES_AND_SEEDS | _SAID_BY_TICKETS
    if config.get("teacher"):
        of[TEACHER] = Path(config["teacher"]).name
        of |= {_of_teacher(n): v for n, v in taught_with.items() if n in config and n not in none}
    return of | {(TICKET, name): v for name, v in found_with.items() if name not in none}


def _of_teacher(name: str) -> tuple[str, str]:
    """The setting that says with which value the teacher was trained."""
    part, teacher = TEACHER
    return part, f"{teacher}_{name}"


def _with_folder(settings: Mapping[str, Any], names: DataNames) -> Mapping[str, Any]:
    dataset, folder = settings.get("dataset"), settings.get("data_dir")
    if dataset not in FOLDER_IS_DATASET or not folder:
        return settings
    name = f"{dataset} {names.of(folder, settings.get(DATA_SUM))}"
    return {**settings, **names.options(settings), "dataset": name}


def column(setting: tuple[str, str]) -> str:
    """The setting's column: its flag's name, with ``ticket_`` or the tweak's name in front."""
    part, name = setting
    return name if part == RUN else f"{part}_{name}"


def fill_in_defaults(runs: Sequence[Settings]) -> None:
    """Fills in settings that runs of older releases lack.

    Parameters of tweaks are as ``with_older_defaults`` says, other settings have their defaults.
    """
    parts = [{part for part, _ in run} for run in runs]
    have_part = Counter(part for found in parts for part in found)
    have = Counter(setting for run in runs for setting in run)
    lacking = {setting for setting, count in have.items() if count < have_part[setting[0]]}
    if not lacking:
        return
    of_runs = defaults(*Experiment.owners())
    known = {RUN: of_runs, TICKET: of_runs | defaults(FindingSettings)}
    known |= {name: defaults(tweak) for name, tweak in PARAMETERS.items()}
    for run, has in zip(runs, parts, strict=True):
        of_tweaks = {
            (part, name): value
            for part in has & PARAMETERS.keys()
            for name, value in with_older_defaults(
                part, {name: value for (own, name), value in run.items() if own == part}
            ).items()
        }
        for part, name in lacking:
            if part in has and name in known.get(part, ()):
                run.setdefault((part, name), of_tweaks.get((part, name), known[part][name]))


def for_readers(runs: Sequence[Settings], recorded: Sequence[Settings]) -> list[Settings]:
    """The settings as readers know them. Those that differ or are equal in ``runs`` still do so.

    Args:
      runs: the settings as they are compared.
      recorded: the same as the runs' files have them. Such a value stands in place of the compared
        one if all runs that count as equal have it. Where they do not, as some are of older
        releases, the compared one stays.
    """
    forms: dict[tuple, dict[str, Any]] = {}
    for run, own in zip(runs, recorded, strict=True):
        for setting, value in run.items():
            form = own.get(setting, value)
            forms.setdefault((setting, _text(value)), {})[_text(form)] = form

    def shown(setting: tuple[str, str], value: Any) -> Any:
        (text, form), *others = forms[setting, _text(value)].items()
        return value if others or (setting, text) in forms else form

    return [{setting: shown(setting, value) for setting, value in run.items()} for run in runs]


def differing(runs: Sequence[Settings], recipes: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The settings that have more than one value among the runs that have them.

    What another column says already is left out. That is a ticket's setting that is always the
    run's own, and a teacher's that is always the run's or the ticket's. It is also a tweak's
    parameter that always has the value of the run's recipe, whose name is in ``recipes``.
    """
    values = _values(runs)
    several = [setting for setting, found in values.items() if len(found) > 1]
    said_by: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for part, name in values:
        if part in (RUN, TICKET):
            said_by.setdefault(_of_teacher(name), []).append((part, name))
        if part == RUN:
            said_by[TICKET, name] = [(RUN, name)]

    def is_said(setting: tuple[str, str]) -> bool:
        having = [run for run in runs if setting in run]
        return any(
            all(other in run and run[other] == run[setting] for run in having)
            for other in said_by.get(setting, ())
        )

    def is_named(setting: tuple[str, str]) -> bool:
        part, name = setting
        if part not in PARAMETERS or not recipes:
            return False
        usual = defaults(PARAMETERS[part]).get(name)
        return all(
            run[setting] == _as_json(defaults_of(recipe).get(column(setting), usual))
            for run, recipe in zip(runs, recipes, strict=True)
            if setting in run
        )

    return [setting for setting in several if not (is_said(setting) or is_named(setting))]


def same_in_all(runs: Sequence[Settings]) -> Settings:
    """The settings that have one value in all runs that have them.

    A ticket's or teacher's setting is left out if the run has a setting of that name.
    """
    one = {setting for setting, found in _values(runs).items() if len(found) == 1}
    value = {setting: run[setting] for run in runs for setting in run if setting in one}
    names = {name for part, name in value if part == RUN}
    names |= {f"{TEACHER[1]}_{name}" for name in names}
    return {
        (part, name): value
        for (part, name), value in value.items()
        if part == RUN or name not in names
    }


def _values(runs: Sequence[Settings]) -> dict[tuple[str, str], set[str]]:
    """The values of each setting, as JSON."""
    found: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for setting, value in run.items():
            found.setdefault(setting, set()).add(_text(value))
    return found


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
