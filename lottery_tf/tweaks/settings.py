"""The parameters of the tweaks, and the recipes by name. Flags are made from them.

They are separate from the tweaks, so that a command line is read without TensorFlow.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import (
    check_values,
    describe,
    make_tuples,
    nearest,
    one_of,
    setting,
    settings_of,
)

CURVES = ("linear", "cosine", "exponential", "constant")
CURVE_HELP = "how it fades; constant: it stays until the end of its share, then ends at once"
SHARE_HELP = "share of the training over which it fades, in [0, 1]"
MAX_NORMS = {"l2": 1.0, "l1": 1000.0}  # of the gradient; GradInit's for sgd and for adam
STEP_SIZES = {"sgd": 0.1, "adam": 0.001}  # of RescaledInit's virtual first step


@dataclasses.dataclass(frozen=True)
class FadingSettings:
    """Parameters of tweaks that fade."""

    share: float = setting(0.5, SHARE_HELP)
    curve: str = setting("linear", CURVE_HELP, choices=CURVES)

    def __post_init__(self) -> None:
        check_values(self)
        if not 0 <= self.share <= 1:
            tweak = type(self).__name__.removesuffix("Settings")
            raise UsageError(
                f"Expected the share of {tweak} in [0, 1], the part of the training over which it "
                f"fades, not {self.share}."
            )


KEEP_HELP = (
    "whether it stays unchanged to the end of the training, and in the finished model, which then "
    "has another architecture"
)
KEEP_SIGNAL_HELP = "whether it is scaled to pass as much signal as without the tweak"


@dataclasses.dataclass(frozen=True)
class SignalScalingSettings:
    """Of ``SignalScaling``."""

    by: str = setting(
        "norm",
        "how to measure what is left of a kernel: norm (its norm; the share of its weights if that "
        "is not known) or density (the share of its weights)",
        choices=("norm", "density"),
    )

    def __post_init__(self) -> None:
        check_values(self)


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
                "Expected a linear, cosine or constant curve for SoftActivation with mish, not an "
                "exponential one, as its blend starts at 0."
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
        "α at the first step, above 0; default: 1 if every signal goes through the convolution, "
        "0.1 if there is a parallel path around it",
    )
    shortcut: str = setting(
        "identity",
        "the skip: identity (the input itself, pooled and padded if shapes differ) or conv (a 1x1 "
        "convolution with BatchNorm)",
        choices=("identity", "conv"),
    )
    # docs/results/ghost_skips: a convolution learns to undo its smaller weight until it is gone.
    fade: str | None = setting(
        None,
        "how the skip ends: weight (α falls) or drop (in training more and more images have no "
        "skip); default: drop for conv, weight for identity",
        choices=("weight", "drop"),
    )
    convolutions: tuple[str, ...] = setting(
        ("hidden",),
        "which convolutions: all with a kernel larger than 1, hidden (all but the first), same "
        "(those that keep the shape), or layers' names",
    )
    keep_signal: bool = setting(True, KEEP_SIGNAL_HELP)
    keep: bool = setting(False, KEEP_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        make_tuples(self, "convolutions")
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
        "the optimizer of the virtual first step; default: that of --optimizer, in a program sgd",
        choices=tuple(STEP_SIZES),
    )
    step_size: float | None = setting(
        None, "η: length of that step (sgd, default 0.1) or of each weight's (adam, default 0.001)"
    )
    norm: str | None = setting(
        None,
        "the gradient's norm that is bounded; default: l2 for sgd, l1 for adam",
        choices=tuple(MAX_NORMS),
    )
    max_norm: float | None = setting(
        None, "γ: bound of that norm; default: 1 for l2, 1000 for l1, GradInit's own"
    )
    learning_rate: float = setting(0.01, "learning rate of the Adam that learns the scales")
    min_scale: float = setting(0.01, "lower bound of the scales of weights; that of biases is 0")
    min_gamma: float = setting(0.1, "lower bound of the scales of a normalisation's γ")
    iterations: int = setting(300, "most steps of the search, with a training batch each")
    patience: int = setting(
        50, "steps after which it ends if nothing was better by 1 % and the scales hardly move"
    )
    clip: float = setting(1.0, "bound c: each scale's derivative is clipped to [-c, c]")
    keep_signal: bool = setting(
        True,
        "no scales that pass less signal: for hidden layers without a normalisation behind them "
        "the geometric mean is at least 1",
    )
    order: str = setting(
        "mask_first",
        "whether to search scales for the ticket (mask_first), or for the dense network, which is "
        "masked afterwards (search_first)",
        choices=("mask_first", "search_first"),
    )
    dense: str | None = setting(
        None,
        "search_first: folder of the dense ticket; default: that of the ticket's own run",
        path=True,
    )
    criterion: str | None = setting(None, "name of a Keras loss; default: the cross-entropy")

    def __post_init__(self) -> None:
        check_values(self)
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
        check_values(self)
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
    temperature: float = setting(4.0, "τ: divisor of both models' logits, above 0")
    weight: float = setting(0.7, "λ: share of the teacher in the loss, in [0, 1]")

    def __post_init__(self) -> None:
        check_values(self)
        if not 0 < self.temperature < float("inf"):
            raise UsageError(
                f"Expected a temperature of Distillation above 0, the divisor of the logits, not "
                f"{self.temperature}."
            )
        if not 0 <= self.weight <= 1:
            raise UsageError(
                f"Expected a weight of Distillation in [0, 1], the share of the teacher in the "
                f"loss, not {self.weight}."
            )


# Name of a tweak → its parameters; ``table.TWEAKS`` has the tweaks. For a user's own tweak
# ``lt.register_tweak`` adds the tweak's class itself.
PARAMETERS: dict[str, type] = {
    "signal_scaling": SignalScalingSettings,
    "soft_activation": SoftActivationSettings,
    "ghost_skips": GhostSkipsSettings,
    "rescaled_init": RescaledInitSettings,
    "label_smoothing": LabelSmoothingSettings,
    "distillation": DistillationSettings,
}

# Recipes with a name of their own. A tweak's name means that tweak alone.
RECIPES: dict[str, tuple[str, ...]] = {
    "vanilla": (),
    # All of arXiv 2101.03255 (later called ToST, arXiv 2206.12755), after signal scaling.
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

# Recipe → parameters that differ from the tweaks' own defaults, by their flags' names. Parameters
# that the user gives override them. docs/paper.md says where they are from.
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


# Values of parameters that older releases did not write, if today's defaults differ. These releases
# did not keep the signal, and their search for scales also bounded ‖·‖₂ for Adam's step.
_OLDER: dict[str, dict[str, Any]] = {
    "soft_activation": {"keep_signal": False},
    "ghost_skips": {"keep_signal": False},
    "rescaled_init": {"keep_signal": False, "norm": "l2"},
}
# Likewise, parameters that take the value of another one: the search made all its iterations, and
# had one bound for the scales of all weights.
_OLDER_AS = {"rescaled_init": {"patience": "iterations", "min_gamma": "min_scale"}}


def with_older_defaults(tweak: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a tweak, completed if an older release wrote them.

    Missing parameters are added if their value in that release is not today's default.

    >>> with_older_defaults("ghost_skips", {"alpha": 0.1})
    {'keep_signal': False, 'alpha': 0.1}
    >>> with_older_defaults("ghost_skips", {"shortcut": "conv"})
    {'keep_signal': False, 'fade': 'weight', 'shortcut': 'conv'}
    """
    others = _OLDER_AS.get(tweak, {}).items()
    same = {name: parameters[other] for name, other in others if other in parameters}
    # For the identity the default has not changed.
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
    """The tweaks of the recipe of that name, or that tweak; UsageError if there is none."""
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


def as_read(recipe: str) -> str:
    """A recipe as it is shown, its names joined by ``+``. Files on disk have commas.

    >>> as_read("tost,distillation")
    'tost+distillation'

    A label that is not made of names, such as ``epsilon 0.1, 5 epochs``, stays as it is.
    """
    names = names_in(recipe)
    return "+".join(names) if all(name.isidentifier() for name in names) else recipe


def tweak_names_in(recipe: str) -> list[str]:
    """The names of the tweaks of a recipe, which is given as names joined by ``+`` or by commas.

    Raises:
      UsageError: for an unknown name, or a tweak that is given twice.
    """
    names = [part for name in names_in(recipe) for part in tweak_names(name)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Expected each tweak once in a recipe; {one_of(twice)} came twice.")
    return names


def recipes_in(recipe: str) -> list[str]:
    """The names in ``recipe`` that are recipes."""
    return [name for name in names_in(recipe) if name in RECIPES]


def defaults_of(recipe: str) -> dict[str, Any]:
    """The parameters that ``recipe`` has of its own, by their flags' names."""
    return {k: v for n in recipes_in(recipe) for k, v in RECIPE_DEFAULTS.get(n, {}).items()}


def described(recipe: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The result of ``Recipe(recipe, settings).describe()``, from the parameters alone.

    Raises:
      UsageError: for an unknown name, a tweak that is given twice, and parameters out of range.
    """
    given = {**defaults_of(recipe), **settings}
    return {n: describe(PARAMETERS[n](**parameters_of(n, given))) for n in tweak_names_in(recipe)}


def parameters_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a tweak by their own names, from ``settings`` keyed <tweak>_<parameter>."""
    fields = settings_of(PARAMETERS[name])
    return {f.name: settings[key] for f in fields if (key := f"{name}_{f.name}") in settings}
