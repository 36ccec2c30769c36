"""Bounds of every number among the settings: what is just within is taken, just outside refused."""

import dataclasses
import math

import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import settings_of, value_type
from lottery_tf.data.settings import DataSettings
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.models.settings import ModelSettings
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks import settings as tweaks

TINY = math.ulp(0.0)
BELOW_1, ABOVE_1 = math.nextafter(1, 0), math.nextafter(1, 2)
POSITIVE = ((TINY, 1e308), (0.0, -TINY, math.inf, math.nan))
SHARE = ((0.0, 1.0), (-TINY, ABOVE_1, math.nan))
BELOW = ((0.0, BELOW_1), (-TINY, 1.0, math.nan))
FROM_1 = ((1, 2), (0, -1))
FROM_0 = ((0, 1), (-1,))

# Class of settings → (what it needs besides, field → (taken, refused)).
BOUNDS = {
    FindingSettings: (
        {"method": "gmp", "sparsity": BELOW_1},
        {
            "prune_fraction": ((TINY, BELOW_1), (0.0, 1.0, -TINY, ABOVE_1, math.nan)),
            "rounds": ((0, 10_000), (-1, 10_001)),
            "sparsity": BELOW,
            "min_kept": FROM_0,
            "score_batches": FROM_1,
            "score_rounds": FROM_1,
            "gmp_initial_sparsity": ((0.0, 0.99), (-TINY, 1.0, math.nan)),
        },
    ),
    TrainingSettings: (
        {},
        {
            "learning_rate": POSITIVE,
            "momentum": BELOW,
            "weight_decay": ((0.0, 1e308), (-TINY, math.inf, math.nan)),
            "decay": ((TINY, 1.0), (0.0, ABOVE_1, math.nan)),
            "steps_per_execution": ((1, 2**31 - 1), (0, 2**31)),
            "validation_freq": FROM_1,
            "seed": ((0, 2**32 - 1), (-1, 2**32)),
        },
    ),
    DataSettings: (
        {},
        {
            "dev_share": BELOW,
            "train_examples": FROM_1,
            "data_seed": ((0, 2**63 - 1), (-1, 2**63)),
            "batch_size": FROM_1,
        },
    ),
    ModelSettings: ({}, {"width": FROM_1}),
    tweaks.FadingSettings: ({}, {"share": SHARE}),
    tweaks.SoftActivationSettings: (
        {},
        {"share": SHARE, "beta_start": POSITIVE, "beta_end": POSITIVE},
    ),
    tweaks.GhostSkipsSettings: ({}, {"share": SHARE, "alpha": POSITIVE}),
    tweaks.RescaledInitSettings: (
        {},
        {
            **dict.fromkeys(("step_size", "max_norm", "learning_rate", "clip"), POSITIVE),
            **dict.fromkeys(("iterations", "patience"), FROM_1),
            **dict.fromkeys(("min_scale", "min_gamma"), SHARE),
        },
    ),
    tweaks.LabelSmoothingSettings: ({}, {"epsilon": BELOW}),
    tweaks.DistillationSettings: ({}, {"temperature": POSITIVE, "weight": SHARE}),
}
# They belong to one kind of data set, and are read with it.
ELSEWHERE = {"image_channels", "test_share", "test_seed"}
NUMBERS = [
    (owner, name, value, taken)
    for owner, (_, fields) in BOUNDS.items()
    for name, both in fields.items()
    for taken, values in zip((True, False), both, strict=True)
    for value in values
]


@pytest.mark.parametrize(("owner", "name", "value", "taken"), NUMBERS)
def test_what_is_just_within_is_taken_and_what_is_just_outside_is_not(owner, name, value, taken):
    needed = BOUNDS[owner][0]
    if taken:
        assert getattr(owner(**{**needed, name: value}), name) == value
        return
    with pytest.raises(UsageError, match=name.removeprefix("beta_")):
        owner(**{**needed, name: value})


def test_every_number_is_there():
    for owner, (_, fields) in BOUNDS.items():
        numbers = {
            field.name
            for field in settings_of(owner)
            if value_type(field, owner)[0] in (int, float) and field.name not in ELSEWHERE
        }
        assert fields.keys() == numbers
    of_tweaks = {
        each
        for each in vars(tweaks).values()
        if dataclasses.is_dataclass(each) and each.__module__ == tweaks.__name__
    }
    without = {each for each in of_tweaks if not _has_numbers(each)}
    assert of_tweaks - without <= BOUNDS.keys()


def _has_numbers(owner):
    return any(value_type(field, owner)[0] in (int, float) for field in settings_of(owner))
