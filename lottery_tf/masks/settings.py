"""Which weights may be pruned, as settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import make_tuples, nearest, setting

# Kinds of layers; masks.prunable has the classes.
KINDS = ("conv", "dense", "recurrent", "attention", "depthwise", "embedding")
# Kinds that no network of the zoo has, and that older releases did not know.
_OF_NO_RUN = ("recurrent", "attention", "embedding")


@dataclasses.dataclass(frozen=True)
class PrunableSettings:
    """Which layers are pruned."""

    prune_layers: tuple[str, ...] = setting(
        ("conv", "dense", "recurrent", "attention"),
        f"kinds of layers to prune, among {', '.join(KINDS)}",
    )
    keep_dense: tuple[str, ...] = setting(
        ("last",),
        "layers to leave dense: first (at the inputs), last (at the outputs), shortcut (1x1 "
        "projections beside a residual branch), or names of layers and of models in the model",
    )

    def __post_init__(self) -> None:
        make_tuples(self, "prune_layers", "keep_dense")
        for kind in self.prune_layers:
            if kind not in KINDS:
                raise UsageError(
                    f"`prune_layers` takes {', '.join(KINDS)}, not '{kind}'{nearest(kind, KINDS)}."
                )


def as_compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, as JSON has them, without kinds of layers that make no difference.

    The networks of the commands have no layers of these kinds. So runs of older releases, which
    did not know the kinds, still count as the same runs.
    """
    kinds = settings.get("prune_layers")
    if not isinstance(kinds, list):
        return dict(settings)
    return {**settings, "prune_layers": [kind for kind in kinds if kind not in _OF_NO_RUN]}
