"""An experiment: network, data and training, which finding and retraining share."""

from pathlib import Path
from typing import cast

import tensorflow as tf

from lottery_tf import models
from lottery_tf.common.devices import check_batch_size, chief_first
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import defaults
from lottery_tf.data import Dataset, load
from lottery_tf.data.settings import DataSettings, data_as_in_older_release
from lottery_tf.graph.compat import KERASES, keras
from lottery_tf.graph.layers import check_graph, check_tensorflow
from lottery_tf.runs.settings import Experiment
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import make_deterministic


def load_data(experiment: Experiment) -> Dataset:
    """The dataset. The process is made deterministic first, if the settings say so.

    Raises:
      UsageError: if the data are missing, or a batch cannot be shared equally by all devices.
    """
    check_batch_size(experiment.data.batch_size)
    if experiment.training.deterministic:
        make_deterministic()
    with chief_first():  # it may have to download or prepare the dataset
        return load(experiment.data)


def create_model(experiment: Experiment, data: Dataset) -> keras.Model:
    """A new model with the initial weights that belong to the seed."""
    settings = experiment.model
    KERASES[settings.keras].utils.set_random_seed(experiment.training.seed)
    model = models.create(
        *(cast(str, settings.model), data.input_shape, data.num_classes),
        *(settings.width, settings.keras),
    )
    check_tensorflow(model, "the commands")
    return model


def experiment_of(ticket: Ticket, path: Path) -> Experiment:
    """The experiment in which a ticket was found.

    Raises:
      UsageError: if the ticket does not say.
    """
    if "settings" not in ticket.info:
        raise UsageError(
            f"Expected the ticket {path} to say how its network is trained; it does not (method "
            f"{ticket.info.get('method')}): give `dataset` and the settings of the training."
        )
    return Experiment.restore(data_as_in_older_release(ticket.info["settings"]))


def check_fit(ticket: Ticket, experiment: Experiment) -> None:
    """Raises UsageError if the ticket was found for another model or dataset."""
    found_in, data = ticket.info.get("settings", {}), vars(experiment.data)
    if found_in.get("dataset") == "image_folder":  # an older release had no options of it
        found_in = {**defaults(DataSettings), **data_as_in_older_release(found_in)}
        # Without channels they are the images' own: ``check_data`` tells when these are read.
        if None in (found_in["image_channels"], data["image_channels"]):
            del found_in["image_channels"]
    for name, asked in (
        ("model", experiment.model.model),
        ("width", experiment.model.width),
        ("dataset", experiment.data.dataset),
        # Other test images would be among those that it was trained on.
        *((name, data[name]) for name in ("image_size", "test_share", "test_seed")),
        ("image_channels", data["image_channels"]),
    ):
        theirs = found_in.get(name, asked)
        if theirs != asked:
            raise UsageError(
                f"Expected a ticket for `{name}={asked}`, got one "
                f"{'without' if theirs is None else f'for {theirs}'}: leave `{name}` out, or "
                "choose another ticket."
            )


def check_data(model: keras.Model, data: Dataset, which: str) -> None:
    """Raises UsageError unless ``model`` takes the images, has the classes and runs on TensorFlow.

    ``which`` names the model in the error."""
    check_graph(model)
    check_tensorflow(model, "the commands")
    wanted = (data.input_shape, (data.num_classes,))
    shapes = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
    if len(shapes) != 2 or not all(
        tf.TensorShape(one).is_compatible_with(other)
        for one, other in zip(shapes, wanted, strict=True)
    ):
        raise UsageError(
            f"Expected a model from images {wanted[0]} to {data.num_classes} classes, as in "
            f"{data.name}; the {which} has inputs and outputs "
            f"{', '.join(map(str, shapes))}: choose another model or another `dataset`."
        )
