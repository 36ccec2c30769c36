"""Which weights may be pruned, as settings."""

import dataclasses

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import nearest, setting

KINDS = ("conv", "dense", "depthwise")  # of layers; masks.prunable has the classes


@dataclasses.dataclass(frozen=True)
class PrunableSettings:
    """Which layers are pruned."""

    prune_layers: tuple[str, ...] = setting(
        ("conv", "dense"), f"kinds of layers to prune, among {', '.join(KINDS)}"
    )
    keep_dense: tuple[str, ...] = setting(
        ("last",),
        "layers to leave dense: first (those that read the inputs), last (those that make the "
        "outputs), shortcut (1x1 projections beside a residual branch), or the names of layers and "
        "of models within the model",
    )

    def __post_init__(self) -> None:
        for kind in self.prune_layers:
            if kind not in KINDS:
                raise UsageError(
                    f"`prune_layers` takes {', '.join(KINDS)}, not '{kind}'{nearest(kind, KINDS)}."
                )
