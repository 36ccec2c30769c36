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

CURVES = ("linear", "cosine", "exponential", "constant")
CURVE_HELP = "how it fades; constant: not before the end of its share, and then at once"
SHARE_HELP = "share of the training over which it fades, in [0, 1]"
MAX_NORMS = {"l2": 1.0, "l1": 1000.0}  # of the gradient, GradInit's for sgd and for adam
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


KEEP_HELP = (
    "whether it stays to the end of the training as it begins, and in the finished model, which is "
    "then another architecture"
)
KEEP_SIGNAL_HELP = "whether it is scaled so that as much of the signal gets through as without it"


@dataclasses.dataclass(frozen=True)
class SignalScalingSettings:
    """Of ``SignalScaling``."""

    by: str = setting(
        "norm",
        "what tells how much of a kernel its mask has left: its norm, or where that is not known "
        "and with density the share of its weights",
        choices=("norm", "density"),
    )

    def __post_init__(self) -> None:
        check_choices(self)


@dataclasses.dataclass(frozen=True)
class SoftActivationSettings(FadingSettings):
    """Of ``SoftActivation``."""

    unit: str = setting("pswish", "the smooth unit", choices=("pswish", "mish"))
    beta_start: float = setting(1.0, "PSwish's β at the first step, above 0; 1 is Swish")
    beta_end: float = setting(10.0, "PSwish's β at the end of its share, before it is ReLU")
    keep_signal: bool = setting(True, KEEP_SIGNAL_HELP)
    keep: bool = setting(False, KEEP_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < beta < math.inf for beta in (self.beta_start, self.beta_end)):
            raise UsageError(
                "Expected SoftActivation's beta_start and beta_end above 0, not "
                f"{self.beta_start} and {self.beta_end}: x·σ(βx) is ReLU for large β."
            )
        if self.unit == "mish" and self.curve == "exponential":
            raise UsageError(
                "Expected a linear, cosine or constant curve for SoftActivation with mish, whose "
                "blend starts at 0, not an exponential one."
            )


@dataclasses.dataclass(frozen=True)
class GhostSkipsSettings(FadingSettings):
    """Of ``GhostSkips``."""

    # docs/results/fades: 0.2 was best on dev, 0.8 cost a point.
    share: float = setting(0.2, SHARE_HELP)
    curve: str = setting("linear", CURVE_HELP, choices=("linear", "cosine", "constant"))
    # docs/results/ghost_skips: 1 doubles the signal a block, and a deep ResNet does not train.
    alpha: float | None = setting(
        None,
        "α at the first step, above 0; default: 1 where every signal goes through the convolution, "
        "0.1 where there is a parallel way around it",
    )
    shortcut: str = setting(
        "identity",
        "what goes around: the input itself, pooled and padded where shapes differ, or a "
        "1x1 convolution with BatchNorm",
        choices=("identity", "conv"),
    )
    # docs/results/ghost_skips: a convolution makes up for a smaller weight until it is gone.
    fade: str | None = setting(
        None,
        "how it goes: weight, by its α; drop, in training more and more images go without it; "
        "default: drop for conv, weight for identity",
        choices=("weight", "drop"),
    )
    convolutions: tuple[str, ...] = setting(
        ("hidden",),
        "which convolutions: all whose kernel is larger than 1, hidden (those of them that do not "
        "come first), same (those that keep the shape), or layers' names",
    )
    keep_signal: bool = setting(True, KEEP_SIGNAL_HELP)
    keep: bool = setting(False, KEEP_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.convolutions, str):  # one name, of which a tuple would be its letters
            object.__setattr__(self, "convolutions", (self.convolutions,))
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
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
    norm: str | None = setting(
        None,
        "the gradient's norm that is bounded; default: l2 for sgd, l1 for adam",
        choices=tuple(MAX_NORMS),
    )
    max_norm: float | None = setting(
        None, "γ: bound of that norm; default: 1 for l2, 1000 for l1, GradInit's own"
    )
    learning_rate: float = setting(0.01, "of the Adam that learns the scales")
    min_scale: float = setting(0.01, "lower bound of the scales of weights; that of biases is 0")
    min_gamma: float = setting(0.1, "that of the scales of a normalisation's γ")
    iterations: int = setting(300, "most steps of the search, a training batch each")
    patience: int = setting(
        50, "steps after which it ends if nothing was better by 1 % and the scales rest"
    )
    clip: float = setting(1.0, "that each scale's derivative is clipped to, above and below 0")
    keep_signal: bool = setting(
        True,
        "no scales that let less signal through: those of hidden layers without a normalisation "
        "behind them have a geometric mean of 1 or more",
    )
    order: str = setting(
        "mask_first",
        "whether the scales are searched for the ticket, or for the dense network, masked then",
        choices=("mask_first", "search_first"),
    )
    dense: str | None = setting(
        None,
        "search_first: folder of the dense ticket; default: that of the ticket's own run",
        path=True,
    )
    criterion: str | None = setting(None, "name of a Keras loss; the cross-entropy where not given")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("step_size", "max_norm", "learning_rate", "iterations", "patience", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"Expected a {name} of RescaledInit above 0, not {value}.")
        for name in ("min_scale", "min_gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"Expected a {name} of RescaledInit in [0, 1], since all scales start at 1, "
                    f"not {getattr(self, name)}."
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
        path=True,
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
    "signal_scaling": SignalScalingSettings,
    "soft_activation": SoftActivationSettings,
    "ghost_skips": GhostSkipsSettings,
    "rescaled_init": RescaledInitSettings,
    "label_smoothing": LabelSmoothingSettings,
    "distillation": DistillationSettings,
}

# Recipes that have a name of their own; a tweak's name stands for that tweak alone.
RECIPES: dict[str, tuple[str, ...]] = {
    "vanilla": (),
    # All of arXiv 2101.03255 (later called ToST, arXiv 2206.12755), behind what keeps the signal.
    "tost": (
        "signal_scaling",
        "soft_activation",
        "ghost_skips",
        "rescaled_init",
        "label_smoothing",
    ),
    # The same with the parameters of the code that was released with that paper.
    "tost_reference": ("soft_activation", "ghost_skips", "rescaled_init", "label_smoothing"),
    "kd_reference": ("distillation",),
}

# Recipe → parameters that are other than the tweaks' own defaults there, by their flags' names;
# what the user gives comes before them. docs/paper.md says where they are from.
RECIPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "tost_reference": {
        "soft_activation_unit": "pswish",
        "soft_activation_beta_start": 2.0,
        "soft_activation_beta_end": 2.0,
        "soft_activation_share": 1.0,
        "soft_activation_curve": "constant",
        "soft_activation_keep_signal": False,
        "soft_activation_keep": True,
        "ghost_skips_shortcut": "conv",
        "ghost_skips_convolutions": ("hidden",),
        "ghost_skips_alpha": 1.0,
        "ghost_skips_share": 1.0,
        "ghost_skips_curve": "constant",
        "ghost_skips_fade": "weight",
        "ghost_skips_keep_signal": False,
        "ghost_skips_keep": True,
        "rescaled_init_optimizer": "sgd",
        "rescaled_init_step_size": 0.1,
        "rescaled_init_norm": "l2",
        "rescaled_init_max_norm": 1.0,
        "rescaled_init_learning_rate": 0.01,
        "rescaled_init_min_scale": 0.01,
        "rescaled_init_min_gamma": 0.01,
        "rescaled_init_iterations": 180,
        "rescaled_init_patience": 180,
        "rescaled_init_clip": 1.0,
        "rescaled_init_keep_signal": False,
        "label_smoothing_epsilon": 0.1,
    },
    "kd_reference": {"distillation_temperature": 5.0, "distillation_weight": 0.9},
}


# What parameters stand for that an older release did not write, where that is not their default of
# today: it did not keep the signal, and its search for scales bounded ‖·‖₂ for Adam's step too.
_OLDER: dict[str, dict[str, Any]] = {
    "soft_activation": {"keep_signal": False},
    "ghost_skips": {"keep_signal": False},
    "rescaled_init": {"keep_signal": False, "norm": "l2"},
}
# Likewise, of those that stand for what another one says: the search made all its iterations, and
# had one bound for the scales of all weights.
_OLDER_AS = {"rescaled_init": {"patience": "iterations", "min_gamma": "min_scale"}}


def of_older_release(tweak: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a tweak as JSON has them, with those that they lack and that stand for
    something else than their default of today, because an older release wrote them.

    >>> of_older_release("ghost_skips", {"alpha": 0.1})
    {'keep_signal': False, 'alpha': 0.1}
    >>> of_older_release("ghost_skips", {"shortcut": "conv"})
    {'keep_signal': False, 'fade': 'weight', 'shortcut': 'conv'}
    """
    others = _OLDER_AS.get(tweak, {}).items()
    same = {name: parameters[other] for name, other in others if other in parameters}
    # The identity's default is what it was.
    conv = {"fade": "weight"} if parameters.get("shortcut") == "conv" else {}
    return {**_OLDER.get(tweak, {}), **conv, **same, **parameters}


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


def names_in(recipe: str) -> list[str]:
    """The names that a recipe in words is made of: ``tost+distillation`` or
    ``tost,distillation``."""
    return [name.strip() for name in recipe.replace("+", ",").split(",")]


def tweaks_of(recipe: str) -> list[str]:
    """The names of the tweaks of a recipe in words: names joined by ``+`` or by commas.

    Raises:
      UsageError: for an unknown name, or a tweak that is given twice.
    """
    names = [part for name in names_in(recipe) for part in tweak_names(name)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Expected each tweak once in a recipe; {one_of(twice)} came twice.")
    return names


def recipes_in(recipe: str) -> list[str]:
    """The recipes among the names of a recipe in words."""
    return [name for name in names_in(recipe) if name in RECIPES]


def defaults_of(recipe: str) -> dict[str, Any]:
    """The parameters that a recipe in words has by itself, by their flags' names."""
    return {k: v for n in recipes_in(recipe) for k, v in RECIPE_DEFAULTS.get(n, {}).items()}


def described(recipe: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What ``Recipe(recipe, settings).describe()`` says, as far as the parameters alone tell it.

    Raises:
      UsageError: for an unknown name, a tweak that is given twice, and parameters out of range.
    """
    given = {**defaults_of(recipe), **settings}
    return {n: describe(PARAMETERS[n](**parameters_of(n, given))) for n in tweaks_of(recipe)}


def parameters_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one tweak by their own names, of ``settings`` keyed <tweak>_<parameter>."""
    fields = settings_of(PARAMETERS[name])
    return {f.name: settings[key] for f in fields if (key := f"{name}_{f.name}") in settings}
