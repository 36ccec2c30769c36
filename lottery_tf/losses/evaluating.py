"""Whether a Keras model is being evaluated, for functions that its step calls."""

import inspect

import tensorflow as tf

from lottery_tf.graph.compat import is_model, keras
from lottery_tf.graph.keras3 import SHAPES_STEP


@tf.autograph.experimental.do_not_convert
def evaluated_model(*steps: str) -> keras.Model | None:
    """The model that has one of its ``steps`` on the call stack, traced or run eagerly; or None.

    Keras compiles one loss for training and evaluation, and does not tell it which one is on. A
    mark on the model would be lost in a copy, in a file, or with a loss that is compiled elsewhere.

    Args:
      *steps: names of methods of a ``keras.Model``. Default: ``test_step``, which ``evaluate``
        and the validation of ``fit`` call, and the method in which Keras 3 asks a loss for its
        shape.
    """
    steps = steps or ("test_step", SHAPES_STEP)
    # AutoGraph puts tf__ in front, for instance if a user's class has a tf.function as its step.
    names = {name for step in steps for name in (step, f"tf__{step}")}
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name in names and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if is_model(owner):
                return owner
        frame = frame.f_back
    return None
