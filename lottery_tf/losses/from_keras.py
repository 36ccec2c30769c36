"""Keras' losses as our cross-entropies, and the default loss of a model."""

from types import ModuleType
from typing import Any, TypeAlias

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.losses.binary_cross_entropy import AnyBinaryCrossEntropy, binary_cross_entropy
from lottery_tf.losses.cross_entropy import AnyCrossEntropy, cross_entropy
from lottery_tf.losses.outputs import Outputs, outputs_of

AnyOfOurs: TypeAlias = AnyCrossEntropy | AnyBinaryCrossEntropy


def loss_of(loss: Any, of: ModuleType = keras) -> Any:
    """The loss that is given or named.

    Args:
      of: the Keras in which a name is looked up.

    Raises:
      UsageError: for a name of no loss, and for a class instead of a loss.
    """
    if isinstance(loss, type):
        raise UsageError(f"Expected a loss, not its class: give {loss.__name__}().")
    try:
        return of.losses.get(loss)
    except ValueError as error:
        raise UsageError(
            f"Expected the name of a Keras loss, such as mean_squared_error, not '{loss}'."
        ) from error


def as_cross_entropy(loss: Any, of: ModuleType = keras) -> AnyOfOurs | None:
    """Our cross-entropy that computes the same; None if there is none.

    Args:
      loss: a loss of either Keras, or the name of one.
      of: the Keras in which a name is looked up.
    """
    if isinstance(loss, str | dict):
        loss = loss_of(loss, of)
    if isinstance(loss, AnyOfOurs):
        return loss
    for its_keras in (keras, keras3):
        theirs = its_keras.losses
        of_classes, of_labels = cross_entropy(its_keras), binary_cross_entropy(its_keras)
        kinds: dict[type, type[Any]] = {
            theirs.SparseCategoricalCrossentropy: of_classes,
            theirs.CategoricalCrossentropy: of_classes,
            theirs.BinaryCrossentropy: of_labels,
        }
        if kind := kinds.get(type(loss)):
            config = loss.get_config()
            usual = {"label_smoothing": 0, "axis": -1, "ignore_class": None}
            if any(config.get(name, value) != value for name, value in usual.items()):
                return None
            return kind(config["from_logits"], reduction=loss.reduction)
        if loss in (theirs.sparse_categorical_crossentropy, theirs.categorical_crossentropy):
            return of_classes(from_logits=False)
        if loss is theirs.binary_crossentropy:
            return of_labels(from_logits=False)
    return None


def changed(
    loss: Any, purpose: str, name: str, of: ModuleType = keras, /, **config: float
) -> AnyOfOurs:
    """Our class for ``loss`` (default: cross-entropy of logits) with a changed ``config``.

    Args:
      loss: a loss of either Keras, or the name of one.
      purpose, name: what the cross-entropy is for, and who asks for it, for the error.
      of: the Keras of the default, in which a name is also looked up.
      **config: arguments of ``CrossEntropy`` to change.

    Raises:
      UsageError: if it is not a cross-entropy, or has an option that ours does not have.
    """
    plain = cross_entropy(of)() if loss is None else as_cross_entropy(loss, of)
    if plain is None:
        called = getattr(loss, "name", getattr(loss, "__name__", loss))
        raise UsageError(
            f"Expected a cross-entropy {purpose}, not {called}: compile with "
            "SparseCategoricalCrossentropy, CategoricalCrossentropy or BinaryCrossentropy without "
            f"label_smoothing, axis or ignore_class of their own, or leave {name} out of the "
            "recipe."
        )
    return type(plain).from_config({**plain.get_config(), **config})


def default_loss(model: keras.Model) -> keras.losses.Loss:
    """The cross-entropy that fits the outputs of ``model``.

    It is binary for sigmoids, else of classes, on logits or on probabilities.

    Raises:
      UsageError: if an output is of unknown kind, if there are several kinds, or if an output has
        a single unit that is not a sigmoid.
    """
    found = outputs_of(model)
    if set(found.values()) == {Outputs.SIGMOIDS}:
        return binary_cross_entropy(keras_of(model))(from_logits=False)
    if any(output.shape[-1] == 1 for output in model.outputs):
        raise UsageError(
            "Expected outputs of several classes, or sigmoids, for the cross-entropy; the model "
            "has an output of a single unit: pass the loss to start from, such as "
            "keras.losses.BinaryCrossentropy(from_logits=True)."
        )
    known = {Outputs.LOGITS, Outputs.PROBABILITIES}
    if unknown := [name for name, kind in found.items() if kind not in known]:
        raise UsageError(
            f"Expected outputs that are logits or come from a softmax; the output of "
            f"{some(unknown)} in the model '{model.name}' is {found[unknown[0]].value}: pass the "
            "loss to start from, such as "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=…)."
        )
    if len(set(found.values())) > 1:
        raise UsageError(
            "Expected outputs that are all logits or all probabilities; the model has "
            "both: pass the loss to start from."
        )
    return cross_entropy(keras_of(model))(from_logits=Outputs.LOGITS in found.values())
