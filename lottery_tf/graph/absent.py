"""A substitute for tf_keras where it, or tfmot, is not installed.

Models of Keras 3 need neither. But modules for both Kerases name classes of tf_keras on import, to
derive from them and to compare with them. A class here has no objects; a function here raises an
error that says what is missing.
"""

from types import ModuleType
from typing import Any

from lottery_tf.common.errors import UsageError


class Absent(ModuleType):
    """A module that has every attribute: a class for a capitalised name, else another ``Absent``.

    Args:
      name: the module's name.
      reason: why it cannot be imported.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name)
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{self.__name__}.{name}"
        made = _class(path, self.reason) if name[0].isupper() else Absent(path, self.reason)
        setattr(self, name, made)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise _missing(self.__name__, self.reason)


def absent_keras(reason: str) -> Absent:
    """The substitute for tf_keras. Functions that modules call on import do nothing."""
    keras = Absent("tf_keras", reason)
    keras.saving.register_keras_serializable = lambda *args: lambda kind: kind
    keras.utils.get_custom_objects = dict
    keras.activations.get = lambda name: name
    keras.backend.clear_session = lambda: None
    keras.backend.experimental.enable_tf_random_generator = lambda: None
    return keras


def _class(path: str, reason: str) -> type:
    module, _, name = path.rpartition(".")

    class Nothing:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # A class that derives from Keras 3 too works as one of Keras 3.
            if not any(base.__module__.startswith("keras.") for base in type(self).__mro__):
                raise _missing(path, reason)
            super().__init__(*args, **kwargs)

    Nothing.__name__ = Nothing.__qualname__ = name
    Nothing.__module__ = module
    return Nothing


def _missing(path: str, reason: str) -> UsageError:
    return UsageError(
        f"Expected tf_keras and tensorflow-model-optimization for {path}; {reason}: install "
        "tf-keras and tensorflow-model-optimization, or give a model of Keras 3 (`import keras`)."
    )
