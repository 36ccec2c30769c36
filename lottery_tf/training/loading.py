"""Models from files, with whatever this library has put into them.

Keras knows a layer, a loss or an optimizer of ours when the module is imported that registers it.
This module imports them all.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lottery_tf.common.errors import UsageError
from lottery_tf.graph import model_files
from lottery_tf.graph.absent import Absent
from lottery_tf.graph.compat import keras
from lottery_tf.losses import binary_cross_entropy, cross_entropy
from lottery_tf.masks import prune_by_mask
from lottery_tf.training import optimizers
from lottery_tf.tweaks import table

REGISTERING = (binary_cross_entropy, cross_entropy, prune_by_mask, optimizers, table)


def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, type] | None = None,
    compile: bool = True,
    allow_code: bool = False,
) -> keras.Model:
    """The model in a file or folder, with pruning wrappers, soft units, ghost skips and our losses.

    So a checkpoint from the middle of a training goes on::

        model = lt.load_model("checkpoint.keras")
        model.fit(train_ds, epochs=5, callbacks=recipe.callbacks())
        final = recipe.finish(model)

    Args:
      path: a .keras or an .h5 file of tf_keras or Keras 3, or the folder of a SavedModel: of
        tf_keras, or of ``lt.export``. Which Keras it is of is read from it. A model that
        tensorflow-model-optimization prunes is taken too.
      custom_objects: class name → class, for what else of the user's own is in it.
      compile: compile it as it was, with what its optimizer remembers; a SavedModel does not keep
        that, of which a line is logged. A file that does not say how, such as an export, gives a
        model that is not compiled.
      allow_code: whether code in it may run: Lambda layers, classes of modules that the file names,
        operations that do more than compute. Leave it off for files of others.

    Returns:
      A model of the Keras that has written it.

    Raises:
      UsageError: if there is no model at ``path``, or it holds code that is not allowed. If Keras
        cannot load it, the error has Keras' own words, and Keras' error as its cause.
    """
    place = Path(path)
    if (place / "ticket.json").is_file():
        raise UsageError(f"Expected a model at {path}; it is a ticket: lt.Ticket.load reads it.")
    model_files.existing_model(place)
    with known_of_tfmot() as schedules:
        known = {**schedules, **(custom_objects or {})}
        return model_files.load_model(place, allow_code, known, compile)


@contextlib.contextmanager
def known_of_tfmot() -> Iterator[dict[str, type]]:
    """A block in which Keras knows tfmot's wrappers; with its schedules, which they name."""
    if isinstance(keras, Absent):
        yield {}
        return
    import tensorflow_model_optimization as tfmot  # of tf_keras alone

    theirs = tfmot.sparsity.keras
    with theirs.prune_scope():
        yield {kind.__name__: kind for kind in (theirs.ConstantSparsity, theirs.PolynomialDecay)}
