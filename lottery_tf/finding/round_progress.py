"""Progress of the rounds of finding, for programs."""

from collections.abc import Mapping

from lottery_tf.common.summary import percent
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.training.progress import Progress


class RoundProgress(Progress):
    """Shows round, epoch and the time left.

    Args:
      verbose: as ``Progress`` takes it.
      settings: what is found.
      steps_per_epoch, last_step: of each training.
    """

    def __init__(
        self, verbose: int | str, settings: FindingSettings, steps_per_epoch: int, last_step: int
    ):
        self.settings = settings
        self.length = last_step - settings.rewind_step(steps_per_epoch, last_step)
        steps = sum(map(self._steps, range(settings.tickets)))
        super().__init__(verbose, steps, steps_per_epoch)

    def begin_round(self, number: int) -> None:
        """Round ``number`` begins; nothing is behind the last."""
        last = self.settings.last_round
        if number <= last:
            dense = " (dense)" if number == 0 else ""
            self.begin(f"round {number} of {last}{dense}", self._steps(number))

    def end_round(self, sparsity: float, measured: Mapping[str, float]) -> None:
        """It has ended; ``measured`` is what the trained ticket has on dev data."""
        told = [f"sparsity {percent(sparsity)}"]
        told += [f"{name} {value:.4g}" for name, value in measured.items()]
        self.end("  ".join(told))

    def _steps(self, number: int) -> int:
        """Of a round: gradual pruning trains once more, in round 0, to draw its masks."""
        trainings = int(self.settings.train_tickets)
        trainings += self.settings.method == "gmp" and number == 0
        return self.length * trainings
