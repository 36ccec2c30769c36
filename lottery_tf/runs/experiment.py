"""An experiment: the network, its data and its training, which finding and retraining share."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from lottery_tf import models
from lottery_tf.common.devices import check_batch_size, chief_first
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import describe, restore
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import check_graph
from lottery_tf.masks.prunable import PrunableSettings
from lottery_tf.models import ModelSettings
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import TrainingSettings, make_deterministic


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What finding and retraining share: the network, its data and its training."""

    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    prunable: PrunableSettings = dataclasses.field(default_factory=PrunableSettings)

    def describe(self) -> dict[str, Any]:
        """All settings by name, as JSON knows them."""
        parts = (self.data, self.model, self.training, self.prunable)
        return {name: value for part in parts for name, value in describe(part).items()}

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> "Experiment":
        """The experiment that ``describe`` described; other settings are left out."""
        return cls(*(restore(owner, settings) for owner in cls.owners()))

    @classmethod
    def owners(cls) -> tuple[type, ...]:
        """The settings dataclasses, in the order of the fields."""
        return DataSettings, ModelSettings, TrainingSettings, PrunableSettings

    def with_model_of_file(self) -> "Experiment":
        """The same on a network that is in a file or a ticket, and has no name of ours."""
        return dataclasses.replace(self, model=ModelSettings(model=None))

    def load_data(self) -> Dataset:
        """The dataset; makes the process deterministic first if that is asked for.

        Raises:
          UsageError: if the data are not there, or a batch has no equal shares for all devices.
        """
        check_batch_size(self.data.batch_size)
        if self.training.deterministic:
            make_deterministic()
        with chief_first():  # where a dataset is downloaded or prepared first
            return load(self.data)

    def create_model(self, data: Dataset) -> keras.Model:
        """A new model with the initial weights of the seed."""
        keras.utils.set_random_seed(self.training.seed)
        return models.create(self.model.model, data.input_shape, data.num_classes, self.model.width)


def experiment_of(ticket: Ticket, path: Path) -> Experiment:
    """The experiment that a ticket was found in.

    Raises:
      UsageError: if the ticket does not say.
    """
    if "settings" not in ticket.info:
        raise UsageError(
            f"Expected the ticket {path} to say how its network is trained; it does not (method "
            f"{ticket.info.get('method')}): give --dataset and the flags of the training."
        )
    return Experiment.restore(ticket.info["settings"])


def check_fit(ticket: Ticket, experiment: Experiment) -> None:
    """Raises UsageError if the ticket was found for another model or dataset."""
    found_in = ticket.info.get("settings", {})
    for name, asked in (
        ("model", experiment.model.model),
        ("width", experiment.model.width),
        ("dataset", experiment.data.dataset),
    ):
        theirs = found_in.get(name, asked)
        if theirs != asked:
            raise UsageError(
                f"Expected a ticket for --{name}={asked}, got one for {theirs}: leave --{name} "
                "out, or choose another ticket."
            )


def check_data(model: keras.Model, data: Dataset, which: str) -> None:
    """Raises UsageError unless ``model``, ``which`` it is, takes the images and has the classes."""
    check_graph(model)
    wanted = (data.input_shape, (data.num_classes,))
    shapes = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
    if len(shapes) != 2 or not all(
        tf.TensorShape(one).is_compatible_with(other)
        for one, other in zip(shapes, wanted, strict=True)
    ):
        raise UsageError(
            f"Expected a model from images {wanted[0]} to {data.num_classes} classes, as those of "
            f"{data.name}; the {which} has inputs and outputs "
            f"{', '.join(map(str, shapes))}: choose another, or another --dataset."
        )
