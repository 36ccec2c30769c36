"""The tweaks by name."""

from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.ghost_skip import GhostSkips
from lottery_tf.tweaks.rescaled_init import RescaledInit
from lottery_tf.tweaks.soft_activation import SoftActivation
from lottery_tf.tweaks.soft_labels import LabelSmoothing
from lottery_tf.tweaks.tweak import Tweak

TWEAKS: dict[str, type[Tweak]] = {
    "soft_activation": SoftActivation,
    "ghost_skips": GhostSkips,
    "rescaled_init": RescaledInit,
    "label_smoothing": LabelSmoothing,
    "distillation": Distillation,
}
