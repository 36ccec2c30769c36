"""The parameters of the tweaks, and the recipes by name: what their flags are made from.

Apart from the tweaks themselves, so that a command line is read without TensorFlow.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import (
    check_choices,
    describe,
    nearest,
    one_of,
    setting,
    settings_of,
)

CURVES = ("linear", "cosine", "exponential")
CURVE_HELP = "how it fades"
SHARE_HELP = "share of the training over which it fades, in [0, 1]"
STEP_SIZES = {"sgd": 0.1, "adam": 0.001}  # of the first step that RescaledInit looks at


@dataclasses.dataclass(frozen=True)
class FadingSettings:
    """Of what fades out."""

    share: float = setting(0.5, SHARE_HELP)
    curve: str = setting("linear", CURVE_HELP, choices=CURVES)

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.share <= 1:
            tweak = type(self).__name__.removesuffix("Settings")
            raise UsageError(
                f"Expected the share of {tweak} in [0, 1], the part of the training over which it "
                f"fades, not {self.share}."
            )


@dataclasses.dataclass(frozen=True)
class SoftActivationSettings(FadingSettings):
    """Of ``SoftActivation``."""

    unit: str = setting("pswish", "the smooth unit", choices=("pswish", "mish"))
    beta_start: float = setting(1.0, "PSwish's β at the first step, above 0; 1 is Swish")
    beta_end: float = setting(10.0, "PSwish's β at the end of its share, before it is ReLU")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < beta < math.inf for beta in (self.beta_start, self.beta_end)):
            raise UsageError(
                "Expected SoftActivation's beta_start and beta_end above 0, not "
                f"{self.beta_start} and {self.beta_end}: x·σ(βx) is ReLU for large β."
            )
        if self.unit == "mish" and self.curve == "exponential":
            raise UsageError(
                "Expected a linear or cosine curve for SoftActivation with mish, whose blend "
                "starts at 0, not an exponential one."
            )


@dataclasses.dataclass(frozen=True)
class GhostSkipsSettings(FadingSettings):
    """Of ``GhostSkips``."""

    # docs/results/fades: 0.2 was best on dev, 0.8 cost a point.
    share: float = setting(0.2, SHARE_HELP)
    curve: str = setting("linear", CURVE_HELP, choices=("linear", "cosine"))
    # docs/results/ghost_skips: 1 doubles the signal a block, and a deep ResNet does not train.
    alpha: float = setting(0.1, "α at the first step, above 0")
    shortcut: str = setting(
        "identity",
        "what goes around: the input itself, pooled and padded where shapes differ, or a "
        "1x1 convolution with BatchNorm",
        choices=("identity", "conv"),
    )
    convolutions: tuple[str, ...] = setting(
        ("all",),
        "which convolutions: all whose kernel is larger than 1, same (those of them that keep "
        "the shape), or layers' names",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.convolutions, str):  # one name, of which a tuple would be its letters
            object.__setattr__(self, "convolutions", (self.convolutions,))
        if not 0 < self.alpha < float("inf"):
            raise UsageError(
                f"Expected GhostSkips' alpha above 0, the weight of the skips at the first step, "
                f"not {self.alpha}."
            )


@dataclasses.dataclass(frozen=True)
class RescaledInitSettings:
    """Of ``RescaledInit``."""

    optimizer: str | None = setting(
        None,
        "whose first step is looked at; default: that of --optimizer, in a program sgd",
        choices=tuple(STEP_SIZES),
    )
    step_size: float | None = setting(
        None, "η: length of that step (sgd, default 0.1), of each weight's (adam, default 0.001)"
    )
    max_norm: float = setting(1.0, "γ: bound of the gradient's norm")
    learning_rate: float = setting(0.03, "of the Adam that learns the scales")
    min_scale: float = setting(0.01, "lower bound of the scales of weights; that of biases is 0")
    iterations: int = setting(60, "steps of the search, a training batch each")
    clip: float = setting(1.0, "norm that the gradient by all scales is clipped to")
    criterion: str | None = setting(None, "name of a Keras loss; the cross-entropy where not given")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("step_size", "max_norm", "learning_rate", "iterations", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"Expected a {name} of RescaledInit above 0, not {value}.")
        if not 0 <= self.min_scale <= 1:
            raise UsageError(
                "Expected a min_scale of RescaledInit in [0, 1], since all scales start at 1, not "
                f"{self.min_scale}."
            )


@dataclasses.dataclass(frozen=True)
class LabelSmoothingSettings:
    """Of ``LabelSmoothing``."""

    epsilon: float = setting(0.1, "share of the target that goes to the other classes, in [0, 1)")

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise UsageError(
                f"Expected a label smoothing epsilon in [0, 1), the share of the target that goes "
                f"to the other classes, not {self.epsilon}."
            )


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """Of ``Distillation``."""

    teacher: str | None = setting(
        None,
        "the teacher: a SavedModel's folder, a .keras or an .h5 file; default: the dense model of "
        "round 0 of the ticket's own find run",
    )
    temperature: float = setting(4.0, "τ: what both models' logits are divided by, above 0")
    weight: float = setting(0.7, "λ: share of the teacher in the loss, in [0, 1]")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(
                f"Expected a temperature of Distillation above 0, what the logits are divided by, "
                f"not {self.temperature}."
            )
        if not 0 <= self.weight <= 1:
            raise UsageError(
                f"Expected a weight of Distillation in [0, 1], the share of the teacher in the "
                f"loss, not {self.weight}."
            )


# Name of a tweak → its parameters; ``table.TWEAKS`` has the tweaks. One of the user's own, which
# ``lt.register_tweak`` adds, has them itself.
PARAMETERS: dict[str, type] = {
    "soft_activation": SoftActivationSettings,
    "ghost_skips": GhostSkipsSettings,
    "rescaled_init": RescaledInitSettings,
    "label_smoothing": LabelSmoothingSettings,
    "distillation": DistillationSettings,
}

# Recipes that have a name of their own; a tweak's name stands for that tweak alone.
RECIPES: dict[str, tuple[str, ...]] = {
    "vanilla": (),
    # All of arXiv 2101.03255 (later called ToST, arXiv 2206.12755).
    "tost": ("soft_activation", "ghost_skips", "rescaled_init", "label_smoothing"),
}


@functools.cache
def tweak_settings() -> type:
    """A dataclass with the parameters of all tweaks, each named ``<tweak>_<parameter>``."""
    return dataclasses.make_dataclass(
        "TweakSettings",
        [
            (
                f"{name}_{field.name}",
                typing.get_type_hints(kind)[field.name],
                dataclasses.field(default=field.default, metadata=field.metadata),
            )
            for name, kind in PARAMETERS.items()
            for field in settings_of(kind)
        ],
        frozen=True,
        namespace={"__doc__": "Parameters of the tweaks."},
    )


def check_parameters(settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a parameter that no tweak has."""
    known = [field.name for field in dataclasses.fields(tweak_settings())]
    for key in settings:
        if key not in known:
            raise UsageError(
                f"Expected parameters such as {known[0]} for the recipe's tweaks; there is no "
                f"'{key}'{nearest(key, known)}."
            )


def tweak_names(name: str) -> tuple[str, ...]:
    """The tweaks that a recipe or a tweak of that name is made of; UsageError for no such."""
    if name in RECIPES:
        return RECIPES[name]
    if name in PARAMETERS:
        return (name,)
    known = [*RECIPES, *PARAMETERS]
    raise UsageError(f"A recipe is made of {one_of(known)}, not '{name}'{nearest(name, known)}.")


def tweaks_of(recipe: str) -> list[str]:
    """The names of the tweaks of a recipe in words: names separated by commas.

    Raises:
      UsageError: for an unknown name, or a tweak that is given twice.
    """
    names = [part for name in recipe.split(",") for part in tweak_names(name.strip())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Expected each tweak once in a recipe; {one_of(twice)} came twice.")
    return names


def described(recipe: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What ``Recipe(recipe, settings).describe()`` says, as far as the parameters alone tell it.

    Raises:
      UsageError: for an unknown name, a tweak that is given twice, and parameters out of range.
    """
    return {n: describe(PARAMETERS[n](**parameters_of(n, settings))) for n in tweaks_of(recipe)}


def parameters_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one tweak by their own names, of ``settings`` keyed <tweak>_<parameter>."""
    fields = settings_of(PARAMETERS[name])
    return {f.name: settings[key] for f in fields if (key := f"{name}_{f.name}") in settings}
