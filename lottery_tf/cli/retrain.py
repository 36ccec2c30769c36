"""lottery-tf retrain: trains a ticket with a recipe and writes the finished model."""

from pathlib import Path

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.following import beside, command, say_next
from lottery_tf.cli.settings import (
    OF_RETRAINING,
    ControlSettings,
    OutSettings,
    RetrainSettings,
    how_to_run,
    parameters_for,
)
from lottery_tf.cli.terminal import TrainingStatus, at_work
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.devices import own_folder
from lottery_tf.common.summary import duration, percent
from lottery_tf.data import DataSettings
from lottery_tf.models import ModelSettings
from lottery_tf.runs.experiment import experiment_of
from lottery_tf.runs.records import RESULT, read_result
from lottery_tf.runs.retrain import is_tested, retrain_ticket
from lottery_tf.runs.settings import Experiment
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.settings import as_read


def run(flags: Parsed) -> None:
    """Retrains with the settings of the ticket's own run, but for the flags that are given.

    A ticket that was made in a program has no settings: --dataset and the flags of the training
    give them.
    """
    out = flags.settings(OutSettings).folder
    settings = flags.settings(RetrainSettings)
    recipe = Recipe(settings.recipe, parameters_for(settings.recipe, flags))
    ticket = Ticket.load(settings.ticket)
    if "settings" not in ticket.info and "dataset" in flags.given:
        found_in = Experiment(DataSettings(), ModelSettings(model=None), TrainingSettings())
    else:
        found_in = experiment_of(ticket, Path(settings.ticket))
    inherited = found_in.describe()
    data, model, training = (flags.settings(owner, **inherited) for owner in OF_RETRAINING)
    experiment = Experiment(data, model, training, found_in.prunable)
    finished = (out / RESULT).is_file() and is_tested(
        read_result(out, needed=("recipe", "sparsity", "seconds"))
    )
    with (
        at_work(flags.settings(DeviceSettings)),
        own_folder(out) as folder,
        console.status("reading data, preparing the recipe") as status,
    ):
        result = retrain_ticket(
            *(folder, Path(settings.ticket), recipe, experiment),
            flags.settings(ControlSettings).reinit,
            how=how_to_run(flags),
            callbacks=[TrainingStatus(status, as_read(recipe.name))],
        )
    if finished:
        console.print(f"{out} is finished; nothing to do.")
    console.print(
        f"{as_read(result['recipe'])}  sparsity {percent(result['sparsity'])}  test "
        f"{percent(result['test_accuracy'])}  {duration(result['seconds'])}  {out / 'model'}"
    )
    say_next(command("export", f"--run={out}", f"--out={beside(out, 'export')}"))
