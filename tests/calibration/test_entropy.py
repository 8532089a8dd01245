import math
import time
import warnings
from itertools import pairwise

import numpy as np
import pytest

from aurevoir.calibration.entropy import entropy_threshold, mse_threshold

RNG = np.random.default_rng
METHODS = [entropy_threshold, mse_threshold]


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


def histogram(values, bins=2048, top=None):
    magnitudes = np.abs(values)
    top = magnitudes.max() if top is None else top
    return np.histogram(magnitudes, bins, (0, top))[0], top / bins


def expected_counts(survival, top, size, bins=2048):
    """Counts of an ideal sample: free of random numbers, and of their noise."""
    edges = np.linspace(0, top, bins + 1)
    beyond = np.rint(size * np.array([survival(edge) for edge in edges]))
    return -np.diff(beyond).astype("int64"), top / bins


def mixed_histogram(seed):
    """Laplace, Gaussian, post-ReLU, outliers, uniform, bounded away from zero, sparse and few-valued data in turn."""
    rng = RNG(seed)
    size = int(10 ** rng.uniform(1.5, 5))
    bins = int(rng.integers(160, 260)) if seed % 20 else 400
    samples = [
        lambda: rng.laplace(size=size),
        lambda: rng.normal(size=size),
        lambda: np.maximum(rng.normal(size=size) - rng.uniform(-0.5, 1), 0),
        lambda: np.concatenate([rng.normal(size=size), rng.uniform(-40, 40, size=5)]),
        lambda: rng.uniform(size=size),
        lambda: rng.normal(rng.uniform(3, 30), 1, size=size),
        lambda: rng.standard_t(2, size=40),
        lambda: rng.choice(rng.normal(size=12), size=size),
    ]
    counts, width = histogram(samples[seed % len(samples)](), bins)
    return np.concatenate([counts, np.zeros(seed % 3 * 30, "int64")]), width


def divergence_by_hand(counts, size):
    """KL(P || Q) of the first `size` bins, as the slides put it: build both distributions and compare them."""
    total, kept = sum(counts), sum(counts[:size])
    if 2 * kept < total:
        return math.inf
    p = counts[:size]
    p[-1] += total - kept
    levels = [[] for _ in range(128)]
    for j in range(size):
        if counts[j] > 0:
            levels[128 * j // size].append(j)
    q = [0.0] * size
    for level in levels:
        for j in level:
            q[j] = sum(counts[i] for i in level) / len(level)
    q = [1e-4 if p[j] > 0 and q[j] == 0 else q[j] for j in range(size)]
    norm = math.fsum(q)
    return math.fsum(p[j] / total * math.log((p[j] / total) / (q[j] / norm)) for j in range(size) if p[j] > 0)


def entropy_by_hand(counts, width):
    counts = [0, *(int(count) for count in counts[1:])]
    while counts and counts[-1] == 0:
        counts.pop()
    divergences = {size: divergence_by_hand(counts, size) for size in range(128, len(counts) + 1)}
    least = min(divergences.values())
    best = max(size for size, divergence in divergences.items() if divergence <= least + 1e-12)
    return min(best + 0.5, len(counts)) * width


def squared_error_by_hand(counts, threshold):
    """Squared error of `counts` spread evenly over unit bins, bin 0 left out, for a threshold in bins."""
    step, total = threshold / 127, 0.0
    bounds = [(code + 0.5) * step for code in range(127)]
    for j, count in enumerate(counts):
        if j == 0 or count == 0:
            continue
        cuts = [j, *(bound for bound in bounds if j < bound < j + 1), j + 1]
        for low, high in pairwise(cuts):
            value = min(127, round((low + high) / 2 / step)) * step
            total += count * ((high - value) ** 3 - (low - value) ** 3) / 3
    return total


def rounded(values, threshold):
    scale = threshold / 127
    return np.clip(np.rint(values / scale), -127, 127) * scale


def snr(values, threshold):
    return 10 * np.log10(np.mean(values**2) / np.mean((values - rounded(values, threshold)) ** 2))


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_entropy_equals_the_slides_taken_literally(first):
    for seed in range(first, first + 20):
        counts, width = mixed_histogram(seed)
        assert entropy_threshold(counts, width) == entropy_by_hand(counts, width), f"seed {seed}"


@pytest.mark.parametrize("seed", range(24))
def test_mse_is_the_least_error_of_all_candidates(seed):
    counts, width = mixed_histogram(seed)
    used = int(np.flatnonzero(counts)[-1]) + 1
    errors = {end: squared_error_by_hand(counts, end) for end in range(math.ceil(used / 100), used + 1)}
    chosen = round(mse_threshold(counts, width) / width)
    assert chosen in errors
    assert errors[chosen] == pytest.approx(min(errors.values()), rel=1e-9, abs=1e-9)


def test_entropy_of_an_ideal_laplace_distribution():
    threshold = entropy_threshold(*expected_counts(lambda x: math.exp(-x), 13.31, size=602_000))
    assert threshold == pytest.approx(10.37, rel=0.05)


def test_entropy_of_a_laplace_sample():
    values = RNG(7).laplace(size=400_000)
    assert entropy_threshold(*histogram(values)) == pytest.approx(10.37, rel=0.05)


def test_entropy_of_an_ideal_gaussian_distribution():
    threshold = entropy_threshold(*expected_counts(lambda x: math.erfc(x / math.sqrt(2)), 5.0, size=1_000_000))
    assert threshold == pytest.approx(4.59, rel=0.05)


def test_entropy_cuts_outliers_off_a_gaussian():
    rng = RNG(1)
    values = np.concatenate([rng.normal(size=1_000_000), rng.uniform(-40, 40, size=100)])
    assert np.abs(values).max() == pytest.approx(39.9, abs=0.01)
    assert entropy_threshold(*histogram(values)) == pytest.approx(4.13, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_after_a_relu_do_not_matter(method):
    values = np.maximum(RNG(3).normal(size=200_000) - 0.5, 0)
    counts, width = histogram(values)
    threshold = method(counts, width)
    counts[0] *= 1000
    assert method(counts, width) == threshold
    assert snr(values, threshold) > 36


@pytest.mark.parametrize("method", METHODS)
def test_values_bounded_away_from_zero_are_not_saturated(method):
    values = RNG(5).normal(30, 1, size=100_000)
    assert method(*histogram(values)) > 32


@pytest.mark.parametrize("method", METHODS)
def test_a_spike_at_the_upper_end_is_kept(method):
    values = np.clip(RNG(9).normal(3, 3, size=100_000), 0, 6)
    assert method(*histogram(values)) == pytest.approx(6, rel=0.01)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("seed", range(4))
def test_mse_is_as_good_as_a_search_over_samples(kind, seed):
    rng = RNG(seed)
    values = [
        lambda: rng.laplace(size=20_000),
        lambda: rng.normal(size=20_000),
        lambda: np.maximum(rng.normal(size=20_000), 0),
        lambda: np.concatenate([rng.normal(size=20_000), [30.0]]),
    ][kind]()
    amax = np.abs(values).max()
    best = max(snr(values, threshold) for threshold in np.linspace(0.02, 1, 197) * amax)
    assert snr(values, mse_threshold(*histogram(values))) > best - 0.05


@pytest.mark.parametrize("method", METHODS)
def test_one_wild_value_among_very_many_saturates(method):
    counts, width = expected_counts(lambda x: math.erfc(x / math.sqrt(2)), 200.0, size=10**10, bins=4096)
    counts[-1] += 1
    assert 200 / 100 < method(counts, width) < 200 / 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(16))
def test_width_scales_the_threshold_exactly(method, seed):
    counts, width = mixed_histogram(seed)
    assert method(counts, 2 * width) == 2 * method(counts, width)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(8))
def test_empty_bins_at_the_end_and_the_count_type_do_not_matter(method, seed):
    counts, width = mixed_histogram(seed)
    threshold = method(counts, width)
    assert method(np.concatenate([counts, np.zeros(777, "int64")]), width) == threshold
    assert method(counts.astype("int32"), width) == threshold
    assert method(counts.astype("float64"), width) == threshold


@pytest.mark.parametrize("method", METHODS)
def test_same_histogram_same_threshold_and_the_counts_stay(method):
    counts, width = histogram(RNG(0).laplace(size=10_000))
    original = counts.copy()
    assert len({method(counts, width) for _ in range(5)}) == 1
    np.testing.assert_array_equal(counts, original)


@pytest.mark.parametrize("seed", range(16))
def test_more_of_the_same_values_do_not_matter_to_the_mse(seed):
    counts, width = mixed_histogram(seed)
    assert mse_threshold(1024 * counts, width) == mse_threshold(counts, width)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bins", [128, 2048, 4096])
def test_nothing_counted(method, bins):
    assert method(np.zeros(bins, "int64"), 0.5) == 0
    assert method(np.zeros(bins, "int64"), 0.0) == 0


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros(method):
    counts = np.zeros(2048, "int64")
    counts[0] = 10**6
    assert method(counts, 0.5) == 0.5
    assert method(counts, 0.0) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", [1, 126, 127, 128, 129, 1000, 2047])
@pytest.mark.parametrize("zeros", [0, 10**6])
@pytest.mark.parametrize("number", [1, 10**12])
def test_one_value(method, place, zeros, number):
    counts = np.zeros(2048, "int64")
    counts[[0, place]] = zeros, number
    threshold = method(counts, 0.25)
    assert type(threshold) is float
    assert place * 0.25 <= threshold <= (place + 1) * 0.25


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(16))
def test_threshold_is_positive_and_in_range(method, seed):
    counts, width = mixed_histogram(seed)
    assert 0 < method(counts, width) <= len(counts) * width


def test_entropy_keeps_all_where_bins_are_as_few_as_levels():
    counts = np.zeros(2048, "int64")
    counts[:100] = np.arange(100, 0, -1)
    assert entropy_threshold(counts, 1.0) == 100


def least_seconds(run):
    """Of the processor, not of the clock: what else it does meanwhile does not count."""
    times = []
    for _ in range(10):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("method", METHODS)
def test_is_fast(method):
    counts, width = histogram(RNG(0).laplace(size=100_000), bins=4096)
    # A thousand steps of Python a bin, on whatever processor: a tenth of that is taken.
    assert least_seconds(lambda: method(counts, width)) < least_seconds(lambda: sum(range(1000 * len(counts))))
