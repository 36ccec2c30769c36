"""How the mask of a ticket is found: the settings of ``find`` and ``find_tickets``."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import cast

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_values, setting
from lottery_tf.common.steps import check_steps, parse_steps
from lottery_tf.finding.scores import IMPORTED, METHODS, TRAINING
from lottery_tf.masks.allocate import SCOPES, check_sparsity, check_structure, target_of
from lottery_tf.masks.structure import STRUCTURES, UNSTRUCTURED, parse

BATCHES = 8  # number of batches for scores
FROM_TRAINED = ("imp", "omp")  # the methods that rank trained weights


class _Methods(Collection[str]):
    """The names of all methods, including those that are registered later."""

    def __iter__(self) -> Iterator[str]:
        yield from (*TRAINING, *METHODS, IMPORTED)

    def __len__(self) -> int:
        return len([*iter(self)])

    def __contains__(self, name: object) -> bool:
        return any(name == each for each in self)


_MOST_ROUNDS = 10_000  # each has a folder


@dataclasses.dataclass(frozen=True)
class DivergenceSettings:
    """What to do if the training of a round diverges. It is not part of a run's identity."""

    on_nan: str = setting(
        "stop",
        "if a round's weights become NaN or infinite: stop and keep all finished rounds, or "
        "skip_round: go on with the weights of its last epoch with finite ones",
        choices=("stop", "skip_round"),
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclasses.dataclass(frozen=True)
class FindingSettings:
    """How the mask of a ticket is found."""

    method: str = setting(
        "imp",
        "imp (iterative) or omp (one-shot magnitude of trained weights), gmp (gradual), a score of "
        "untrained weights, or from_model (the zeros in a model's file)",
        choices=_Methods(),
    )
    rewind_to: str = setting("0it", "step k to rewind to, in steps (500it) or epochs (1ep)")
    rewind: str = setting(
        "weights",
        "what is rewound after a round: weights (and the schedule), or the schedule alone",
        choices=("weights", "learning_rate"),
    )
    prune_fraction: float = setting(0.2, "share of the surviving weights pruned after a round")
    rounds: int | None = setting(None, "number of imp's rounds of pruning")
    sparsity: float | None = setting(
        None,
        "prune until this share of the prunable weights (or blocks, channels) is gone; the last "
        "round ends on it",
    )
    scope: str = setting(
        "global",
        "rank all weights together, in each layer, or in each layer with the budgets of ERK",
        choices=SCOPES,
    )
    structure: str = setting(
        "unstructured",
        "which weights are pruned together, or how many of a group stay",
        choices=STRUCTURES,
    )
    min_kept: int = setting(0, "least number of weights in each layer, whatever the sparsity")
    train_tickets: bool = setting(
        True,
        "train each ticket, also the dense one, for metrics.jsonl and dense_model; imp and omp "
        "need it",
    )
    score_batches: int = setting(BATCHES, "training batches for the scores of snip and grasp")
    score_rounds: int | None = setting(
        None, "rounds of scoring and pruning; default: 100 for synflow and iterative_snip, else 1"
    )
    gmp_initial_sparsity: float = setting(0.0, "sparsity of gmp's first mask")
    gmp_begin: str = setting("0it", "when gmp's first mask is made, in steps or epochs")
    gmp_end: str | None = setting(
        None, "when gmp's last mask is made; default: after three quarters of the training"
    )
    gmp_frequency: str = setting("100it", "steps or epochs between two masks of gmp")
    regrow: bool = setting(False, "whether a weight that gmp has pruned may return")
    model_path: str | None = setting(
        None, "from_model: a SavedModel, .keras or .h5 file with zeros in its kernels", path=True
    )
    rewind_path: str | None = setting(
        None,
        "from_model: file of the same model with the weights to rewind to; default: model_path",
        path=True,
    )

    def __post_init__(self) -> None:
        check_values(self)
        for name in ("rewind_to", "gmp_begin", "gmp_end", "gmp_frequency"):
            if getattr(self, name) is not None:
                check_steps(getattr(self, name), name)
        if not 0 < self.prune_fraction < 1:
            raise UsageError(
                f"Expected `prune_fraction` in (0, 1), the share of the surviving weights that a "
                f"round prunes, not {self.prune_fraction}."
            )
        if self.rounds is not None and self.rounds < 0:
            raise UsageError(f"Expected `rounds` to be 0 or more, not {self.rounds}.")
        if self.rounds is not None and self.rounds > _MOST_ROUNDS:
            raise UsageError(f"Expected `rounds` of at most {_MOST_ROUNDS}, not {self.rounds}.")
        for name in ("sparsity", "gmp_initial_sparsity"):
            if getattr(self, name) is not None:
                check_sparsity(getattr(self, name), f"`{name}`")
        for name in ("score_batches", "score_rounds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"Expected `{name}` of 1 or more, not {getattr(self, name)}.")
        if self.method in FROM_TRAINED and not self.train_tickets:
            raise UsageError(
                f"Expected no `train_tickets=False` with {self.method}, as it ranks trained "
                "weights."
            )
        if self.method == IMPORTED:
            self._check_imported()
            # The file says what is pruned.
            object.__setattr__(self, "structure", UNSTRUCTURED.text)
            object.__setattr__(self, "min_kept", 0)
            return
        scope = METHODS[self.method].scope if self.method in METHODS else None
        structure = parse(self.structure)
        check_structure(structure, scope or self.scope, self.min_kept)
        target_of(structure, self.sparsity)  # raises if `sparsity` differs from the structure's
        if structure.sparsity is not None:  # given or not, the setting is the same
            object.__setattr__(self, "sparsity", None)
        if self.method == "imp":
            self._check_imp()
        else:
            self._check_one_round()

    def _check_imp(self) -> None:
        if not self._ends_itself and (self.rounds is None) == (self.target is None):
            raise UsageError(
                "Expected either `rounds` or `sparsity`: the number of rounds of pruning, or the "
                f"sparsity to end at; got {'neither' if self.rounds is None else 'both'}."
            )
        if self.target is not None and self.prune_fraction < self.target:
            needed = math.log1p(-self.target) / math.log1p(-self.prune_fraction)
            if needed > _MOST_ROUNDS:
                raise UsageError(
                    f"Expected a `prune_fraction` that reaches a sparsity of {self.target} in at "
                    f"most {_MOST_ROUNDS} rounds, not {self.prune_fraction}."
                )

    def _check_one_round(self) -> None:
        if self.target is None:
            raise UsageError(
                f"Expected `sparsity` with `method={self.method}`: the share of weights to prune."
            )
        if self.rewind == "learning_rate" and self.method not in (*FROM_TRAINED, "gmp"):
            raise UsageError(
                f"Expected `rewind=weights` for {self.method}, as it trains no weights that could "
                "be kept."
            )
        if self.method == "gmp" and self.gmp_initial_sparsity > self.target:
            raise UsageError(
                f"Expected `gmp_initial_sparsity` of at most `sparsity={self.target}`, not "
                f"{self.gmp_initial_sparsity}."
            )

    def _check_imported(self) -> None:
        if self.model_path is None:
            raise UsageError(
                f"Expected `model_path=FILE`, the pruned model, with `method={IMPORTED}`."
            )

    @property
    def target(self) -> float | None:
        """The final sparsity, also M:N's own; None if ``rounds`` decide it."""
        return target_of(parse(self.structure), self.sparsity)

    @property
    def _ends_itself(self) -> bool:
        """Whether the structure's own sparsity ends the run, whatever ``rounds`` is."""
        return parse(self.structure).sparsity is not None

    @property
    def last_round(self) -> int:
        """The number of the last round; round 0 is dense."""
        if self.method != "imp":
            return 1
        if self.rounds is not None and not self._ends_itself:
            return self.rounds
        kept, rounds, target = 1.0, 0, cast(float, self.target)  # without `rounds` it is given
        while 1 - kept < target - 1e-9:  # 1 - 0.8 is a little less than 0.2
            kept, rounds = kept * (1 - self.prune_fraction), rounds + 1
        return rounds

    @property
    def extendable(self) -> bool:
        """Whether a run with more rounds begins with the same tickets."""
        return self.method == "imp" and self.rounds is not None and not self._ends_itself

    @property
    def tickets(self) -> int:
        """The number of tickets of a run; one of from_model has no dense ticket."""
        return 1 if self.method == IMPORTED else self.last_round + 1

    def rewind_step(self, steps_per_epoch: int, last_step: int) -> int:
        """k, known before anything is trained.

        Raises:
          UsageError: unless it is before ``last_step``, where training ends, and gmp's steps are in
            order and within the training.
        """
        step = parse_steps(self.rewind_to, steps_per_epoch)
        if step >= last_step:
            raise UsageError(
                f"Expected `rewind_to` before the end of training at step {last_step}, got "
                f"{self.rewind_to} (step {step})."
            )
        if self.method == "gmp":
            self.gmp_steps(steps_per_epoch, step, last_step)
        return step

    def gmp_steps(
        self, steps_per_epoch: int, rewind_step: int, last_step: int
    ) -> tuple[int, int, int]:
        """The steps of gmp's first and last mask, and the number of steps between two masks."""
        begin, frequency = (
            parse_steps(text, steps_per_epoch) for text in (self.gmp_begin, self.gmp_frequency)
        )
        end = parse_steps(self.gmp_end, steps_per_epoch) if self.gmp_end else last_step * 3 // 4
        if not begin < end <= last_step or end <= rewind_step or not frequency:
            raise UsageError(
                "Expected `gmp_begin` before `gmp_end`, `gmp_end` after `rewind_to` and not after "
                f"the end of training, and a `gmp_frequency` above 0; got steps {begin}, {end}, "
                f"{rewind_step}, {last_step} and {frequency}."
            )
        return begin, end, frequency
