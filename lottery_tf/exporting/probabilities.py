"""The signature ``predict`` of a SavedModel: the model's outputs, and probabilities beside them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import one_of
from lottery_tf.graph.compat import keras, output_names, spec_of
from lottery_tf.losses.outputs import Outputs, outputs_of

# What makes probabilities of an output; of what is probabilities already nothing does.
WAYS = ("softmax", "sigmoid", "none")
_OF_KIND = {
    Outputs.LOGITS: "softmax",
    Outputs.PROBABILITIES: "none",
    Outputs.SIGMOIDS: "none",
}
_BINARY = {"binarycrossentropy", "binaryfocalcrossentropy"}
_CATEGORICAL = {
    *("crossentropy", "categoricalcrossentropy", "sparsecategoricalcrossentropy"),
    "categoricalfocalcrossentropy",
}


def probabilities_of(model: keras.Model, way: str | None = "auto") -> dict[str, str]:
    """By which of ``WAYS`` each output of a model becomes probabilities.

    Args:
      model: a built Sequential or functional model.
      way: "softmax" or "sigmoid", of outputs that are logits; "none", of probabilities. "auto"
        reads from the last layers what they are. Of logits it takes the softmax, unless the model
        is compiled with losses that are no cross-entropy of classes: the sigmoid for a binary
        cross-entropy, nothing for others. None is for no probabilities.

    Returns:
      name of an output → its way. With "auto" those are left out of which it is not known: a single
      unit, or what is neither logits nor probabilities by its layers.

    Raises:
      UsageError: for another ``way``, and for outputs that are no floating-point numbers. For the
        softmax or sigmoid of what is probabilities by its layers already.
    """
    if way is None:
        return {}
    if way not in ("auto", *WAYS):
        raise UsageError(
            f"Expected probabilities to be {one_of(('auto', *WAYS))}, or None, not {way!r}."
        )
    names = output_names(model)
    floating = [spec_of(tensor).dtype.is_floating for tensor in model.outputs]
    if way != "auto" and not all(floating):
        raise UsageError(
            f"Expected outputs of floating-point numbers to make probabilities of; those of "
            f"'{model.name}' are not: give probabilities=None."
        )
    kinds = list(outputs_of(model).values())
    if way != "auto":
        if way != "none" and (done := [kind for kind in kinds if _OF_KIND.get(kind) == "none"]):
            softmax = done[0] is Outputs.PROBABILITIES
            raise UsageError(
                f"Expected logits to take the {way} of; '{model.name}' gives "
                f"{'the probabilities of a softmax' if softmax else 'sigmoids'} already: "
                "give probabilities='auto', or leave it out."
            )
        return dict.fromkeys(names, way)
    if len(set(kinds)) == 1:
        kinds = kinds[:1] * len(names)
    if len(kinds) != len(names):  # a layer that makes several: which is which is not known
        return {}
    of_kind = {**_OF_KIND, Outputs.LOGITS: _way_of_losses(model)}
    found = {}
    for name, kind, output, good in zip(names, kinds, model.outputs, floating, strict=True):
        way = of_kind.get(kind)
        # The softmax of one unit is 1.
        alone = output.shape[-1] == 1 and kind is not Outputs.SIGMOIDS and way != "sigmoid"
        if good and way and not alone:
            found[name] = way
    return found


def _way_of_losses(model: keras.Model) -> str | None:
    """What makes probabilities of logits that were trained by the losses of a compiled model."""
    losses = tf.nest.flatten(getattr(model, "loss", None) or [])
    named = [each if isinstance(each, str) else getattr(each, "__name__", None) for each in losses]
    kinds = {
        (name or type(each).__name__).lower().replace("_", "").removesuffix("3")
        for name, each in zip(named, losses, strict=True)
    }
    if kinds <= _BINARY and kinds:
        return "sigmoid"
    return "softmax" if kinds <= _CATEGORICAL else None


def by_name(ways: Mapping[str, str], outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(output, its way, the name that its probabilities have in the signature).

    That is ``probabilities``, where there are several outputs ``probabilities_OUTPUT``, and the
    output's own where it is named so and is that already.
    """
    for name, way in ways.items():
        called = "probabilities" if len(outputs) == 1 else f"probabilities_{name}"
        while called in outputs and not (called == name and way == "none"):
            called = f"{called}_"
        yield name, way, called


def with_probabilities(
    ways: Mapping[str, str], serve: Callable[..., dict[str, tf.Tensor]], specs: list[tf.TensorSpec]
) -> Any:
    """``serve``, a function of a signature, with the probabilities among what it gives."""

    @tf.function(input_signature=specs)
    def predict(*flat: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = serve(*flat)
        found = dict(outputs)
        for name, way, called in by_name(ways, outputs):
            made = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid, "none": tf.identity}[way]
            found[called] = made(outputs[name])
        return found

    return predict


def expected(ways: Mapping[str, str], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the signature has to give where the model gives ``outputs``: computed by NumPy."""
    found = dict(outputs)
    for name, way, called in by_name(ways, outputs):
        values = np.asarray(outputs[name], np.float64)
        if way == "softmax":
            powers = np.exp(values - values.max(-1, keepdims=True))
            values = powers / powers.sum(-1, keepdims=True)
        elif way == "sigmoid":
            values = 0.5 * (1 + np.tanh(values / 2))  # without overflow
        found[called] = values
    return found
