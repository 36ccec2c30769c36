"""The settings of an experiment, which finding and retraining share, and of how runs are done."""

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import describe, restore, setting
from lottery_tf.data.settings import DataSettings
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.models.settings import ModelSettings
from lottery_tf.training.settings import CheckpointSettings, TrainingSettings

DATA_SUM = "data_sha256"  # key of the data's sum in a run's config.json and in its tickets
CLASS_NAMES = "class_names"  # key of the names of their classes in config.json


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What finding and retraining share: the network, its data and its training."""

    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    prunable: PrunableSettings = dataclasses.field(default_factory=PrunableSettings)

    def describe(self) -> dict[str, Any]:
        """All settings by name, as JSON values."""
        parts = (self.data, self.model, self.training, self.prunable)
        return {name: value for part in parts for name, value in describe(part).items()}

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> "Experiment":
        """The experiment that ``describe`` described; other settings are ignored."""
        return cls(*(restore(owner, settings) for owner in cls.owners()))

    @classmethod
    def owners(cls) -> tuple[type, ...]:
        """The settings dataclasses, in the order of the fields."""
        return DataSettings, ModelSettings, TrainingSettings, PrunableSettings

    def with_model_of_file(self) -> "Experiment":
        """The same experiment with a network from a file or a ticket, which is not in the zoo."""
        return dataclasses.replace(self, model=ModelSettings(model=None))


@dataclasses.dataclass(frozen=True)
class BoardSettings:
    """Whether a run writes files for TensorBoard."""

    tensorboard: bool = setting(
        False,
        "write OUT/tensorboard for TensorBoard (extra [tensorboard]): metrics, values that fade, "
        "the sparsity of each weight, and the settings as hyperparameters",
    )

    def __post_init__(self) -> None:
        if self.tensorboard and find_spec("tensorboard") is None:
            raise UsageError(
                "Expected TensorBoard with `tensorboard=True`; it is not installed: install "
                "lottery_tf with its extra [tensorboard]."
            )


@dataclasses.dataclass(frozen=True)
class HowToRun:
    """How runs are carried out. It is not part of a run's identity.

    Attributes:
      tensorboard: whether to write TensorBoard's events.
      allow_code: whether code in a model's file may run.
      checkpoints: how often a training is saved.
      on_nan: what to do if a round of ``find`` diverges.
    """

    tensorboard: bool = False
    allow_code: bool = False
    checkpoints: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    on_nan: str = "stop"


AS_USUAL = HowToRun()
