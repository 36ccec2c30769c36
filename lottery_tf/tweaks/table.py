"""The tweaks by name."""

import dataclasses

from lottery_tf.common.errors import UsageError
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.ghost_skips import GhostSkips
from lottery_tf.tweaks.rescaled_init import RescaledInit
from lottery_tf.tweaks.settings import PARAMETERS, RECIPES, tweak_settings
from lottery_tf.tweaks.signal_scaling import SignalScaling
from lottery_tf.tweaks.soft_activation import SoftActivation
from lottery_tf.tweaks.soft_labels import LabelSmoothing
from lottery_tf.tweaks.tweak import Tweak

TWEAKS: dict[str, type[Tweak]] = {
    "signal_scaling": SignalScaling,
    "soft_activation": SoftActivation,
    "ghost_skips": GhostSkips,
    "rescaled_init": RescaledInit,
    "label_smoothing": LabelSmoothing,
    "distillation": Distillation,
}


def register_tweak(name: str, tweak: type[Tweak]) -> None:
    """Registers a user's own tweak under a name, for ``Recipe`` and, in this process, the commands.

    Its parameters become settings and flags, ``<name>_<parameter>``.

    Args:
      name: letters, digits and underscores.
      tweak: a frozen dataclass, a subclass of ``Tweak``. Its parameters are the fields that
        ``lottery_tf.common.settings.setting`` has made.

    Raises:
      UsageError: for a name of another form, or of another tweak; for a class that is not such a
        dataclass, or has fields without a default.
    """
    if not name.isidentifier():
        raise UsageError(f"Expected a tweak's name of letters, digits and _, not '{name}'.")
    if not (
        isinstance(tweak, type) and issubclass(tweak, Tweak) and dataclasses.is_dataclass(tweak)
    ):
        raise UsageError(
            f"Expected a frozen dataclass that is a subclass of lottery_tf.tweaks.Tweak for the "
            f"tweak '{name}'; got {tweak!r}."
        )
    needed = (dataclasses.MISSING, dataclasses.MISSING)
    for field in dataclasses.fields(tweak):
        if field.init and (field.default, field.default_factory) == needed:
            raise UsageError(
                f"Expected defaults for all fields of the tweak '{name}', as a recipe makes it by "
                f"its name; {field.name} has none."
            )
    if name in RECIPES or TWEAKS.get(name, tweak) is not tweak:
        raise UsageError(f"Expected a new name for the tweak; '{name}' is taken: choose another.")
    TWEAKS[name] = PARAMETERS[name] = tweak
    tweak_settings.cache_clear()
