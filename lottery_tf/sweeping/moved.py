"""A sweep whose data, models or teachers have moved: its runs keep their names.

A trial's folder is named by a hash of its settings, and paths are among them. A sweep may have
begun with another path than the one that is asked for now. This is so if the same content lay
there, by the sums that runs have noted, and if more runs are named by that path. Then the trials
go on under those names.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256
from lottery_tf.common.settings import defaults
from lottery_tf.data import DataSettings, content_sha256
from lottery_tf.data.readers import FOLDER_IS_DATASET, options_of
from lottery_tf.runs.folder import read_config
from lottery_tf.runs.settings import DATA_SUM
from lottery_tf.sweeping.trials import FindTrial, Places, Trial

# A setting that is a path → the keys of the path and of its content's sum in a run's config.json.
_NOTED = {
    "data_dir": ("data_dir", DATA_SUM),
    "model_path": ("model_path", "model_sha256"),
    "rewind_path": ("rewind_path", "rewind_sha256"),
    "distillation_teacher": ("teacher", "teacher_sha256"),
    "rescaled_init_dense": ("dense_ticket", "dense_ticket_sha256"),
}


class _Place(NamedTuple):
    setting: str
    path: str | None
    dataset: str | None = None
    options: tuple[tuple[str, Any], ...] = ()  # with which the dataset is read


def named_as_begun(trials: Sequence[Trial], out: Path) -> list[Trial]:
    """The trials, with the names of the runs that lie in the sweep's folder ``out``."""
    noted = _noted(out)
    asked = {place for trial in trials for place in _places_of(trial)}
    others = {other: content for other, content in noted.items() if other not in asked}
    ways = {place: (place, *_same(place, others)) for place in sorted(asked, key=str)}
    votes: collections.Counter[tuple[_Place, _Place]] = collections.Counter()
    for trial in trials:
        own = ([(p, other) for other in ways[p]] for p in dict.fromkeys(_places_of(trial)))
        for way in itertools.product(*own):  # a trial has few paths
            if (out / _named(trial, _as_places(way)).folder).exists():
                votes.update(way)
    # The path that is asked for, unless more runs are named by another one.
    chosen = [(place, max(same, key=lambda o: votes[place, o])) for place, same in ways.items()]
    return [_named(trial, _as_places(chosen)) for trial in trials]


def _as_places(way: Iterable[tuple[_Place, _Place]]) -> Places:
    return {(there.setting, there.path): other.path for there, other in way if other != there}


def _same(place: _Place, others: Mapping[_Place, str]) -> list[_Place]:
    """The other places, of the same kind, that had the content that ``place`` has now."""
    alike = [o for o in others if (o.setting, o.dataset) == (place.setting, place.dataset)]
    try:
        return alike and [other for other in alike if others[other] == _content(place)]
    except (UsageError, OSError):
        return []  # the trials that need it say that it is gone or damaged


def _named(trial: Trial, places: Places) -> Trial:
    if isinstance(trial, FindTrial):
        return dataclasses.replace(trial, places=places)
    found = dataclasses.replace(trial.found, places=places)
    teacher = trial.teacher and dataclasses.replace(trial.teacher, places=places)
    return dataclasses.replace(trial, found=found, teacher=teacher, places=places)


def _places_of(trial: Trial) -> Iterator[_Place]:
    """The paths among the settings of a trial and of the trials that it needs."""
    data = trial.experiment.data
    yield _Place("data_dir", data.data_dir, data.dataset, _options(vars(data)))
    if isinstance(trial, FindTrial):
        own: Mapping[str, Any] = vars(trial.finding)
    else:
        yield from _places_of(trial.found)
        own = trial.parameters
    for setting in _NOTED.keys() - {"data_dir"}:
        if own.get(setting) is not None:
            yield _Place(setting, own[setting])


def _noted(out: Path) -> dict[_Place, str]:
    """The paths that runs in a sweep's folder have noted, and the sum of the content of each."""
    found = {}
    for file in sorted(out.glob("*/*/config.json")):
        try:
            config = read_config(file.parent)
        except UsageError:
            continue  # its own trial says that it is damaged
        for setting, (key, key_of_sum) in _NOTED.items():
            place = _Place(setting, config.get(key))
            if setting == "data_dir":
                options = _options({**defaults(DataSettings), **config})
                place = place._replace(dataset=config.get("dataset"), options=options)
            content = place.dataset if _is_named(place) else config.get(key_of_sum)
            if content is not None:
                found[place] = content
    return found


def _options(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(options_of(settings).items())


def _is_named(place: _Place) -> bool:
    """Whether a dataset is known by its name alone."""
    return place.dataset is not None and place.dataset not in FOLDER_IS_DATASET


def _content(place: _Place) -> str:
    """The sum of the content there now, or the dataset's name, as runs note it."""
    if place.dataset is not None:
        if _is_named(place):
            return place.dataset
        return content_sha256(place.dataset, place.path, **dict(place.options))
    at = Path(place.path or "")
    return sha256(at / "ticket.json" if place.setting == "rescaled_init_dense" else at)
