"""Names of a package that load on first use: TensorFlow takes seconds to import.

So ``lottery-tf find --help`` and errors in a command line need not wait for it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from lottery_tf.common.errors import UsageError


def loads(
    package: str, where: Mapping[str, str], extras: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
      package: its name.
      where: public name → the module of lottery_tf that has it. A module of the same name stands
        for itself. It has to be a literal called ``_WHERE``, which ``tests/test_layout.py`` reads.
      extras: public name → the extra that it needs, named in a UsageError where it is missing.
    """

    def getattr_of_package(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        try:
            module = importlib.import_module(f"lottery_tf.{where[name]}")
        except ImportError as error:
            if name not in (extras or {}):
                raise
            raise UsageError(
                f"Expected the libraries of {package}.{name}; {error.name} is not installed: "
                f"install lottery_tf with its extra [{(extras or {})[name]}]."
            ) from error
        return module if where[name] == name else getattr(module, name)

    return getattr_of_package
