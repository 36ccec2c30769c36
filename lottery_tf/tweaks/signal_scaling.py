"""Signal scaling: a ticket passes as much signal as the dense network."""

import dataclasses
import math
from typing import Any, ClassVar

import tensorflow as tf

from lottery_tf.common.log import counted, log
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.signal_paths import unnormalised
from lottery_tf.masks.dense_norms import get_dense_norms, norm_of
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.tweaks.scaling import scaled
from lottery_tf.tweaks.settings import SignalScalingSettings
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class SignalScaling(SignalScalingSettings, Tweak):
    """Scales each masked kernel so that its layer passes the signal as the dense kernel does.

    Initialisations such as He's are made for dense kernels. A layer that keeps a share d of its
    weights passes a share d of the second moment of its inputs, and n such layers pass dⁿ. After a
    dozen of them almost no signal, and so no gradient, is left. Each kernel is multiplied by
    ‖w‖₂/‖w ⊙ m‖₂, with w from before the mask, or by 1/√d if w is not known.

    The scaled weights stay in the finished model. Layers followed by a normalisation such as
    BatchNorm are not scaled, as a scale would only change their effective learning rate. Biases
    are not scaled either, nor kernels without any weight left.
    """

    permanent: ClassVar[bool] = True
    rank: ClassVar[int] = 0  # before the search for scales, which begins with the scaled network

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        return self.apply(model, data)[0]

    def apply(
        self, model: keras.Model, data: tf.data.Dataset | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """The scaled copy, or ``model`` if nothing is to be scaled; and the ``scales`` by name."""
        scales = self._scales(model)
        if not scales:
            log.info("signal_scaling: nothing to scale: no masks, or normalisations behind all.")
            return model, {}
        log.info(
            "signal_scaling: %s scaled by %.3g to %.3g",
            *(counted(len(scales), "kernel"), min(scales.values()), max(scales.values())),
        )
        return scaled(model, scales), {"scales": scales}

    def _scales(self, model: keras.Model) -> dict[str, float]:
        free, left = unnormalised(model), strengths(model, self.by)
        scales = {name: 1 / strength for name, strength in left.items() if name in free}
        return {n: scale for n, scale in scales.items() if not math.isclose(scale, 1, rel_tol=1e-5)}


def strengths(model: keras.Model, by: str = "norm") -> dict[str, float]:
    """Name of a masked kernel → ‖w ⊙ m‖₂/‖w‖₂, the strength of its outputs relative to dense ones.

    Kernels without any weight left are left out.

    Args:
      model: a model, wrapped or not.
      by: "norm", or "density" for √d, which is also used if ‖w‖₂ is not known.
    """
    norms = get_dense_norms(model) if by == "norm" else {}
    variables = named_variables(model)
    found = {}
    for name, mask in get_masks(model).items():
        left = norm_of(variables[name].numpy() * mask)
        if left and mask.all():
            found[name] = 1.0
        elif left:
            found[name] = left / norms[name] if name in norms else math.sqrt(mask.mean())
    return found
