"""Lottery tickets for Keras: draw a sparse subnetwork, rewind it, spend it better, export it.

>>> import lottery_tf as lt

Names load on first use, so that ``lottery-tf --help`` need not wait for TensorFlow.
"""

from typing import TYPE_CHECKING

from lottery_tf.common.lazy import loads

if TYPE_CHECKING:  # what _WHERE says, for type checkers and editors
    from lottery_tf import data as data
    from lottery_tf import models as models
    from lottery_tf.common.errors import UsageError as UsageError
    from lottery_tf.exporting.exports import export as export
    from lottery_tf.finding.find import find_ticket as find_ticket
    from lottery_tf.finding.find import find_tickets as find_tickets
    from lottery_tf.finding.one_shot import prune as prune
    from lottery_tf.finding.scores import register_method as register_method
    from lottery_tf.graph.schedules import from_step as from_step
    from lottery_tf.inspecting.facts import inspect as inspect
    from lottery_tf.inspecting.signal import signal as signal
    from lottery_tf.masks.flops import count_flops as count_flops
    from lottery_tf.masks.masks import Masks as Masks
    from lottery_tf.masks.prune_by_mask import get_masks as get_masks
    from lottery_tf.masks.wrapper import set_masks as set_masks
    from lottery_tf.masks.wrapper import strip as strip
    from lottery_tf.masks.wrapper import wrap as wrap
    from lottery_tf.reporting.recipes import compare as compare
    from lottery_tf.tickets.ticket import Ticket as Ticket
    from lottery_tf.training.loading import load_model as load_model
    from lottery_tf.tweaks.after_fades import AfterFades as AfterFades
    from lottery_tf.tweaks.distillation import Distillation as Distillation
    from lottery_tf.tweaks.ghost_skips import GhostSkips as GhostSkips
    from lottery_tf.tweaks.recipe import Recipe as Recipe
    from lottery_tf.tweaks.rescaled_init import RescaledInit as RescaledInit
    from lottery_tf.tweaks.signal_scaling import SignalScaling as SignalScaling
    from lottery_tf.tweaks.soft_activation import SoftActivation as SoftActivation
    from lottery_tf.tweaks.soft_labels import LabelSmoothing as LabelSmoothing
    from lottery_tf.tweaks.table import register_tweak as register_tweak

_WHERE = {
    "Masks": "masks.masks",
    "UsageError": "common.errors",
    "wrap": "masks.wrapper",
    "strip": "masks.wrapper",
    "set_masks": "masks.wrapper",
    "get_masks": "masks.prune_by_mask",
    "Ticket": "tickets.ticket",
    "Recipe": "tweaks.recipe",
    "SignalScaling": "tweaks.signal_scaling",
    "SoftActivation": "tweaks.soft_activation",
    "GhostSkips": "tweaks.ghost_skips",
    "RescaledInit": "tweaks.rescaled_init",
    "LabelSmoothing": "tweaks.soft_labels",
    "Distillation": "tweaks.distillation",
    "AfterFades": "tweaks.after_fades",
    "from_step": "graph.schedules",
    "register_tweak": "tweaks.table",
    "prune": "finding.one_shot",
    "register_method": "finding.scores",
    "find_ticket": "finding.find",
    "find_tickets": "finding.find",
    "export": "exporting.exports",
    "load_model": "training.loading",
    "count_flops": "masks.flops",
    "compare": "reporting.recipes",
    "inspect": "inspecting.facts",
    "signal": "inspecting.signal",
    "models": "models",
    "data": "data",
}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE, {"compare": "report"})


def __dir__() -> list[str]:
    return __all__
