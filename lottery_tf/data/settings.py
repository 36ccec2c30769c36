"""Which data a network is trained on: the settings of every command."""

import dataclasses

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_choices, setting
from lottery_tf.data.readers import AUGMENTED, FOLDERS, NOT_FLIPPED, READERS


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, how it is split, and in what order it comes.

    Raises:
      UsageError: a value out of its range.
    """

    dataset: str = setting("digits", "the dataset", choices=READERS)
    data_dir: str | None = setting(
        None,
        f"{'; '.join(f'{what} ({name})' for name, what in FOLDERS.items())}; else the folder of "
        "tensorflow-datasets, and digits needs none",
    )
    dev_share: float = setting(
        0.1, "share of the training examples held out as the dev split, at least 0, below 1"
    )
    dev_split: str = setting(
        "random",
        "which training examples to hold out: random ones, or the first (the paper's code)",
        choices=("random", "first"),
    )
    train_examples: int | None = setting(
        None, "training examples to keep once the dev split is taken; all where not given"
    )
    augment: bool | None = setting(
        None,
        f"random crops and flips (no flips of {', '.join(NOT_FLIPPED)}; idx is flipped, whatever "
        "it shows); where not given, of "
        f"{', '.join(AUGMENTED)} only",
    )
    data_seed: int = setting(
        0, "seed of the dev split, of the kept examples, of the order of batches, of augmentation"
    )
    batch_size: int = setting(128, "examples a training step")

    def __post_init__(self) -> None:
        check_choices(self)
        if self.dataset in FOLDERS and self.data_dir is None:
            raise UsageError(
                f"`dataset={self.dataset}` reads {FOLDERS[self.dataset]}; name it with `data_dir`."
            )
        if not 0 <= self.dev_share < 1:
            raise UsageError(
                f"`dev_share` expects a share of at least 0 and below 1, not {self.dev_share}; "
                "give, say, 0.1."
            )
        if self.data_seed >= 2**63:
            raise UsageError(f"Expected `data_seed` below 2**63, not {self.data_seed}.")
        for name, least in (("train_examples", 1), ("data_seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(
                    f"`{name}` expects a whole number of at least {least}, not {value}; "
                    "give a larger one."
                )
