"""Lottery tickets for Keras: draw a sparse subnetwork, rewind it, spend it better, export it.

>>> import lottery_tf as lt

Names load on first use, so that ``lottery-tf --help`` need not wait for TensorFlow.
"""

import importlib

_WHERE = {
    "Masks": "masks.masks",
    "UsageError": "common.errors",
    "wrap": "masks.wrapper",
    "strip": "masks.wrapper",
    "set_masks": "masks.wrapper",
    "get_masks": "masks.wrapper",
    "Ticket": "tickets.ticket",
    "Recipe": "tweaks.recipe",
    "SoftActivation": "tweaks.soft_activation",
    "GhostSkips": "tweaks.ghost_skip",
    "RescaledInit": "tweaks.rescaled_init",
    "LabelSmoothing": "tweaks.soft_labels",
    "Distillation": "tweaks.distillation",
    "prune": "finding.one_shot",
    "find_ticket": "finding.find",
    "find_tickets": "finding.find",
    "export": "exporting",
    "count_flops": "masks.flops",
    "inspect": "inspecting",
}
_MODULES = ("models", "data")

__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f"lottery_tf.{_WHERE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"lottery_tf.{name}")
    raise AttributeError(f"module 'lottery_tf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
