"""Whether a Keras model is being evaluated, asked from within what its step calls."""

import inspect

import tensorflow as tf

from lottery_tf.graph.compat import is_model, keras
from lottery_tf.graph.keras3 import SHAPES_STEP


@tf.autograph.experimental.do_not_convert
def evaluated_model(*steps: str) -> keras.Model | None:
    """The model one of whose ``steps`` is on the stack of calls: it is traced or runs eagerly.

    Keras compiles one loss for training and evaluation, and hands it nothing that tells them apart.
    A mark on the model would be lost with a copy, a file, or a loss that is compiled elsewhere.

    Args:
      *steps: names of methods of a ``keras.Model``; default: ``test_step``, that of ``evaluate``
        and of the validation of ``fit``, and the one by which Keras 3 asks a loss for its shape.
    """
    steps = steps or ("test_step", SHAPES_STEP)
    # AutoGraph puts tf__ in front, as where a class of the user's own has a tf.function for a step.
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
