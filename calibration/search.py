"""Searches over thresholds by what they do to the final features: measured, not modelled."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .thresholds import HistogramMethod

Thresholds = dict[str, float]
Evaluate = Callable[[Thresholds], float]
"""Quantizes with the given thresholds and returns the sign agreement of the final features."""

GROUPS = 12


def keep_most_signs(
    candidates: Mapping[HistogramMethod, Thresholds], evaluate: Evaluate, groups: int = GROUPS
) -> Thresholds:
    """Choose among candidate thresholds, group by group, what keeps most signs of the final features.

    Starts from the best candidate as a whole; then each group of neighbouring tensors, in the order
    of the graph, takes the candidate that agrees most, the other groups held.

    Parameters
    ----------
    candidates : mapping of dict of float
        Complete thresholds by method; the tensors in the order of the graph.
    evaluate : callable
    groups : int
        Groups to cut the tensors into; one evaluation a group and candidate.
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
    """Leave the fewest units of tensors unquantized that bring sign agreement to a target.

    Each unit's sensitivity is measured: the agreement with it alone left in floating point. The
    most sensitive are then left so, their number found by bisection.

    Parameters
    ----------
    thresholds : dict of float
    units : sequence of sequences of str
        Tensors that are quantized together or not at all.
    evaluate : callable
    target : float

    Returns
    -------
    thresholds : dict of float
        Of the tensors that stay quantized.
    left : list of str
        The tensors left in floating point, most sensitive first; all units but one at most.
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
