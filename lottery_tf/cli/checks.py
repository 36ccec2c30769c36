"""What is wrong with a command line by its flags alone, and what it lacks.

What a command lacks is told in one sentence, before anything else is looked at.
"""

from collections.abc import Iterator, Sequence

from lottery_tf.cli.flags import Owner, Parsed, as_class
from lottery_tf.cli.settings import (
    EvaluateSettings,
    RetrainSettings,
    SignalSettings,
    parameters_for,
)
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import one_of, settings_of
from lottery_tf.data.readers import FOLDERS
from lottery_tf.data.settings import DataSettings
from lottery_tf.finding.settings import IMPORTED
from lottery_tf.masks.structure import parse as parse_structure
from lottery_tf.tweaks.settings import PARAMETERS, parameters_of, tweak_names_in, tweak_settings

_OUT = "--out=DIR (the folder to write to)"
_ENDS = "where pruning ends"


def check_nothing_lacks(lacking: Sequence[str]) -> None:
    """Raises UsageError that names all that a command lacks, if there is anything."""
    if lacking:
        it = "it was" if len(lacking) == 1 else "they were"
        raise UsageError(f"Expected {one_of(lacking, 'and')}; {it} not given.")


def out_lacks(flags: Parsed) -> list[str]:
    """What a command that writes to a folder lacks."""
    return [] if flags.values["out"] else [_OUT]


def find_lacks(flags: Parsed) -> list[str]:
    """What ``find`` lacks: where pruning ends, the data, where to write."""
    values = flags.values
    ends: list[str] = []
    if values["method"] == IMPORTED:
        ends += [] if values["model_path"] else ["--model_path=FILE (the pruned model)"]
    elif values["sparsity"] is None and not _ends_itself(values["structure"]):
        if values["method"] != "imp":
            ends.append(f"--sparsity=SHARE ({_ENDS})")
        elif values["rounds"] is None:
            ends.append(f"--rounds=N or --sparsity=SHARE ({_ENDS})")
    return [*ends, *_data_lacks(flags), *out_lacks(flags)]


def sweep_lacks(flags: Parsed) -> list[str]:
    """What ``sweep`` lacks in any part of its grid."""
    from lottery_tf.cli.grid import cells_of, varied_flags  # with a reader of YAML

    found = [
        each for cell in cells_of(flags) for each in _cell_lacks(cell, set(varied_flags(cell)))
    ]
    return [*dict.fromkeys(found), *out_lacks(flags)]


def _cell_lacks(cell: Parsed, varied: set[str]) -> Iterator[str]:
    values = cell.values
    methods = set(values["methods"] or (values["method"],))
    pruned = values["sparsity"] is not None or values["sparsities"]
    if not pruned and "structure" not in varied and not _ends_itself(values["structure"]):
        if methods - {"imp", IMPORTED}:
            yield f"--sparsity=SHARE or --sparsities=SHARE,SHARE,... ({_ENDS})"
        elif "imp" in methods and values["rounds"] is None:
            yield f"--rounds=N, --sparsity=SHARE or --sparsities=SHARE,SHARE,... ({_ENDS})"
    if not varied & {"dataset", "data_dir"}:
        yield from _data_lacks(cell)


def retrain_lacks(flags: Parsed) -> list[str]:
    """What ``retrain`` lacks: a ticket, where to write."""
    there = flags.values["ticket"]
    return [*([] if there else ["--ticket=DIR (the ticket to retrain)"]), *out_lacks(flags)]


def export_lacks(flags: Parsed) -> list[str]:
    """What ``export`` lacks: a run, where to write."""
    there = flags.values["run"]
    return [*([] if there else ["--run=DIR (the retrain run to export)"]), *out_lacks(flags)]


def evaluate_lacks(flags: Parsed) -> list[str]:
    """What ``evaluate`` lacks: a model, its data."""
    if flags.values["run"]:
        return []
    model = "--run=DIR (a retrain run) or --model=PATH (a file or folder)"
    return [*([] if flags.values["model"] else [model]), *_data_lacks(flags)]


def report_lacks(flags: Parsed) -> list[str]:
    """What ``report`` lacks: folders."""
    return [] if flags.positional else ["a folder with retrain runs below it"]


def _data_lacks(flags: Parsed) -> list[str]:
    dataset = flags.values["dataset"]
    if dataset not in FOLDERS or flags.values["data_dir"] is not None:
        return []
    return [f"--data_dir=DIR ({FOLDERS[dataset]})"]


def _ends_itself(structure: str) -> bool:
    """Whether masks of a structure have a sparsity of their own; of none it is told elsewhere."""
    try:
        return parse_structure(structure).sparsity is not None
    except UsageError:
        return True


def check_inspect(flags: Parsed) -> None:
    """Raises UsageError unless one ticket is given; for flags that go with --signal without it,
    and a recipe that cannot be."""
    if len(flags.positional) != 1:
        raise UsageError(
            "Expected one ticket, RUN/tickets/round_NN of a find run (a second one goes to "
            f"--compare); got {len(flags.positional)}."
        )
    settings = flags.settings(SignalSettings)
    if settings.signal:
        _check_recipe(settings.recipe or "vanilla", flags)
        return
    owners: tuple[Owner, ...] = (SignalSettings, DataSettings, tweak_settings)
    for name in (field.name for owner in map(as_class, owners) for field in settings_of(owner)):
        if name in flags.given and name != "signal":
            raise UsageError(f"--{name} goes with --signal: add that, or leave --{name} out.")


def check_evaluate(flags: Parsed) -> None:
    """Raises UsageError where both a run and a model are given."""
    settings = flags.settings(EvaluateSettings)
    if settings.run is not None and settings.model is not None:
        raise UsageError(
            "Expected either --run=DIR (a retrain run) or --model=PATH (a file or folder); got "
            "both."
        )


def check_retrain(flags: Parsed) -> None:
    """Raises UsageError for a recipe or parameters of it that cannot be, and for parameters of a
    tweak that is not in it."""
    _check_recipe(flags.settings(RetrainSettings).recipe, flags)


def _check_recipe(recipe: str, flags: Parsed) -> None:
    names, given = tweak_names_in(recipe), parameters_for(recipe, flags)
    for name in names:
        PARAMETERS[name](**parameters_of(name, given))
    for name in (name for name in PARAMETERS if name not in names):
        for field in settings_of(PARAMETERS[name]):
            if f"{name}_{field.name}" in flags.given:
                raise UsageError(
                    f"--{name}_{field.name} is a parameter of {name}, which is not in "
                    f"--recipe={recipe}: add it there, or leave the flag out."
                )
