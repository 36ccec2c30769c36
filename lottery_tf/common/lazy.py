"""Names of a package that load on first use: TensorFlow takes seconds to import.

So ``lottery-tf find --help`` and errors in a command line need not wait for it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def loads(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
      package: its name.
      where: public name → the module of lottery_tf that has it. A module of the same name stands
        for itself. It has to be a literal called ``_WHERE``, which ``tests/test_layout.py`` reads.
    """

    def getattr_of_package(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(f"lottery_tf.{where[name]}")
        return module if where[name] == name else getattr(module, name)

    return getattr_of_package
