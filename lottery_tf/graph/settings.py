"""What may be loaded, as settings."""

import dataclasses

from lottery_tf.common.settings import setting


@dataclasses.dataclass(frozen=True)
class CodeSettings:
    """Whose code may run."""

    allow_code: bool = setting(
        False,
        "load model files that hold code (Lambda layers, functions of other modules, operations on "
        "files), which then runs: for files of whom you trust",
    )
