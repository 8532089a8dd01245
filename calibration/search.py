"""Search thresholds by the measured sign agreement of the final features."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .thresholds import HistogramMethod

Thresholds = dict[str, float]
Evaluate = Callable[[Thresholds], float]
"""Quantizes with the given thresholds and returns the sign agreement of the final features."""

GROUPS = 12


def maximize_sign_agreement(
    candidates: Mapping[HistogramMethod, Thresholds], evaluate: Evaluate, groups: int = GROUPS
) -> Thresholds:
    """Choose among candidate thresholds, group by group, to maximize the sign agreement of the final features.

    Starts from the best single candidate; then each group of neighbouring tensors, in graph order, takes
    the candidate with the highest sign agreement, with the other groups fixed.

    Parameters
    ----------
    candidates : mapping of dict of float
        Thresholds of all tensors, in graph order, by method.
    evaluate : callable
    groups : int
        Number of groups; each needs one evaluation per candidate.
    """
    scores = {method: evaluate(thresholds) for method, thresholds in candidates.items()}
    first = max(scores, key=lambda method: scores[method])
    best, score = dict(candidates[first]), scores[first]
    for group in np.array_split(np.array(list(best), dtype=object), min(groups, len(best))):
        for thresholds in candidates.values():
            changed = {**best, **{name: thresholds[name] for name in group}}
            if changed != best and (found := evaluate(changed)) > score:
                best, score = changed, found
    return best


def leave_in_float(
    thresholds: Thresholds, units: Sequence[Sequence[str]], evaluate: Evaluate, target: float
) -> tuple[Thresholds, list[str]]:
    """Keep as few units of tensors in floating point as needed to reach a target sign agreement.

    The sensitivity of a unit is the agreement with only this unit in floating point. The most
    sensitive units are then kept in floating point; their number is found by bisection.

    Parameters
    ----------
    thresholds : dict of float
    units : sequence of sequences of str
        Groups of tensors that are quantized together.
    evaluate : callable
    target : float

    Returns
    -------
    thresholds : dict of float
        Thresholds of the tensors that stay quantized.
    left : list of str
        The tensors kept in floating point, most sensitive first; at most all units but one.
    """
    if evaluate(thresholds) >= target:
        return thresholds, []
    order = sorted(units, key=lambda unit: -evaluate(_without(thresholds, [unit])))
    low, high = 0, len(order) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if evaluate(_without(thresholds, order[:middle])) >= target:
            high = middle
        else:
            low = middle
    return _without(thresholds, order[:high]), [name for unit in order[:high] for name in unit]


def _without(thresholds: Thresholds, units: Sequence[Sequence[str]]) -> Thresholds:
    left = {name for unit in units for name in unit}
    return {name: value for name, value in thresholds.items() if name not in left}
