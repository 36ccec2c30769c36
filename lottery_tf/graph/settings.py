"""What may be loaded from files, as settings."""

import dataclasses

from lottery_tf.common.settings import setting


@dataclasses.dataclass(frozen=True)
class CodeSettings:
    """Whether code in model files may run."""

    allow_code: bool = setting(
        False,
        "load model files that hold code (Lambda layers, functions of other modules, operations on "
        "files), and run that code: only for files of people you trust",
    )
