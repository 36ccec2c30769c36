"""Teachers: the source of the logits of a distillation."""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import plain_path, sha256
from lottery_tf.graph.compat import (
    backend_of,
    ends_of,
    flattened,
    is_keras3,
    is_model,
    keras,
    on_tensorflow,
    spec_of,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import check_graph
from lottery_tf.graph.model_files import check_code, existing_model, is_keras_model, load_model
from lottery_tf.graph.ops import ops_for
from lottery_tf.graph.step_checks import check_in_step
from lottery_tf.losses.divergence import at_least_float32, logits_of, logits_of_sigmoids
from lottery_tf.losses.outputs import Outputs, outputs_of

_DESCRIBED = re.compile(r"model '.*', weights sha256 [0-9a-f]{12}")


class ModelName(str):
    """A keras.Model as a text of its name and weights, to be compared and written as JSON.

    Attributes:
      model: the model itself. A deep copy of the text does not have it.
      sha256: the SHA-256 of the weights at the time when the text was made.
    """

    model: keras.Model
    sha256: str

    def __new__(cls, model: keras.Model) -> "ModelName":
        digest = hashlib.sha256()
        for array in model.get_weights():
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        text = super().__new__(
            cls, f"model '{model.name}', weights sha256 {digest.hexdigest()[:12]}"
        )
        text.model, text.sha256 = model, digest.hexdigest()
        return text

    def __deepcopy__(self, memo: dict[int, Any]) -> str:
        return str(self)


def source_of(teacher: Any) -> str | None:
    """The form in which ``Distillation`` keeps a teacher: a path or a ``ModelName``.

    Raises:
      UsageError: if it is neither a path nor a built model of tf_keras or Keras 3.
    """
    if teacher is None or isinstance(teacher, str):
        return teacher
    if isinstance(teacher, os.PathLike):
        return os.fspath(teacher)
    if not is_model(teacher):
        check_graph(teacher)  # raises: it is not a model
    if not teacher.built:
        raise UsageError(
            f"Expected a trained teacher; the model '{teacher.name}' is not built: call it on a "
            "batch and load its weights first."
        )
    return ModelName(teacher)


def source_sha256(source: str) -> str:
    """SHA-256 of a model's weights, of a file, or of the names and sums of a folder's files."""
    if isinstance(source, ModelName):
        return source.sha256
    return sha256(_existing(source))


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model in inference.

    Attributes:
      name: for messages.
      outputs: function from inputs, as the trained model takes them, to outputs.
      inputs: the specs of its inputs, including the batch; None if they are not known.
      model: the Keras model, if it is one.
      kind: the kind of the outputs. If it is not known, they count as probabilities if each row of
        the batch is non-negative with a sum of 1 ± 1e-3. Otherwise they are refused as sigmoids if
        there are 64 or more of them, all in [0, 1].
    """

    name: str
    outputs: Callable[[Any], Any]
    inputs: Sequence[Any] | None
    kind: Outputs = Outputs.UNKNOWN
    model: Any = None

    def logits(self, x: Any) -> tf.Tensor:
        """Logits [batch, C] of the inputs ``x``, float32 or wider, without gradient.

        If ``kind`` is sigmoids, they are logits of each label on its own."""
        (outputs,) = tf.nest.flatten(self.outputs(x))
        ops = ops_for(outputs)
        half = keras3.backend.standardize_dtype(outputs.dtype) == "float16"
        # The smallest probability above 0 that the dtype can hold.
        smallest = 6e-8 if half else 1.2e-38
        wide = at_least_float32(outputs.dtype)
        of_sigmoids = self.kind is Outputs.SIGMOIDS
        inverse = logits_of_sigmoids if of_sigmoids else logits_of
        logits, plain = ops.cast(inverse(outputs, smallest), wide), ops.cast(outputs, wide)
        if self.kind is Outputs.LOGITS:
            logits = plain
        elif self.kind is Outputs.UNKNOWN:
            off = ops.abs(ops.sum(plain, axis=-1) - 1)
            normed = ops.all(plain >= 0) & ops.all(off <= 1e-3)
            logits = check_in_step(
                ops.where(normed, logits, plain),
                # A few logits may be in [0, 1] by chance.
                normed | (ops.size(plain) < 64) | ops.any((plain < 0) | (plain > 1)),
                f"Expected a teacher that gives logits or a softmax; the outputs of {self.name} "
                "are in [0, 1] and do not add up to 1: give a teacher that ends before its last "
                "activation.",
            )
        return ops.stop_gradient(logits)

    def check_fits(self, model: keras.Model) -> None:
        """Raises UsageError unless the teacher takes ``model``'s inputs and has its classes.

        The loss itself checks whether it can use the teacher's kind of outputs.
        """
        if not on_tensorflow(model) and not is_keras3(self.model):
            raise UsageError(
                f"Expected a teacher of Keras 3 for the model '{model.name}', which runs on "
                f"{keras3.backend.backend()}; {self.name} runs on TensorFlow. Give a Keras 3 "
                "model, or set KERAS_BACKEND=tensorflow before importing keras."
            )
        if on_tensorflow(model) and not on_tensorflow(self.model):
            raise UsageError(
                f"Expected a teacher that runs on TensorFlow, as the model '{model.name}' does; "
                f"{self.name} runs on {backend_of(self.model)}: give another, or set "
                "KERAS_BACKEND=tensorflow before importing keras."
            )
        given = list(map(spec_of, model.inputs))
        wanted = f"{_shapes(given)}, as the model '{model.name}' takes them"
        if self.inputs is not None and not (
            len(self.inputs) == len(given) and all(map(_same_kind, self.inputs, given))
        ):
            raise UsageError(
                f"Expected a teacher for inputs {wanted}; {self.name} takes "
                f"{_shapes(self.inputs)}: give another teacher."
            )
        try:
            outputs = self._specs_of(ends_of(model)[0])
        except Exception as error:  # layers raise different types for wrong inputs
            raise UsageError(
                f"Expected a teacher for inputs {wanted}; {self.name} fails on them: {error}"
            ) from error
        if len(outputs) != 1:
            raise UsageError(
                f"Expected a teacher with one output, {self.name} has {len(outputs)}: give a "
                "model with only the output to learn from."
            )
        (own,) = map(spec_of, model.outputs)
        if not outputs[0].shape[1:].is_compatible_with(own.shape[1:]):
            raise UsageError(
                f"Expected a teacher of {own.shape[-1]} classes, as the model '{model.name}' has "
                f"outputs {_shapes([own])}; {self.name} has {_shapes(outputs)}: give a teacher "
                "that was trained for the same classes."
            )

    def _specs_of(self, inputs: Any) -> list[Any]:
        """The specs of the outputs for a model's symbolic inputs."""
        if not on_tensorflow(self.model):
            return list(map(spec_of, flattened(self.model, self.model.compute_output_spec(inputs))))
        spec = tf.nest.map_structure(
            lambda tensor: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype), inputs
        )
        traced = tf.function(self.outputs).get_concrete_function(spec)
        return tf.nest.flatten(traced.structured_outputs)


def load(source: str, allow_code: bool) -> Teacher:
    """The teacher that ``source_of`` has described, with variables in the present strategy's scope.

    Args:
      source: what ``source_of`` returned.
      allow_code: whether code in a file may run. It does not matter for a model in memory.

    Raises:
      UsageError: if there is none, if it cannot be run, or if it holds code that is not allowed.
    """
    if isinstance(source, ModelName):
        return _of_keras(source.model, source)
    path = _existing(source)
    if not is_keras_model(path):
        return _of_signature(path, allow_code)
    return _of_keras(load_model(path, allow_code), f"the model in {path}")


def _existing(source: str) -> Path:
    if _DESCRIBED.fullmatch(source):
        raise UsageError(
            f"Expected the teacher itself; a description has only its name, {source}: give "
            "Distillation(teacher=…) the model, or the path of its file."
        )
    return existing_model(source, "a teacher")


def _of_keras(model: keras.Model, name: str) -> Teacher:
    inputs, kinds = None, {Outputs.UNKNOWN}
    with contextlib.suppress(UsageError):  # raised for a subclassed model, or one inside
        check_graph(model)
        inputs, kinds = list(map(spec_of, model.inputs)), set(outputs_of(model).values())
    kind = kinds.pop() if len(kinds) == 1 else Outputs.UNKNOWN
    return Teacher(name, lambda x: model(x, training=False), inputs, kind, model)


def _of_signature(path: Path, allow_code: bool) -> Teacher:
    """The teacher of a SavedModel that Keras has not written."""
    if not allow_code:
        check_code(path)
    try:
        with plain_path(path) as place:
            loaded = tf.saved_model.load(place)
    except Exception as error:
        raise UsageError(f"Expected a SavedModel in {path} that loads; {error}") from error
    if "serving_default" not in loaded.signatures:
        raise UsageError(
            f"Expected the SavedModel in {path} to have the signature serving_default; it has "
            f"{', '.join(loaded.signatures) or 'none'}."
        )
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]

    def outputs(x: Any, loaded: Any = loaded) -> dict[str, tf.Tensor]:  # loaded: keeps variables
        tensors = x if isinstance(x, dict) else dict(zip(specs, tf.nest.flatten(x), strict=True))
        return signature(**{name: tf.cast(tensors[name], specs[name].dtype) for name in specs})

    return Teacher(f"the SavedModel in {path}", outputs, list(specs.values()))


def _same_kind(one: Any, other: Any) -> bool:
    """Whether two inputs have the same shape without the batch, and both or neither are floating.

    Else Keras would silently cast normalised pixels to integers."""
    shapes = one.shape[1:].is_compatible_with(other.shape[1:])
    return shapes and one.dtype.is_floating == other.dtype.is_floating


def _shapes(tensors: Sequence[Any]) -> str:
    """Dtypes, and shapes without the batch, as a text."""
    return " and ".join(f"{tuple(each.shape[1:])} {each.dtype.name}" for each in tensors)
