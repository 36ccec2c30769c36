"""Which images a model can take."""

from collections.abc import Sequence

from lottery_tf.errors import UsageError


def check_halves_twice(model: str, input_shape: Sequence[int]) -> None:
    """Raises UsageError where ``(H, W, C)`` is too small to be halved twice: below 4×4 pixels."""
    height, width, _ = input_shape
    if min(height, width) < 4:
        raise UsageError(
            f"{model} halves an image twice and expects at least 4×4 pixels, not "
            f"{height}×{width}; give larger images or take lenet_300_100."
        )
