"""From scores and a target to masks: the largest scores survive.

Counts are exact. Ties are broken by index: of equal scores the earlier one survives. A weight that
is pruned already stays pruned whatever its score. With a structure of blocks or channels the same
holds for them instead of weights (``masks.structure``).
"""

import numbers
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import one_of
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.structure import UNSTRUCTURED, MByN, Structure

SCOPES = ("global", "layerwise", "erk")


def prune_fraction(
    scores: Mapping[str, np.ndarray],
    masks: Masks,
    fraction: float,
    scope: str = "global",
    structure: Structure = UNSTRUCTURED,
    min_kept: int = 0,
) -> Masks:
    """Prunes ``fraction`` of the survivors: exactly ``round(fraction · survivors)`` of them.

    >>> scores = {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 3.0])}
    >>> pruned = prune_fraction(scores, Masks.ones({"a": (2,), "b": (2,)}), 0.5)
    >>> {name: mask.astype(int).tolist() for name, mask in pruned.items()}
    {'a': [0, 1], 'b': [0, 1]}

    Args:
      scores: name → float array of the mask's shape; the largest survive.
      masks: the masks so far; the result is nested in them. Only these weights count.
      fraction: share of the survivors to prune, in [0, 1]. With blocks or channels it is a share of
        those that are left. With M:N no group falls below M.
      scope: "global" ranks all survivors together. "layerwise" and "erk" rank within each weight;
        for "erk" ``erk_budgets`` gives the counts.
      structure: the structure of the weights in ``masks``: which are pruned together.
      min_kept: least number of weights that each layer keeps (all, if it has fewer), whatever the
        fraction. Of blocks and channels it keeps enough to have that many weights.

    Raises:
      UsageError: for a fraction outside [0, 1], an unknown scope, or a scope or ``min_kept`` that
        the structure excludes. For scores that are NaN, missing or of another shape.
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"Expected a fraction to prune in [0, 1], not {fraction}.")

    def count(total: int, kept: int) -> int:
        return kept - round(fraction * kept)

    return _keep(scores, masks, count, scope, structure, min_kept)


def prune_to(
    scores: Mapping[str, np.ndarray],
    masks: Masks,
    sparsity: float,
    scope: str = "global",
    structure: Structure = UNSTRUCTURED,
    min_kept: int = 0,
) -> Masks:
    """Prunes until exactly ``round(sparsity · weights)`` of the prunable weights are pruned.

    With scope "layerwise" that holds within each weight; one that is sparser already stays so. With
    a structure of blocks or channels it holds for their number.

    Args:
      scores: name → float array of the mask's shape; the largest survive.
      masks: the masks so far; the result is nested in them. Only these weights count.
      sparsity: share of the weights in ``masks`` (or of the blocks or channels) that is pruned
        afterwards, in [0, 1). With M:N it is at most 1 - M/N, at which no group has more than M
        weights left.
      scope: "global", "layerwise" or "erk".
      structure: the structure of the weights in ``masks``: which are pruned together.
      min_kept: least number of weights that each layer keeps (all, if it has fewer), whatever the
        sparsity. Of blocks and channels it keeps enough to have that many weights.

    Raises:
      UsageError: for a sparsity outside [0, 1), above that of M:N or, unless layerwise, below that
        of ``masks``. For an unknown scope, or a scope or ``min_kept`` that the structure excludes.
        For scores that are NaN, missing or of another shape.
    """
    check_sparsity(sparsity)
    check_reachable(sparsity, masks, scope, structure)

    def count(total: int, kept: int) -> int:
        # At its own sparsity M:N keeps only the weights that it holds.
        return 0 if _ends_on(structure, sparsity) else min(kept, total - round(sparsity * total))

    return _keep(scores, masks, count, scope, structure, min_kept)


def erk_budgets(
    masks: Masks,
    kept: int,
    structure: Structure = UNSTRUCTURED,
    floors: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """How many weights each layer keeps under Erdős–Rényi-Kernel (Evci et al. 2020, 1911.11134).

    A layer's density is proportional to (n_in + n_out + k_h + k_w)/(n_in·n_out·k_h·k_w). So the
    number of weights that it keeps is proportional to the sum of its shape. If that is more than
    it has left, it keeps all of these, and the other layers share the rest. Shares are rounded
    down. The remainder goes to the layers that lost most by rounding, the earlier first, so that
    the numbers add up to ``kept``.

    >>> erk_budgets(Masks.ones({"a": (2, 2), "b": (6, 10), "c": (8, 8)}), 38)
    {'a': 4, 'b': 17, 'c': 17}

    Args:
      masks: the masks so far, of any rank.
      kept: number of weights to keep in all layers together, at most ``masks.kept``. With blocks
        and channels it is their number; densities are computed as for weights.
      structure: which weights are pruned together.
      floors: least number that each layer keeps; their sum is at most ``kept``. Default: 0.
    """
    units, floors = structure.units(masks), floors or dict.fromkeys(masks, 0)
    survivors = {name: int(np.count_nonzero(mask)) for name, mask in units.items()}
    # Density times number of units: the sum of the shape if each weight is a unit.
    parts = {n: sum(m.shape) * units[n].size / max(m.size, 1) for n, m in masks.items()}
    shares = {name: 0.0 for name in masks}
    rest, free = kept, dict.fromkeys(masks)
    while free:
        unit = rest / sum(parts[name] for name in free)
        found = {name: unit * parts[name] for name in free}
        low = {name: floors[name] for name in free if found[name] < floors[name]}
        full = {name: survivors[name] for name in free if found[name] >= survivors[name]}
        if not low and not full:
            shares |= found
            break
        # Missing and surplus weights together decide which of the layers are settled first.
        given = sum(least - found[name] for name, least in low.items())
        left = sum(found[name] - most for name, most in full.items())
        settled = low if given > left else full
        shares |= settled
        for name, number in settled.items():
            rest -= number
            del free[name]
    budgets = {name: int(share) for name, share in shares.items()}
    cut_most = sorted(shares, key=lambda name: budgets[name] - shares[name])
    for name in cut_most[: kept - sum(budgets.values())]:
        budgets[name] += 1
    return budgets


def check_sparsity(sparsity: float, what: str = "a sparsity") -> None:
    """Raises UsageError, which calls it ``what``, if ``sparsity`` is not in [0, 1)."""
    if not (isinstance(sparsity, numbers.Real) and 0 <= sparsity < 1):
        raise UsageError(
            f"Expected {what} in [0, 1), the share of weights to prune, such as 0.95, not "
            f"{sparsity!r}."
        )


def check_reachable(
    sparsity: float, masks: Masks, scope: str, structure: Structure = UNSTRUCTURED
) -> None:
    """Raises UsageError if ``masks`` are sparser than ``sparsity``, or M:N is less sparse.

    Masks may be sparser for scope "layerwise", and for M:N if ``sparsity`` is its own.
    """
    own = structure.sparsity
    if own is not None and sparsity > own + _NEARLY:
        raise UsageError(
            f"Expected a sparsity of at most {own:g}, that of {structure.text}, not {sparsity}."
        )
    units = structure.units(masks)
    short = units.total - round(sparsity * units.total) > units.kept
    if short and scope != "layerwise" and not _ends_on(structure, sparsity):
        raise UsageError(
            f"Expected a sparsity of at least {units.sparsity:.4f}, that of the mask to prune "
            f"further, not {sparsity}: pruned {structure.noun} do not come back."
        )


def _as_floating(scores: ArrayLike) -> np.ndarray:
    """Whole numbers and booleans as float64, since their own dtype may have no negative values."""
    array = np.asarray(scores)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def check_structure(structure: Structure, scope: str, min_kept: int) -> None:
    """Raises UsageError if a structure does not go with a scope or with ``min_kept``."""
    if not isinstance(min_kept, int | np.integer) or min_kept < 0:
        raise UsageError(
            f"Expected `min_kept` of 0 or more weights a layer, a whole number, not {min_kept!r}."
        )
    if not isinstance(structure, MByN):
        return
    if scope == "erk":
        raise UsageError(
            f"Expected ranking globally or layerwise with `structure={structure.text}`, which "
            "makes all layers equally dense; not by ERK, which gives each a density of its own."
        )
    if min_kept > structure.m:
        raise UsageError(
            f"Expected `min_kept` of at most {structure.m} with `structure={structure.text}`, "
            f"which says how many weights stay, not {min_kept}."
        )


def target_of(structure: Structure, sparsity: float | None) -> float | None:
    """The sparsity to prune to: the one asked for, or that of M:N itself.

    Raises:
      UsageError: if M:N has another than the one asked for.
    """
    own = structure.sparsity
    if own is None or sparsity is None:
        return own if sparsity is None else sparsity
    if abs(sparsity - own) > _NEARLY:
        raise UsageError(
            f"Expected no `sparsity` with `structure={structure.text}`, which has the sparsity "
            f"{own:g}, not {sparsity}."
        )
    return own


_NEARLY = 1e-6  # 2/3 cannot be given exactly


def _ends_on(structure: Structure, sparsity: float) -> bool:
    """Whether the sparsity is that of M:N."""
    return structure.sparsity is not None and sparsity >= structure.sparsity - _NEARLY


def _keep(
    scores: Mapping[str, np.ndarray],
    masks: Masks,
    count: Callable[[int, int], int],
    scope: str,
    structure: Structure,
    min_kept: int,
) -> Masks:
    """The new masks. ``count(total, kept)``: how many of the units ranked together survive."""
    if scope not in SCOPES:
        raise UsageError(f"Expected the scope to be {one_of(SCOPES)}, not '{scope}'.")
    check_structure(structure, scope, min_kept)
    for name, mask in masks.items():
        if name not in scores or np.shape(scores[name]) != mask.shape:
            came = np.shape(scores[name]) if name in scores else "none"
            raise UsageError(f"Expected scores of shape {mask.shape} for {name}; got {came}.")
    scores = {name: _as_floating(scores[name]) for name in masks}
    units, ranked = structure.units(masks), structure.pooled(scores, masks)
    held = structure.held(ranked, units)
    if min_kept and not held:
        counts = structure.counts(masks)
        held = {name: _first(ranked[name], counts[name], min_kept) for name in masks}
    floors = {name: int(np.count_nonzero(held[name])) if held else 0 for name in masks}
    together = max(count(units.total, units.kept), sum(floors.values()))
    if scope == "global":
        return structure.weights(Masks(_keep_largest(ranked, units, together, held)), masks)
    budgets = erk_budgets(masks, together, structure, floors) if scope == "erk" else {}
    kept: dict[str, np.ndarray] = {}
    for name, unit in units.items():
        alone = Masks({name: unit})
        number = budgets[name] if budgets else max(count(alone.total, alone.kept), floors[name])
        kept |= _keep_largest(ranked, alone, number, held)
    return structure.weights(Masks(kept), masks)


def _first(scores: np.ndarray, counts: np.ndarray, least: int) -> np.ndarray:
    """The units with the largest scores, as many as it takes to have ``least`` weights."""
    alive = Masks({"": counts > 0})
    largest = _largest({"": scores[alive[""]]}, alive, min(least, alive.kept))[""]
    places = np.flatnonzero(largest)
    places = places[np.argsort(-scores.ravel()[places], kind="stable")]
    enough = np.searchsorted(np.cumsum(counts.ravel()[places]), least) + 1
    first = np.zeros_like(largest)
    first.flat[places[:enough]] = True
    return first


def _keep_largest(
    scores: Mapping[str, np.ndarray], masks: Masks, count: int, held: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The ``count`` survivors of ``masks`` with the largest scores; those ``held`` come first."""
    survivors = {name: scores[name][mask] for name, mask in masks.items()}
    if any(np.isnan(values).any() for values in survivors.values()):
        bad = [name for name, values in survivors.items() if np.isnan(values).any()]
        raise UsageError(f"Expected scores that are numbers; NaN came for {', '.join(bad)}.")
    if 0 < count < masks.kept and not any(values.any() for values in survivors.values()):
        raise UsageError(
            f"Expected scores that tell weights apart; those of {some(list(masks))} are all 0, so "
            "that only their order would decide which stay. The weights are 0, or no gradient "
            "reaches them (a last layer that starts at 0?)."
        )
    if not held:
        return _largest(survivors, masks, count)
    free = Masks({name: mask & ~held[name] for name, mask in masks.items()})
    values = {name: scores[name][mask] for name, mask in free.items()}
    more = _largest(values, free, count - (masks.kept - free.kept))
    return {name: more[name] | (masks[name] & held[name]) for name in masks}


def _largest(
    survivors: Mapping[str, np.ndarray], masks: Masks, count: int
) -> dict[str, np.ndarray]:
    """The ``count`` largest of ``survivors``, which are the scores at the places kept so far.

    A partition of the scores finds the threshold in linear time with one copy of them. Sorting
    100 million weights would take many times as long.
    """
    if count == masks.kept:
        return dict(masks)
    if count == 0:
        return {name: np.zeros_like(mask) for name, mask in masks.items()}
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
