"""Which data a network is trained on: the settings of every command."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_choices, setting
from lottery_tf.data.pictures import parse_size
from lottery_tf.data.readers import AUGMENTED, FOLDERS, NOT_FLIPPED, OPTIONS, READERS


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
    image_size: str | None = setting(
        None,
        "image_folder: the size to bring every image to, HxW (height and width) or N for NxN; "
        "without it all images need to have one size",
    )
    image_resize: str = setting(
        "resize",
        "image_folder: how to bring an image to --image_size. resize takes all of it, and may "
        "change the ratio of its sides; center_crop keeps that ratio and cuts off what is left "
        "over, at both ends alike",
        choices=("resize", "center_crop"),
    )
    image_channels: int | None = setting(
        None,
        "image_folder: 1 reads all images as grey, 3 as RGB; default: 1 if all files are grey, "
        "else 3",
    )
    test_share: float = setting(
        0.2,
        "image_folder without train and test: the share of each class that is held out as the "
        "test images, above 0 and below 1",
    )
    test_seed: int = setting(
        0, "image_folder without train and test: the seed that draws the test images"
    )

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
        for name in ("data_seed", "test_seed"):
            if (seed := getattr(self, name)) >= 2**63:
                raise UsageError(f"Expected `{name}` below 2**63, not {seed}.")
        for name, least in (
            *(("train_examples", 1), ("data_seed", 0), ("batch_size", 1)),
            ("test_seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(
                    f"`{name}` expects a whole number of at least {least}, not {value}; "
                    "give a larger one."
                )
        self._check_options()

    def _check_options(self) -> None:
        """Raises UsageError for what only some readers take, of another dataset or out of range."""
        for dataset, names in OPTIONS.items():
            for field in (f for f in dataclasses.fields(self) if f.name in names):
                if dataset != self.dataset and getattr(self, field.name) != field.default:
                    raise UsageError(
                        f"`{field.name}` is for `dataset={dataset}`, not for "
                        f"`dataset={self.dataset}`: leave it out."
                    )
        if self.image_size is not None:
            parse_size(self.image_size)
        if self.image_channels not in (None, 1, 3):
            raise UsageError(
                f"`image_channels` expects 1 (grey) or 3 (RGB), not {self.image_channels}."
            )
        if not 0 < self.test_share < 1:
            raise UsageError(
                f"`test_share` expects a share above 0 and below 1, not {self.test_share}; give, "
                "say, 0.2."
            )


def of_older_release(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as JSON has them, with what an older release did without saying it:
    it read grey image folders as RGB."""
    if settings.get("dataset") != "image_folder":
        return dict(settings)
    return {"image_channels": 3, **settings}
