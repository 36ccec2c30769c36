"""The training step of a model that a recipe has prepared."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from lottery_tf.graph.compat import changing_variables, keras, on_jax

Step = Callable[[Any], dict[str, Any]]


class PreparedStep:
    """A model's ``train_step`` and what tweaks put around it; set on the model itself.

    On JAX it also takes and returns the state, as Keras 3 calls it there.

    Attributes:
      step: the original ``train_step`` of the model.
      around: class of a tweak, or of its layers → function(step, batch) that calls ``step(batch)``
        and returns the logs.
      learned: class of a tweak → what it has learned about the model, as JSON values.
    """

    def __init__(self, model: keras.Model):
        self.step: Callable[..., Any] = model.train_step
        self._changing = changing_variables(model, self.step) if on_jax(model) else None
        self.around: dict[type, Callable[[Step, Any], dict[str, Any]]] = {}
        self.learned: dict[type, dict[str, Any]] = {}

    def __call__(self, *given: Any) -> Any:
        *state, data = given

        def run(step: Step) -> dict[str, Any]:
            for around in self.around.values():
                step = functools.partial(around, step)
            return step(data)

        return self._changing(*state, run) if self._changing else run(self.step)


def prepared_step(model: keras.Model) -> PreparedStep | None:
    """What a recipe has put on ``model``; None if nothing, as for a model from a file."""
    step = model.train_step
    return step if isinstance(step, PreparedStep) else None


def make_prepared_step(model: keras.Model) -> PreparedStep:
    """The ``prepared_step`` of ``model``; it is made if there is none.

    A trained model keeps the function that Keras has compiled, and ignores what is put around the
    step later, until its ``train_function`` is None.
    """
    if not isinstance(model.train_step, PreparedStep):
        model.train_step = PreparedStep(model)
        if on_jax(model):
            model.make_train_function = functools.partial(_made_anew, model)
    return model.train_step


def is_of_prepared_step(value: Any) -> bool:
    """Whether something that was set on a model is a ``PreparedStep``, or came with one."""
    made = isinstance(value, functools.partial) and value.func is _made_anew
    return made or isinstance(value, PreparedStep)


def _made_anew(model: keras.Model, force: bool = False) -> None:
    """Makes a new function: JAX would reuse what it has compiled for the old one."""
    if force or model.train_function is None:
        model.train_step = copy.copy(model.train_step)
    type(model).make_train_function(model, force)
