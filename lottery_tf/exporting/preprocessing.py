"""Preprocessing within an export: layers that normalise, so that the model takes raw pixels."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph.compat import input_layers, input_like, keras, keras_of, spec_of
from lottery_tf.graph.copies import copy_layer, rebuild, reconnected
from lottery_tf.graph.layers import layer_paths

# How much nearer to mean 0 and std 1 the images are by the other reading before a warning says so.
_CLEARLY = 1.0
_ENOUGH = 1000  # images that tell it


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """(x − mean) / std, as ``data.Dataset.normalise`` has it.

    Attributes:
      mean, std: one number for all, or one for each channel (the last axis), in the units of x.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: keras.Model, preprocessing: Mapping[str, Any] | None) -> "Normalisation":
        """That of ``preprocessing``, to be put in front of ``model``.

        Raises:
          UsageError: without ``mean`` and ``std`` as finite numbers, one for all or one for each
            channel, std above 0. For a model of several inputs, or one that takes no floating-point
            numbers.
        """
        given = preprocessing or {}
        if not {"mean", "std"} <= given.keys():
            raise UsageError(
                "Expected preprocessing with mean and std to put into the export, such as "
                "preprocessing={'mean': 0, 'std': 255} for pixels divided by 255; got "
                f"{', '.join(given) or 'none'}."
            )
        specs = [spec_of(tensor) for tensor in model.inputs]
        if len(specs) != 1 or not specs[0].dtype.is_floating:
            taken = ", ".join(f"{spec.dtype.name} {tuple(spec.shape[1:])}" for spec in specs)
            raise UsageError(
                f"Expected a model with one input of floating-point numbers to normalise; "
                f"'{model.name}' takes {taken}: export it without preprocessing in the model."
            )
        return cls(*(_numbers(name, given[name], specs[0].shape[-1]) for name in ("mean", "std")))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """``images`` normalised, float32 of the same shape."""
        scale = (1 / np.asarray(self.std)).astype(np.float32)
        return np.subtract(images, np.asarray(self.mean, np.float32), dtype=np.float32) * scale

    def before(self, model: keras.Model) -> keras.Model:
        """A copy of a plain model that normalises its input itself; not compiled.

        Its input has the same name and shape, float32.
        """
        rescaling, taken = keras_of(model).layers.Rescaling, set(layer_paths(model))
        # In two steps, whose bits are those of ``data.Dataset.normalise``. Normalization holds its
        # numbers as tensors, which ONNX's converter takes for inputs.
        subtract = rescaling(1.0, [-each for each in self.mean], name=_free("subtract_mean", taken))
        divide = rescaling([1 / each for each in self.std], 0.0, name=_free("divide_by_std", taken))

        def connect(part: keras.Model, copy_of: Any) -> keras.Model | None:
            if part is not model:
                return None
            raw = input_like(input_layers(model)[0], dtype="float32")
            return reconnected(part, copy_of, {}, [raw], [divide(subtract(raw))])

        return rebuild(model, copy_layer, connect)

    def told(self, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
        """What ``export.json`` says: nothing is left to do to the pixels, mean 0 and std 1."""
        return {
            **preprocessing,
            "input": "pixels as they are, float32; the model normalises them itself",
            "mean": [0.0] * len(self.mean),
            "std": [1.0] * len(self.std),
            "in_model": {"mean": list(self.mean), "std": list(self.std)},
        }


def warn_of_images(
    model: keras.Model,
    preprocessing: Mapping[str, Any] | None,
    inside: bool,
    inputs: Mapping[str, np.ndarray] | None,
) -> None:
    """Warns if images look normalised where raw pixels are expected, or the other way round.

    Args:
      model: the model without the normalisation.
      preprocessing: as in ``export``; without a mean and std that fit the model nothing is said.
      inside: whether the exported model normalises, and so takes raw pixels.
      inputs: the images by the name of the input.
    """
    if not preprocessing or not inputs:
        return
    try:
        normalisation = Normalisation.of(model, preprocessing)
    except UsageError:  # told elsewhere, where it is to be put into the model
        return
    (images,) = inputs.values()
    images = images[:: max(1, len(images) // _ENOUGH)]
    channels = max(len(normalisation.mean), len(normalisation.std))
    as_given = _off_standard(images, channels)
    normalised = _off_standard(normalisation(images), channels)
    numbers = f"their mean is {images.mean():.3g}, their std {images.std():.3g}"
    if inside and normalised > as_given + _CLEARLY:
        log.warning(
            "The images look normalised already: %s. With with_preprocessing the exported model "
            "takes raw pixels and normalises them itself: give raw pixels.",
            numbers,
        )
    elif not inside and as_given > normalised + _CLEARLY:
        log.warning(
            "The images look like raw pixels: %s. The exported model takes what preprocessing's "
            "mean and std make of them: normalise them first, or give with_preprocessing=True.",
            numbers,
        )


def _off_standard(images: np.ndarray, channels: int) -> float:
    """How far numbers are from mean 0 and std 1: |mean| + |log std|, the mean over the channels.

    A channel that holds one number everywhere says nothing, and is left out; 0 if all are.
    """
    columns = images.reshape(-1, channels).astype(np.float64)
    with np.errstate(invalid="ignore"):  # of infinite numbers
        mean, std = columns.mean(0), columns.std(0)
    telling = (std > 1e-6 * np.abs(mean)) & np.isfinite(std)
    if not telling.any():
        return 0.0
    return float(np.mean(np.abs(mean[telling]) + np.abs(np.log(std[telling]))))


def _free(name: str, taken: Collection[str]) -> str:
    """A name that no layer has yet."""
    while name in taken:
        name = f"{name}_1"
    return name


def _numbers(name: str, given: Any, channels: int | None) -> tuple[float, ...]:
    try:
        numbers = np.atleast_1d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    good = numbers.ndim == 1 and len(numbers) in (1, channels) and np.isfinite(numbers).all()
    if not good or (name == "std" and (numbers <= 0).any()):
        wanted = "finite" if name == "mean" else "finite and above 0"
        raise UsageError(
            f"Expected the {name} of preprocessing as one number, or one for each of {channels} "
            f"channels, {wanted}; got {str(given)[:60]}."
        )
    if channels is None and len(numbers) > 1:
        raise UsageError(
            f"Expected one {name} of preprocessing for a model whose number of channels is free; "
            f"got {len(numbers)}."
        )
    return tuple(numbers.tolist())
