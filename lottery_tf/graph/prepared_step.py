"""The training step of a model that a recipe has prepared."""

import functools
from collections.abc import Callable
from typing import Any

from lottery_tf.graph.compat import keras

Step = Callable[[Any], dict[str, Any]]


class PreparedStep:
    """A model's ``train_step`` and what tweaks put around it; set on the model itself.

    Attributes:
      step: the ``train_step`` that the model had.
      around: class of a tweak, or of its layers → function(step, batch) → logs, which is to call
        ``step(batch)``.
      learned: class of a tweak → what it has learned of the model, as JSON knows it.
    """

    def __init__(self, step: Step):
        self.step = step
        self.around: dict[type, Callable[[Step, Any], dict[str, Any]]] = {}
        self.learned: dict[type, dict[str, Any]] = {}

    def __call__(self, data: Any) -> dict[str, Any]:
        step = self.step
        for around in self.around.values():
            step = functools.partial(around, step)
        return step(data)


def prepared_step(model: keras.Model) -> PreparedStep | None:
    """What a recipe has put on ``model``; None where nothing was, as on one loaded from a file."""
    step = model.train_step
    return step if isinstance(step, PreparedStep) else None


def make_prepared_step(model: keras.Model) -> PreparedStep:
    """The same, put on ``model`` first if there is none.

    A model that has been trained keeps the function that Keras has compiled, without what is put
    around later, until its ``train_function`` is None.
    """
    if not isinstance(model.train_step, PreparedStep):
        model.train_step = PreparedStep(model.train_step)
    return model.train_step
