"""The trials of a sweep from its flags: every combination, what is shared once."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lottery_tf.cli.flags import Owner, Parsed, as_class, parse
from lottery_tf.cli.grid_file import cells_of, overridden
from lottery_tf.cli.settings import (
    OF_TRIALS,
    ControlSettings,
    GridSettings,
    parameters_for,
)
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import nearest, restore, value_type
from lottery_tf.common.summary import percent
from lottery_tf.finding.settings import FROM_TRAINED, IMPORTED, FindingSettings
from lottery_tf.masks.allocate import target_of
from lottery_tf.masks.structure import UNSTRUCTURED
from lottery_tf.masks.structure import parse as parse_structure
from lottery_tf.runs.settings import Experiment
from lottery_tf.sweeping.trials import FindTrial, RetrainTrial, Trial
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.settings import as_read, described, tweak_settings

_MOST_RUNS = 100_000  # nobody waits for more
_OWN_AXES = {
    "seed": "seeds",
    "data_seed": "seeds",
    "method": "methods",
    "sparsity": "sparsities",
    "rounds": "sparsities",
}


def check(flags: Parsed) -> None:
    """Raises UsageError for what is wrong with a sweep's command line, as far as it tells alone."""
    if flags.settings(DeviceSettings).strategy == "multi_worker":
        raise UsageError("Expected --strategy=none or mirrored: a trial runs on one machine.")
    trials_of(flags)
    tuning_seeds(flags)


def trials_of(flags: Parsed) -> list[Trial]:
    """The trials, those that find tickets first; each comes once, however many need it.

    Raises:
      UsageError: for a recipe, flag or value that there is not, with nothing run yet.
    """
    found: dict[str, Trial] = {}
    cells = cells_of(flags)
    _check_tweaks(flags, cells)
    for cell in cells:
        for trial in _trials_of_cell(cell):
            needed: list[Trial] = [*_before(trial), trial]
            for each in needed:
                known = found.get(each.folder)
                found[each.folder] = _merged(each, known) if known else each
    return sorted(found.values(), key=lambda trial: trial.kind != FindTrial.kind)


def sparsities_said(flags: Parsed) -> list[str]:
    """What each of --sparsities becomes, a sentence for each --prune_fraction of imp's rounds."""
    said: dict[str, None] = {}
    for cell in cells_of(flags):
        grid, structure = cell.settings(GridSettings), parse_structure(cell.values["structure"])
        methods = grid.methods or (cell.values["method"],)
        if "imp" not in methods or structure.sparsity is not None:
            continue
        for each in _combinations(varied_flags(cell)):
            fraction = _with(cell, each).values["prune_fraction"]
            rounds = {text: _nearest_round(_number(text), fraction) for text in grid.sparsities}
            become = [
                f"{text} becomes some {percent(1 - (1 - fraction) ** number)} (round {number})"
                for text, number in rounds.items()
            ]
            if become:
                said[
                    f"A round prunes {100 * fraction:g} % of what is left (--prune_fraction="
                    f"{fraction:g}). Of --sparsities, {', '.join(become)}."
                ] = None
    return list(said)


def tuned(flags: Parsed) -> list[str]:
    """The names that are tuned in any part of the grid."""
    return list(dict.fromkeys(n for cell in cells_of(flags) for n in _tuned(cell)))


def tuning_seeds(flags: Parsed) -> tuple[str, ...]:
    """The seeds that choose among the values of --tune; empty where all do.

    Raises:
      UsageError: if parts of the grid that are tuned have different ones.
    """
    grids = [cell.settings(GridSettings) for cell in cells_of(flags)]
    several = {grid.tune_seeds for grid in grids if grid.tune}
    if len(several) > 1:
        raise UsageError(
            "Expected the same --tune_seeds in all cells with --tune, got "
            f"{' and '.join(','.join(seeds) or 'none' for seeds in sorted(several))}."
        )
    return several.pop() if several else ()


def _before(trial: Trial) -> list[FindTrial]:
    if isinstance(trial, FindTrial):
        return []
    return [trial.found, *([trial.teacher] if trial.teacher else [])]


def _merged(one: Trial, other: Trial) -> Trial:
    """One trial that does what two trials with the same folder do."""
    if isinstance(one, RetrainTrial) and isinstance(other, RetrainTrial):
        test, tuned = one.test or other.test, one.tuned or other.tuned
        return dataclasses.replace(other, test=test, tuned=tuned)
    both = (trial for trial in (other, one) if isinstance(trial, FindTrial))
    return max(both, key=lambda trial: trial.finding.tickets)


def _trials_of_cell(flags: Parsed) -> Iterator[RetrainTrial]:
    grid, recipes = flags.settings(GridSettings), _recipes(flags)
    of_tweaks = _names(tweak_settings)
    vary, tune = varied_flags(flags), _tuned(flags)
    seeds = [{"seed": seed, "data_seed": seed} for seed in grid.seeds] or [{}]
    axes = (*vary.values(), *tune.values(), seeds, recipes, grid.methods, grid.sparsities)
    if (count := math.prod(len(axis) or 1 for axis in axes)) > _MOST_RUNS:
        raise UsageError(
            f"Expected at most {_MOST_RUNS:,} runs of retrain in a part of the grid, got {count:,}:"
            " leave values out."
        )
    for varied, seed in itertools.product(_combinations(vary), seeds):
        found_with = _with(flags, varied | seed)
        if tune and not found_with.values["dev_share"]:
            raise UsageError(
                "Expected --dev_share above 0 with --tune, which chooses on dev images."
            )
        retrained_with = [(chosen, _with(found_with, chosen)) for chosen in _combinations(tune)]
        for found, number, dense in _tickets(found_with, grid, _said(varied, without=of_tweaks)):
            for recipe, (chosen, own) in itertools.product(recipes, retrained_with):
                experiment = _experiment(own)
                parameters = parameters_for(recipe, own)
                of_recipe = described(recipe, parameters)
                lacks_teacher = any(p.get("teacher", "") is None for p in of_recipe.values())
                if found.finding.method == IMPORTED:
                    experiment = experiment.with_model_of_file()
                    if lacks_teacher and dense is None:
                        raise UsageError(
                            f"Expected --distillation_teacher with {as_read(recipe)} on a ticket "
                            f"of {IMPORTED}, whose file has no dense network to distil from."
                        )
                yield RetrainTrial(
                    *(found, number, recipe, parameters, experiment),
                    own.settings(ControlSettings).reinit,
                    dense if lacks_teacher else None,
                    test=not tune,  # only that of the values that are chosen
                    tuned=bool(tune),
                    note=_said(varied | chosen, without=of_tweaks - _parameters(recipe)),
                )


def _recipes(flags: Parsed) -> list[str]:
    return [recipe.replace("+", ",") for recipe in flags.values["recipes"]]


def _check_tweaks(flags: Parsed, cells: Sequence[Parsed]) -> None:
    """Raises UsageError for a parameter of a tweak that is in none of the recipes, whether the user
    has given or varied it."""
    recipes = dict.fromkeys(recipe for cell in cells for recipe in _recipes(cell))
    unused = _names(tweak_settings).difference(*map(_parameters, recipes))
    axes = [axes for cell in cells for axes in (varied_flags(cell), _tuned(cell))]
    for name in (*flags.given, *itertools.chain(*axes)):
        if name in unused:
            raise UsageError(
                f"Expected --recipes with the tweak that --{name} is a parameter of, got "
                f"{some([*map(as_read, recipes)])}: add it there, or leave the flag out."
            )


def _said(values: Mapping[str, str], without: set[str]) -> str:
    """``width 8, learning_rate 0.1``."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if name not in without)


def _parameters(recipe: str) -> set[str]:
    """The flags of a recipe's tweaks."""
    of_tweaks = described(recipe, {})
    return {f"{tweak}_{name}" for tweak, values in of_tweaks.items() for name in values}


def _tickets(
    flags: Parsed, grid: GridSettings, note: str
) -> Iterator[tuple[FindTrial, int, FindTrial | None]]:
    """For each method and sparsity: the trial that finds the ticket, and the round of that ticket.
    Where that trial trains no dense network, the trial that does; else None."""
    methods = grid.methods or (flags.values["method"],)
    values = {name: flags.values[name] for name in _names(FindingSettings)}
    experiment, fraction = _experiment(flags), values["prune_fraction"]
    FindingSettings(rounds=0, prune_fraction=fraction)  # refuses one that cannot be
    sparsities = [_number(text) for text in grid.sparsities]
    structure = parse_structure(values["structure"])
    if structure.sparsity is not None:
        for asked in sparsities:
            target_of(structure, asked)  # refuses another one
        sparsities = []
    rounds = [_nearest_round(sparsity, fraction) for sparsity in sparsities]

    def trial(**changed: Any) -> FindTrial:
        return FindTrial(experiment, restore(FindingSettings, values | changed), note)

    imp = None
    if "imp" in methods:
        ends = {"rounds": max(rounds), "sparsity": None} if rounds else {}
        imp = trial(method="imp", **ends)
        for number in rounds or [imp.finding.last_round]:
            yield imp, number, None
        sparsities = [1 - (1 - fraction) ** number for number in rounds]
    for method in (method for method in methods if method != "imp"):
        trained = (
            {} if "train_tickets" in flags.given else {"train_tickets": method in FROM_TRAINED}
        )
        for sparsity in [None] if method == IMPORTED else sparsities or [values["sparsity"]]:
            found = trial(method=method, rounds=None, sparsity=sparsity, **trained)
            dense = None
            if method == IMPORTED:
                own = experiment.with_model_of_file()
                found, dense = dataclasses.replace(found, experiment=own), imp
            elif not found.finding.train_tickets:
                # It prunes nothing, so it has no structure.
                dense = imp or trial(
                    **{"method": "imp", "rounds": 0, "sparsity": None, "train_tickets": True},
                    **{"structure": UNSTRUCTURED.text, "min_kept": 0},
                )
            yield found, 1, dense


def _experiment(flags: Parsed) -> Experiment:
    return Experiment(*(flags.settings(owner) for owner in Experiment.owners()))


def _nearest_round(sparsity: float, fraction: float) -> int:
    """The round whose sparsity is nearest, where each round prunes ``fraction`` of what is left."""
    exact = math.log(1 - sparsity) / math.log(1 - fraction)
    low = math.floor(exact)
    return min((low, low + 1), key=lambda number: abs(1 - (1 - fraction) ** number - sparsity))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise UsageError(f"Expected --sparsities in [0, 1), such as 0.9,0.95, got '{text}'.")
    return value


def _names(*owners: Owner) -> set[str]:
    return {field.name for owner in owners for field in dataclasses.fields(as_class(owner))}


def _lists(*owners: Owner) -> set[str]:
    """The flags whose values are lists, so that their commas do not separate values."""
    return {
        field.name
        for owner in map(as_class, owners)
        for field in dataclasses.fields(owner)
        if value_type(field, owner)[0] is tuple
    }


def varied_flags(flags: Parsed) -> dict[str, list[str]]:
    """What --vary says: the values of each flag."""
    return _axes(flags, "vary", _names(*OF_TRIALS) - _OWN_AXES.keys())


def _tuned(flags: Parsed) -> dict[str, list[str]]:
    """What --tune says, likewise; it takes flags of the retraining alone."""
    return _axes(flags, "tune", _names(TrainingSettings, tweak_settings) - _OWN_AXES.keys())


def _axes(flags: Parsed, name: str, known: set[str]) -> dict[str, list[str]]:
    """``{"width": ["8", "16"]}`` of ``("width:8", "16")``."""
    axes: dict[str, list[str]] = {}
    lists = _lists(*OF_TRIALS)
    fields = (field for owner in map(as_class, OF_TRIALS) for field in dataclasses.fields(owner))
    choices = {field.name: field.metadata["choices"] for field in fields}
    for part in flags.values[name]:
        flag, colon, value = part.partition(":")
        if flag in lists and colon:
            raise UsageError(
                f"Expected flags of one value in --{name}; {flag} is a list: give a cell of a "
                "--grid file for each of its values."
            )
        if flag in known and colon:
            if flag in axes:
                raise UsageError(f"Expected each flag once in --{name}, got {flag} twice.")
            axes[flag] = [value]
        # A value may have a colon too.
        elif axes and (part in choices[list(axes)[-1]] or not (colon and flag.isidentifier())):
            axes[list(axes)[-1]].append(part)
        else:
            near = nearest(flag, sorted(known))
            if own := _OWN_AXES.get(flag):
                near = f"; --{own} says that"
            raise UsageError(
                f"Expected --{name}=FLAG:VALUE,VALUE,… with a flag that it can change, got "
                f"'{part}'{near}."
            )
    return axes


def _combinations(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _with(flags: Parsed, changed: Mapping[str, str]) -> Parsed:
    """``flags`` as if the user had written these too."""
    words = [f"--{name}={value}" for name, value in changed.items()]
    return overridden(flags, parse(words, OF_TRIALS))
