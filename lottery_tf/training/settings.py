"""How a network is trained, as settings."""

import dataclasses
import math

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_values, make_tuples, setting
from lottery_tf.common.steps import check_often, check_steps, parse_steps

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """How often a training is saved. It is not part of a run's identity."""

    checkpoint_every: str = setting(
        "1min",
        "how often a training is saved, to go on from there: minutes (5min), steps (500it) or "
        "epochs (2ep); SIGTERM and Ctrl-C also save it before they end it",
    )

    def __post_init__(self) -> None:
        check_often(self.checkpoint_every, "checkpoint_every")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained, dense or sparse."""

    train_for: str = setting("30ep", "length of training, in steps (5000it) or epochs (30ep)")
    optimizer: str = setting("sgd", "optimizer", choices=("sgd", "adam", "adamw"))
    learning_rate: float = setting(0.1, "highest learning rate")
    momentum: float = setting(0.9, "momentum of sgd")
    nesterov: bool = setting(False, "whether sgd's momentum is Nesterov's")
    weight_decay: float = setting(
        0.0, "λ: for sgd and adam λ·w is added to the gradient (L2), for adamw it is decoupled"
    )
    schedule: str = setting(
        "constant", "learning rate over time", choices=("constant", "step", "cosine")
    )
    milestones: tuple[str, ...] = setting((), "when schedule=step drops the rate, e.g. 90ep,135ep")
    decay: float = setting(0.1, "factor of the rate at each milestone of schedule=step")
    warmup: str = setting("0it", "length of the linear warm-up, in steps or epochs")
    jit_compile: bool | None = setting(
        None,
        "compile with XLA; default: only on one device and without convolutions, where it is "
        "faster",
    )
    steps_per_execution: int = setting(50, "training steps that run without a return to Python")
    validation_freq: int = setting(
        1, "epochs of a retraining between two measurements on dev; the last epoch has one too"
    )
    precision: str = setting(
        "float32",
        "the layers' precision in training; weights and tickets are float32",
        choices=PRECISIONS,
    )
    seed: int = setting(0, "seed of the initial weights")
    deterministic: bool = setting(
        False, "the same bits in every run with as many threads of such a processor; slower"
    )

    def __post_init__(self) -> None:
        make_tuples(self, "milestones")
        check_values(self)
        for name in ("train_for", "warmup"):
            check_steps(getattr(self, name), name)
        for milestone in self.milestones:
            check_steps(milestone, "milestones")
        if self.schedule == "step" and not self.milestones:
            raise UsageError("Expected `milestones` (e.g. 90ep,135ep) with `schedule=step`.")
        for name, good, what in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("decay", 0 < self.decay <= 1, "in (0, 1]"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "of 0 or more"),
            (
                "steps_per_execution",
                1 <= self.steps_per_execution < 2**31,
                "of 1 or more, and below 2**31",
            ),
            ("validation_freq", self.validation_freq >= 1, "of 1 or more"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
        ):
            if not good:
                raise UsageError(
                    f"Expected `{name}` to be a number {what}, not {getattr(self, name)}."
                )

    def steps(self, steps_per_epoch: int) -> int:
        """T, the step at which training ends."""
        steps = parse_steps(self.train_for, steps_per_epoch)
        if not steps:
            raise UsageError(f"Expected at least one step of training, not {self.train_for}.")
        return steps
