"""Which data a network is trained on, as settings of the commands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_values, setting
from lottery_tf.data.pictures import parse_size
from lottery_tf.data.readers import AUGMENTED, FOLDERS, NOT_FLIPPED, OPTIONS, READERS


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The data, how they are split, and in what order they come.

    Raises:
      UsageError: a value out of its range.
    """

    dataset: str = setting("digits", "name of the dataset", choices=READERS)
    data_dir: str | None = setting(
        None,
        f"{'; '.join(f'{name}: {what}' for name, what in FOLDERS.items())}; digits needs none; "
        "the others take the folder of tensorflow-datasets",
    )
    dev_share: float = setting(
        0.1, "share of the training examples to hold out as the dev split: 0 or more, below 1"
    )
    dev_split: str = setting(
        "random",
        "which training examples to hold out: random ones, or the first as in the paper's code",
        choices=("random", "first"),
    )
    train_examples: int | None = setting(
        None, "number of training examples to keep beside the dev split; default: all"
    )
    augment: bool | None = setting(
        None,
        f"crop and flip at random. {', '.join(NOT_FLIPPED)} are never flipped; idx always is, "
        f"whatever it shows; default: True for {', '.join(AUGMENTED)}, else False",
    )
    data_seed: int = setting(
        0, "seed of the dev split, of the examples to keep, of the batches and of augmentation"
    )
    batch_size: int = setting(128, "examples in each training step")
    image_size: str | None = setting(
        None,
        "image_folder: bring every image to this size, HxW (height and width) or N for NxN; "
        "without it all images must have one size",
    )
    image_resize: str = setting(
        "resize",
        "image_folder: how to bring an image to --image_size. With resize all of it stays, but not "
        "the ratio of its sides. With center_crop the ratio stays, and both ends of the longer "
        "side are cut off",
        choices=("resize", "center_crop"),
    )
    image_channels: int | None = setting(
        None,
        "image_folder: read all images as grey (1) or as RGB (3); default: 1 if all files are "
        "grey, else 3",
    )
    test_share: float = setting(
        0.2,
        "image_folder without train and test: share of each class to hold out as test images, "
        "above 0 and below 1",
    )
    test_seed: int = setting(
        0, "image_folder without train and test: seed that draws the test images"
    )

    def __post_init__(self) -> None:
        check_values(self)
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
        if self.image_size is not None:  # written in one way, as it is part of what a run is
            height, width = parse_size(self.image_size)
            object.__setattr__(self, "image_size", f"{height}x{width}")
        if self.image_channels not in (None, 1, 3):
            raise UsageError(
                f"`image_channels` expects 1 (grey) or 3 (RGB), not {self.image_channels}."
            )
        if not 0 < self.test_share < 1:
            raise UsageError(
                f"`test_share` expects a share above 0 and below 1, not {self.test_share}; give, "
                "say, 0.2."
            )


def data_as_in_older_release(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as JSON has them, with what an older release did without saying it:
    it read grey image folders as RGB."""
    if settings.get("dataset") != "image_folder":
        return dict(settings)
    return {"image_channels": 3, **settings}
