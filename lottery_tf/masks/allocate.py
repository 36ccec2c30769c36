"""From scores and a target to masks: the largest scores survive.

Counts are exact, ties are broken by index (of equal scores the earlier one survives), and a
weight that is pruned already stays pruned whatever its score.
"""

from collections.abc import Callable, Mapping

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import one_of
from lottery_tf.masks.masks import Masks

SCOPES = ("global", "layerwise", "erk")


def prune_fraction(
    scores: Mapping[str, np.ndarray], masks: Masks, fraction: float, scope: str = "global"
) -> Masks:
    """Prunes ``fraction`` of the survivors: exactly ``round(fraction · survivors)`` of them.

    >>> scores = {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 3.0])}
    >>> pruned = prune_fraction(scores, Masks.ones({"a": (2,), "b": (2,)}), 0.5)
    >>> {name: mask.astype(int).tolist() for name, mask in pruned.items()}
    {'a': [0, 1], 'b': [0, 1]}

    Args:
      scores: name → float array of the mask's shape; the largest survive.
      masks: the masks so far; the result is nested in them. Only these weights count.
      fraction: share of the survivors to prune, in [0, 1].
      scope: "global" ranks all survivors together, "layerwise" within each weight; "erk" too, with
        the numbers of ``erk_budgets``.

    Raises:
      UsageError: for a fraction outside [0, 1], an unknown scope, or scores that are NaN, missing
        or of another shape.
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"Expected a fraction to prune in [0, 1], not {fraction}.")
    return _keep(scores, masks, lambda total, kept: kept - round(fraction * kept), scope)


def prune_to(
    scores: Mapping[str, np.ndarray], masks: Masks, sparsity: float, scope: str = "global"
) -> Masks:
    """Prunes until exactly ``round(sparsity · weights)`` of the prunable weights are pruned.

    With scope "layerwise" that holds within each weight; one that is sparser already stays so.

    Args:
      scores: name → float array of the mask's shape; the largest survive.
      masks: the masks so far; the result is nested in them. Only these weights count.
      sparsity: share of the weights in ``masks`` that is pruned afterwards, in [0, 1).
      scope: "global", "layerwise" or "erk".

    Raises:
      UsageError: for a sparsity outside [0, 1) or, but for layerwise, below that of ``masks``; an
        unknown scope; or scores that are NaN, missing or of another shape.
    """
    check_sparsity(sparsity)
    check_reachable(sparsity, masks, scope)
    return _keep(
        scores, masks, lambda total, kept: min(kept, total - round(sparsity * total)), scope
    )


def erk_budgets(masks: Masks, kept: int) -> dict[str, int]:
    """How many weights each layer keeps under Erdős–Rényi-Kernel (Evci et al. 2020, 1911.11134).

    A layer's density is proportional to (n_in + n_out + k_h + k_w)/(n_in·n_out·k_h·k_w), so the
    number that it keeps to the sum of its shape; a layer that would keep more weights than survive
    in it keeps those, and the others share the rest. Shares are rounded down, and what is left
    goes to those cut most, the earlier first: the numbers add up to ``kept``.

    >>> erk_budgets(Masks.ones({"a": (2, 2), "b": (6, 10), "c": (8, 8)}), 38)
    {'a': 4, 'b': 17, 'c': 17}

    Args:
      masks: the masks so far, of any rank.
      kept: of all weights together; at most ``masks.kept``.
    """
    survivors = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
    shares = {name: 0.0 for name in masks}
    rest, free = kept, dict.fromkeys(masks)
    while free:
        unit = rest / sum(sum(masks[name].shape) for name in free)
        full = [name for name in free if unit * sum(masks[name].shape) >= survivors[name]]
        if not full:
            shares |= {name: unit * sum(masks[name].shape) for name in free}
            break
        for name in full:
            shares[name] = survivors[name]
            rest -= survivors[name]
            del free[name]
    budgets = {name: int(share) for name, share in shares.items()}
    cut_most = sorted(shares, key=lambda name: budgets[name] - shares[name])
    for name in cut_most[: kept - sum(budgets.values())]:
        budgets[name] += 1
    return budgets


def check_sparsity(sparsity: float) -> None:
    """Raises UsageError if ``sparsity`` is not in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise UsageError(
            f"Expected a sparsity in [0, 1), the share of weights to prune, not {sparsity}."
        )


def check_reachable(sparsity: float, masks: Masks, scope: str) -> None:
    """Raises UsageError if more of ``masks`` is pruned than ``sparsity``; layerwise may go on."""
    if scope != "layerwise" and masks.total - round(sparsity * masks.total) > masks.kept:
        raise UsageError(
            f"Expected a sparsity of at least {masks.sparsity:.4f}, that of the mask to prune "
            f"further, not {sparsity}: pruned weights do not come back."
        )


def _keep(
    scores: Mapping[str, np.ndarray], masks: Masks, count: Callable[[int, int], int], scope: str
) -> Masks:
    """``count(total, kept)`` says how many survive among the weights that are ranked together."""
    if scope not in SCOPES:
        raise UsageError(f"Expected the scope to be {one_of(SCOPES)}, not '{scope}'.")
    for name, mask in masks.items():
        if name not in scores or np.shape(scores[name]) != mask.shape:
            came = np.shape(scores[name]) if name in scores else "none"
            raise UsageError(f"Expected scores of shape {mask.shape} for {name}; got {came}.")
    if scope == "global":
        return Masks(_keep_largest(scores, masks, count(masks.total, masks.kept)))
    budgets = erk_budgets(masks, count(masks.total, masks.kept)) if scope == "erk" else {}
    kept: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        alone = Masks({name: mask})
        number = budgets[name] if budgets else count(alone.total, alone.kept)
        kept |= _keep_largest(scores, alone, number)
    return Masks(kept)


def _keep_largest(
    scores: Mapping[str, np.ndarray], masks: Masks, count: int
) -> dict[str, np.ndarray]:
    """The ``count`` survivors of ``masks`` with the largest scores, ranked together.

    A partition of the survivors' scores finds the threshold in linear time with one copy of
    them; a sort of 100 million weights would take many times as long.
    """
    survivors = {name: np.asarray(scores[name])[mask] for name, mask in masks.items()}
    if any(np.isnan(values).any() for values in survivors.values()):
        bad = [name for name, values in survivors.items() if np.isnan(values).any()]
        raise UsageError(f"Expected scores that are numbers; NaN came for {', '.join(bad)}.")
    if count == masks.kept:
        return dict(masks)
    if count == 0:
        return {name: np.zeros_like(mask) for name, mask in masks.items()}
    if not any(values.any() for values in survivors.values()):
        raise UsageError(
            f"Expected scores that tell weights apart; those of {some(list(masks))} are all 0, so "
            "that which stay would hang on their order alone: the weights are 0, or no gradient "
            "reaches them (a last layer that starts at 0?)."
        )

    ranked = np.concatenate(list(survivors.values()))
    ranked.partition(ranked.size - count)
    threshold = ranked[ranked.size - count]
    del ranked
    above = sum(int(np.count_nonzero(values > threshold)) for values in survivors.values())
    ties = count - above  # survivors that equal the threshold; the earliest of them are kept
    kept = {}
    for name, values in survivors.items():
        keep = values > threshold
        equal = np.flatnonzero(values == threshold)[:ties]
        keep[equal] = True
        ties -= equal.size
        kept[name] = np.zeros(masks[name].shape, bool)
        kept[name][masks[name]] = keep
    return kept
