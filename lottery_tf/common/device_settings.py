"""The devices of a run, as settings."""

import dataclasses

from lottery_tf.common.settings import check_values, setting


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """The devices that a run uses."""

    strategy: str = setting(
        "none",
        "how many devices share each batch: one, all GPUs of this machine, or those of the workers "
        "that TF_CONFIG names (launch/workers.py starts them)",
        choices=("none", "mirrored", "multi_worker"),
    )
    memory_growth: bool = setting(
        False, "take a GPU's memory as it is needed; else TensorFlow takes all of it at once"
    )

    def __post_init__(self) -> None:
        check_values(self)
