from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aurevoir.errors import BudgetError, UsageError
from aurevoir.kernels.bits import pack_signs, popcount, unpack
from aurevoir.kernels.camera import Camera, NoisyCamera
from aurevoir.kernels.exact_kernel import exact_kernel
from aurevoir.kernels.gram import overlap
from aurevoir.kernels.projection import Dense, DenseSigns, Hadamard, expose_sample, project
from aurevoir.kernels.random_matrix import gaussian_rows, hadamard_signs, sign_rows

quick = settings(deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)
every = pytest.mark.parametrize("kind", [Hadamard, Dense, DenseSigns])
random_r = pytest.mark.parametrize("kind", [Dense, DenseSigns])


def random_bits(seed, n, m):
    return pack_signs(np.random.default_rng(seed).normal(size=(n, m)))


def hadamard_matrix(p):
    return scipy.linalg.hadamard(p) / np.sqrt(p)


def centred(gram):
    return gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()


def kernel_of(bits):
    norms = popcount(bits)
    return exact_kernel(overlap(bits), norms, norms).astype("float64")


def explicit_hadamard_intensities(projection, bits):
    p, m = projection.length, projection.m
    h, x = hadamard_matrix(p), unpack(bits, m, "float64")
    pairs = [
        sum((h @ np.diag(d[2]) @ h @ np.diag(d[1]) @ h @ np.diag(d[0]))[:, :m].__matmul__(x.T).T ** 2 for d in pair)
        for pair in hadamard_signs(m, projection.k, projection.seed).astype("float64")
    ]
    return np.concatenate(pairs, axis=1)[:, : projection.k]


@given(seed=seeds, m=st.integers(1, 70), k=st.integers(1, 150))
@example(seed=1, m=1, k=3)
@example(seed=1, m=64, k=64)
@example(seed=1, m=64, k=65)
@example(seed=1, m=33, k=150)
@quick
def test_hadamard_intensities_are_those_of_the_explicit_matrix(seed, m, k):
    projection, bits = Hadamard(m, k, seed), random_bits(seed, 4, m)
    intensities = projection.intensities(bits)
    assert intensities.shape == (4, k)
    assert intensities.dtype == np.float32
    np.testing.assert_allclose(intensities, explicit_hadamard_intensities(projection, bits), rtol=1e-4, atol=1e-3)


@every
def test_further_components_leave_the_first_as_they_are(kind):
    bits = random_bits(1, 6, 30)
    few, many = kind(30, 20, 7), kind(30, 90, 7)
    np.testing.assert_array_equal(many.intensities(bits)[:, :20], few.intensities(bits))


def rows_of_r(projection):
    """R of a `Dense` or `DenseSigns` as integers of shape (k, 2, m)."""
    which = slice(0, projection.k)
    if projection.entries == "gaussian":
        return gaussian_rows(which, projection.m, projection.seed).astype("int64")
    rows = sign_rows(which, projection.m, projection.seed)
    return 2 * unpack(rows.reshape(2 * len(rows), -1), projection.m).reshape(len(rows), 2, -1).astype("int64") - 1


@random_r
@given(seed=seeds, n=st.integers(0, 5), m=st.integers(1, 150), k=st.integers(1, 60))
@example(seed=0, n=3, m=128, k=16)
@example(seed=0, n=3, m=129, k=17)
@example(seed=2**32 - 1, n=2, m=700, k=33)
@quick
def test_dense_intensities_are_the_squared_moduli_of_rx(kind, seed, n, m, k):
    projection, bits = kind(m, k, seed), random_bits(seed, n, m)
    y = unpack(bits, m, "int64") @ rows_of_r(projection).transpose(1, 2, 0)
    expected = np.square(y[0].astype("float32")) + np.square(y[1].astype("float32"))
    intensities = projection.intensities(bits)
    assert intensities.dtype == np.float32
    np.testing.assert_array_equal(intensities, expected)


@random_r
def test_a_row_is_projected_alike_among_few_and_among_many(kind):
    bits = random_bits(3, 8200, 40)
    whole = kind(40, 20, 1).intensities(bits)
    np.testing.assert_array_equal(whole[-3:], kind(40, 20, 1).intensities(bits[-3:]))


@every
@given(seed=seeds, m=st.integers(1, 90), k=st.integers(1, 60))
@quick
def test_speckle_is_what_the_camera_sees_of_the_intensities(kind, seed, m, k):
    projection, bits = kind(m, k, seed), random_bits(seed, 5, m)
    camera = Camera.exposed(projection.intensities(bits))
    speckle = projection.speckle(bits, camera)
    assert speckle.dtype == np.uint8
    np.testing.assert_array_equal(speckle, camera.expose(projection.intensities(bits)))


@every
def test_the_same_seed_draws_the_same_and_another_does_not(kind):
    bits = random_bits(2, 3, 64)
    first = kind(64, 32, 1).intensities(bits)
    np.testing.assert_array_equal(kind(64, 32, 1).intensities(bits), first)
    assert np.mean(kind(64, 32, 2).intensities(bits) != first) > 0.9


@every
def test_an_empty_image_gives_no_light(kind):
    np.testing.assert_array_equal(kind(40, 24).intensities(np.zeros((2, 5), dtype="uint8")), 0)


@every
def test_more_components_and_features_need_more_memory_a_row(kind):
    assert kind(64, 32).row_bytes() < kind(64, 64).row_bytes() < kind(128, 64).row_bytes()


def test_products_of_dense_intensities_tend_to_the_exact_kernel():
    bits = random_bits(6, 16, 48)
    y = Dense(48, 8000, 2).intensities(bits).astype("float64")
    np.testing.assert_allclose(y @ y.T / 8000 / (4 * 40**4), kernel_of(bits), rtol=0.15)


@every
def test_the_centred_gram_of_intensities_correlates_with_the_exact_kernel(kind):
    bits = random_bits(6, 24, 48)
    y = kind(48, 6000, 2).intensities(bits).astype("float64")
    correlation = np.corrcoef(centred(y @ y.T).ravel(), centred(kernel_of(bits)).ravel())[0, 1]
    assert correlation > 0.95


def test_the_correlation_with_the_exact_kernel_grows_with_the_components():
    bits = random_bits(6, 24, 48)
    limit = centred(kernel_of(bits)).ravel()
    correlations = []
    for k in (30, 300, 6000):
        y = Dense(48, k, 2).intensities(bits).astype("float64")
        correlations.append(np.corrcoef(centred(y @ y.T).ravel(), limit)[0, 1])
    assert correlations == sorted(correlations)


@every
def test_exposure_puts_one_intensity_of_a_thousand_above_white(kind):
    projection = kind(200, 2000, 3)
    intensities = projection.intensities(random_bits(8, 50, 200))
    gain = Camera.exposed(intensities).gain
    assert np.mean(intensities * gain > 255) == pytest.approx(1e-3, rel=0.06)


def test_noise_is_not_lost_to_the_fused_kernels():
    projection, bits = Hadamard(40, 30, 1), random_bits(9, 20, 40)
    camera = expose_sample(projection, bits)
    noisy = NoisyCamera(camera.gain, full_well=50, random=np.random.default_rng(0))
    assert np.mean(projection.speckle(bits, noisy) != projection.speckle(bits, camera)) > 0.5


def test_the_exposure_is_fitted_to_the_first_rows_alone():
    projection, bits = Dense(40, 30, 1), random_bits(9, 200, 40)
    changed = bits.copy()
    changed[64:] = 255
    assert expose_sample(projection, changed) == expose_sample(projection, bits)
    assert expose_sample(projection, changed) != expose_sample(projection, changed[::-1])


@every
@pytest.mark.parametrize("budget", [1, 50_000, "1MiB"])
def test_the_budget_cuts_a_projection_but_does_not_change_it(kind, budget):
    projection, bits = kind(300, 150, 4), random_bits(5, 70, 300)
    camera = expose_sample(projection, bits)
    whole = camera.expose(projection.intensities(bits))
    found = list(project(projection, camera, bits, budget))
    assert [i for which, _ in found for i in range(which.start, which.stop)] == list(range(70))
    speckle = np.concatenate([block for _, block in found])
    assert speckle.dtype == np.uint8
    difference = np.abs(speckle.astype("int64") - whole)
    if kind is not Hadamard:
        assert not difference.any()
    # Sums in float32 round differently in blocks of other shapes, and so may a byte at the edge.
    assert difference.max() <= 1
    assert np.mean(difference) < 1e-3


@every
def test_a_budget_of_one_byte_projects_row_by_row(kind):
    projection, bits = kind(20, 10), random_bits(5, 4, 20)
    assert [len(block) for _, block in project(projection, Camera(1.0), bits, budget=1)] == [1, 1, 1, 1]


@every
def test_projecting_no_rows_yields_nothing(kind):
    assert list(project(kind(20, 10), Camera(1.0), np.zeros((0, 3), dtype="uint8"))) == []


@every
def test_a_projection_is_known_by_its_three_numbers(kind):
    assert kind(20, 10, 3) == replace(kind(20, 10, 0), seed=3)
    assert kind(20, 10, 3) != kind(20, 10, 4)


@pytest.mark.parametrize("kind", [Dense, DenseSigns, Hadamard])
@pytest.mark.parametrize(("m", "k", "seed"), [(16, 8, 2**64), (16, 8, -1), (0, 8, 0), (16, 0, 0), (16, -8, 0)])
def test_what_no_projection_can_have_is_refused(kind, m, k, seed):
    with pytest.raises(UsageError, match=f"m = {m} .* k = {k} .* seed {seed}"):
        kind(m, k, seed)


@pytest.mark.parametrize("kind", [Dense, DenseSigns, Hadamard])
def test_bits_of_another_number_of_features_are_refused(kind):
    projection, bits = kind(16, 8), np.zeros((2, 7840), dtype="uint8")
    for call in (projection.intensities, lambda bits: projection.speckle(bits, Camera(1.0))):
        with pytest.raises(UsageError, match=r"shape \(2, 7840\) does not hold the packed bits of 16 features"):
            call(bits)


@pytest.mark.parametrize("kind", [Dense, DenseSigns, Hadamard])
def test_more_components_than_memory_holds_are_refused_before_anything_is_drawn(kind):
    """As where a hostile model.json says k = 2^33."""
    with pytest.raises(BudgetError, match=r"k = 8589934592 components needs [\d.]+ GiB and the memory budget"):
        kind(1024, 2**33, 0)
    with pytest.raises(BudgetError, match="features"):
        kind(2**40, 16, 0)
