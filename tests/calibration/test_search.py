"""Searches over thresholds, on objectives whose best is known."""

from aurevoir.calibration.search import leave_in_float, maximize_sign_agreement

NAMES = [f"t{place}" for place in range(30)]


def test_each_group_takes_its_best_candidate():
    candidates = {method: dict.fromkeys(NAMES, value) for method, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    wanted = {name: 1.0 + place // 10 for place, name in enumerate(NAMES)}
    found = maximize_sign_agreement(
        candidates, lambda given: -sum(abs(given[name] - wanted[name]) for name in NAMES), groups=3
    )
    assert found == wanted


def test_the_best_single_candidate_is_never_lost():
    candidates = {"a": dict.fromkeys(NAMES, 1.0), "b": dict.fromkeys(NAMES, 2.0)}
    # Any mixture is worse than either.
    assert (
        maximize_sign_agreement(candidates, lambda given: float(len(set(given.values())) == 1) * given["t0"])
        == candidates["b"]
    )


def test_the_fewest_most_sensitive_tensors_are_left_in_float():
    costs = {name: 0.001 * (1 + (7 * place) % 30) for place, name in enumerate(NAMES)}
    calls = []

    def evaluate(thresholds):
        calls.append(len(thresholds))
        return 1 - sum(costs[name] for name in thresholds)

    for target in (0.6, 0.7, 0.9, 0.99):
        kept, left = leave_in_float(dict.fromkeys(NAMES, 1.0), [[name] for name in NAMES], evaluate, target)
        assert sorted([*kept, *left]) == sorted(NAMES)
        assert left == sorted(left, key=lambda name: -costs[name])
        assert evaluate(kept) >= target
        assert evaluate({**kept, left[-1]: 1.0}) < target


def test_nothing_is_left_in_float_where_the_target_is_met():
    calls = []
    kept, left = leave_in_float({"a": 1.0, "b": 1.0}, [["a"], ["b"]], lambda given: calls.append(given) or 0.99, 0.95)
    assert (kept, left, len(calls)) == ({"a": 1.0, "b": 1.0}, [], 1)


def test_a_target_out_of_reach_leaves_one_tensor_quantized():
    kept, left = leave_in_float({"a": 1.0, "b": 1.0, "c": 1.0}, [["a"], ["b"], ["c"]], lambda given: 0.5, 0.9)
    assert (len(kept), len(left)) == (1, 2)


def test_what_is_quantized_together_is_left_in_float_together():
    def evaluate(thresholds):
        return 1 - 0.1 * len(thresholds)

    thresholds = dict.fromkeys("abcd", 1.0)
    kept, left = leave_in_float(thresholds, [["a"], ["b", "d"], ["c"]], evaluate, 0.75)
    assert (set(kept), left) == ({"a", "c"}, ["b", "d"])
