"""lottery-tf retrain: trains a ticket with a recipe and writes the finished model."""

import dataclasses
from pathlib import Path

from lottery_tf.cli.console import console, duration, percent
from lottery_tf.cli.find import OutSettings
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.terminal import at_work
from lottery_tf.common.devices import DeviceSettings, own_folder
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json
from lottery_tf.common.settings import one_of, setting
from lottery_tf.data import DataSettings
from lottery_tf.graph.model_files import CodeSettings
from lottery_tf.masks.prunable import PrunableSettings
from lottery_tf.models import ModelSettings
from lottery_tf.runs.experiment import Experiment, experiment_of
from lottery_tf.runs.retrain import is_tested, retrain_ticket
from lottery_tf.runs.tensorboard import BoardSettings
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import TrainingSettings
from lottery_tf.tweaks import TWEAKS
from lottery_tf.tweaks.recipe import RECIPES, Recipe, tweak_settings


@dataclasses.dataclass(frozen=True)
class RetrainSettings:
    """What to retrain, and how."""

    ticket: str | None = setting(None, "folder of the ticket, RUN/tickets/round_NN of a find run")
    recipe: str = setting(
        "vanilla", f"{one_of([*RECIPES, *TWEAKS])}; several tweaks separated by commas"
    )


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """The control."""

    reinit: bool = setting(False, "train the ticket's mask from new initial weights of --seed")


TweakSettings = tweak_settings()
# What is pruned is the ticket's and no flag here.
_OWNERS = tuple(owner for owner in Experiment.owners() if owner is not PrunableSettings)
SETTINGS = (
    *(RetrainSettings, ControlSettings, TweakSettings),
    *(*_OWNERS, CodeSettings, DeviceSettings, BoardSettings, OutSettings),
)


def run(flags: Parsed) -> None:
    """Retrains; the settings of the ticket's own run stand where no flag is given.

    A ticket that was made in a program has none: --dataset and the training's flags say them.
    """
    out = flags.settings(OutSettings).folder
    settings = flags.settings(RetrainSettings)
    if not settings.ticket:
        raise UsageError("Expected --ticket=DIR, the ticket to retrain; none was given.")
    recipe = Recipe(settings.recipe, dataclasses.asdict(flags.settings(TweakSettings)))
    _check_flags(flags, recipe)
    ticket = Ticket.load(settings.ticket)
    if "settings" not in ticket.info and "dataset" in flags.given:
        found_in = Experiment(DataSettings(), ModelSettings(model=None), TrainingSettings())
    else:
        found_in = experiment_of(ticket, Path(settings.ticket))
    experiment = Experiment(
        *(flags.settings(owner, **found_in.describe()) for owner in _OWNERS), found_in.prunable
    )
    result = out / "result.json"
    finished = result.is_file() and is_tested(read_json(result))
    with (
        at_work(flags.settings(DeviceSettings)),
        own_folder(out) as folder,
        console.status("reading data, building the model") as status,
    ):

        def show(rows):
            row = rows[-1]
            dev = f", dev {percent(row['dev_accuracy'])}" if "dev_accuracy" in row else ""
            status.update(f"{recipe.name}: epoch {row['epoch']}{dev}")

        result = retrain_ticket(
            *(folder, Path(settings.ticket), recipe, experiment),
            flags.settings(ControlSettings).reinit,
            show,
            flags.settings(BoardSettings).tensorboard,
            allow_code=flags.settings(CodeSettings).allow_code,
        )
    if finished:
        console.print(f"{out} is finished; nothing to do.")
    console.print(
        f"{result['recipe']}  sparsity {percent(result['sparsity'])}  test "
        f"{percent(result['test_accuracy'])}  {duration(result['seconds'])}  {out / 'model'}"
    )


def _check_flags(flags: Parsed, recipe: Recipe) -> None:
    """Raises UsageError for a flag of a tweak that is not in the recipe."""
    present = recipe.describe()
    for name in (name for name in TWEAKS if name not in present):
        for field in dataclasses.fields(TWEAKS[name]):
            if f"{name}_{field.name}" in flags.given:
                raise UsageError(
                    f"--{name}_{field.name} is a parameter of {name}, which is not in "
                    f"--recipe={recipe.name}: add it there, or leave the flag out."
                )
