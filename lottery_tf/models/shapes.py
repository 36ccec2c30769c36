"""Which images a model can take."""

from collections.abc import Sequence

from lottery_tf.common.errors import UsageError


def check_halvings(model: str, input_shape: Sequence[int], halvings: int) -> None:
    """Raises UsageError if ``(H, W, C)`` is too small to be halved ``halvings`` times."""
    height, width, _ = input_shape
    least = 2**halvings
    if min(height, width) < least:
        raise UsageError(
            f"{model} halves an image {'twice' if halvings == 2 else f'{halvings} times'} and "
            f"expects at least {least}×{least} pixels, not {height}×{width}; give larger images "
            "or take lenet_300_100."
        )
