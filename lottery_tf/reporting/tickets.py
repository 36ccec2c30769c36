"""The tickets and teachers of retrain runs: where they lie now, and what their files say."""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines, sha256
from lottery_tf.common.settings import check_types
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.masks.masks import Masks
from lottery_tf.runs.records import read_config
from lottery_tf.runs.settings import Experiment


class Origin(NamedTuple):
    """Where a run's ticket comes from.

    Attributes:
      folder: of the ticket; None where it is gone.
      method: that found its mask; None where that is unknown.
      settings: of the run that found it; empty where they are unknown.
    """

    folder: Path | None
    method: str | None
    settings: Mapping[str, Any]


class TicketsBelow:
    """The tickets below some folders, by the sums that runs note. The search begins when needed."""

    def __init__(self, tops: Iterable[str | os.PathLike]):
        self._tops = tops

    def having(self, sha256_of_record: str | None) -> list[Path]:
        """The folders of the tickets whose ``ticket.json`` has a sum."""
        return self._by_sum.get(sha256_of_record, [])

    @functools.cached_property
    def _by_sum(self) -> dict[str | None, list[Path]]:
        found: dict[str | None, list[Path]] = {}
        for top in self._tops:
            for file in sorted(Path(top).rglob("ticket.json")):
                found.setdefault(sha256(file), []).append(file.parent)
        return found


def origin(
    run: Path, config: Mapping[str, Any], top: str | os.PathLike, tickets: TicketsBelow
) -> Origin:
    """The ticket that a run's ``config.json`` names.

    It counts if it has the sum that the run has noted. It is looked for where it was. Runs and
    tickets may have moved together, so it is then looked for below each folder from the run's up to
    ``top``. They may have moved apart, so the last place is among ``tickets``.
    """
    where, noted = config.get("ticket"), config.get("ticket_sha256")
    if not where:
        return Origin(None, None, {})

    def places() -> Iterator[Path]:
        yield from _candidates(Path(where), run, Path(top))
        yield from tickets.having(noted)

    for folder in places():
        file = folder / "ticket.json"
        if file.is_file() and sha256(file) == noted:
            record = _record(file)
            # A ticket that a program has found has no settings, but it has a structure.
            of = {"structure": record["structure"]} if "structure" in record else {}
            settings, method = record.get("settings", of), record.get("method")
            known = isinstance(settings, dict) and isinstance(method, str | None)
            return Origin(_below(top, folder), *((method, settings) if known else (None, {})))
    settings = _settings_of(Path(where).parent.parent)
    return Origin(None, settings.get("method", "imp") if settings else None, settings)


def _record(file: Path) -> dict[str, Any]:
    """The content of a ticket's file; empty where it is damaged."""
    try:
        found = read_json(file)
    except UsageError:
        found = None
    return found if isinstance(found, dict) else {}


def teacher_settings(
    run: Path, config: Mapping[str, Any], top: str | os.PathLike
) -> Mapping[str, Any]:
    """The settings of the run that trained the teacher that ``config.json`` names.

    It is looked for as tickets are. Empty where there is no teacher or its run is unknown.
    """
    trained_by = Path(config.get("teacher") or "").parent
    if trained_by.name:
        for folder in _candidates(trained_by, run, Path(top)):
            if settings := _settings_of(folder, ("find", "retrain")):
                return settings
    return {}


def _settings_of(run: Path, commands: Sequence[str] = ("find",)) -> dict[str, Any]:
    """The settings of a run of one of the commands; empty where they are unknown."""
    try:
        settings = read_config(run)
        check_types(settings, *Experiment.owners(), FindingSettings)
    except (OSError, UsageError):
        return {}
    return settings if settings.get("command") in commands else {}


def _below(top: str | os.PathLike, folder: Path) -> Path:
    """``folder`` as a path that begins with ``top``, as runs are named, if it lies below it."""
    real = Path(os.path.realpath(folder))
    try:
        return Path(top) / real.relative_to(os.path.realpath(top))
    except ValueError:
        return folder


def _candidates(where: Path, run: Path, top: Path) -> Iterator[Path]:
    yield where
    parts = [part for part in where.parts if part != where.anchor]
    for above in (run, *run.parents):
        yield from (above / Path(*parts[start:]) for start in range(len(parts)))
        if above == top:
            return


def dense_accuracies(runs: pd.DataFrame) -> list[float]:
    """The test accuracies of the dense networks in which the runs' tickets were found.

    There is one for each pair of seeds of the finding, however many masks and retrainings there
    are. Unknown ones are left out.
    """
    accuracies: dict[Any, float] = {}
    for found in dict.fromkeys(Path(ticket).parent.parent for ticket in runs["ticket"].dropna()):
        try:
            rows = read_json_lines(found / "metrics.jsonl")
        except UsageError:
            continue
        accuracy = rows[0].get("test_accuracy") if rows and rows[0].get("round") == 0 else None
        if isinstance(accuracy, int | float):
            settings = _settings_of(found)
            seeds = (settings.get("seed"), settings.get("data_seed")) if settings else found
            accuracies.setdefault(seeds, accuracy)
    return list(accuracies.values())


def kept_shares(ticket: str | os.PathLike) -> dict[str, float]:
    """Name of each prunable weight → share that is kept, in [0, 1].

    Raises:
      UsageError: if the masks are missing or damaged.
    """
    masks = Masks.load(Path(ticket) / "masks.npz")
    return {name: float(np.mean(mask)) if mask.size else 1.0 for name, mask in masks.items()}


def mean_kept_shares(tickets: Iterable[str]) -> tuple[dict[str, float], list[str]]:
    """For each weight the mean of ``kept_shares`` over the tickets that have it; and the tickets
    whose masks are missing or damaged."""
    found: dict[str, list[float]] = {}
    missing = []
    for ticket in tickets:
        try:
            for name, share in kept_shares(ticket).items():
                found.setdefault(name, []).append(share)
        except UsageError:
            missing.append(ticket)
    return {name: float(np.mean(shares)) for name, shares in found.items()}, missing


def ticket_flops(tickets: Sequence[str]) -> dict[str, int]:
    """Folder of a ticket → FLOPs for one example, if pruned weights cost nothing.

    Each architecture is built once. Tickets whose FLOPs are unknown are left out.
    """
    # The only part that needs TensorFlow.
    from lottery_tf.graph.architecture import from_json
    from lottery_tf.masks.flops import count_flops

    dense: dict[str, dict[str, int]] = {}
    found = {}
    for ticket in tickets:
        try:
            described = (Path(ticket) / "model.json").read_text(encoding="utf-8")
            if described not in dense:
                dense[described] = {}
                dense[described] = count_flops(from_json(described))
            kept = kept_shares(ticket)
        except (OSError, UnicodeDecodeError, UsageError):
            continue
        if flops := dense[described]:
            found[ticket] = round(sum(each * kept.get(name, 1) for name, each in flops.items()))
    return found
