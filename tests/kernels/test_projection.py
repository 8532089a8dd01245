from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aurevoir.kernels.backends.numba.dense import dense
from aurevoir.kernels.bits import pack_signs, popcount, unpack
from aurevoir.kernels.camera import Camera, NoisyCamera
from aurevoir.kernels.exact_kernel import exact_kernel
from aurevoir.kernels.gram import overlap
from aurevoir.kernels.philox import philox
from aurevoir.kernels.projection import Dense, DenseSigns, Hadamard, expose_sample, project, walsh_hadamard

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


@pytest.mark.parametrize("p", [2**i for i in range(10)])
def test_walsh_hadamard_is_the_product_with_the_hadamard_matrix(p):
    x = np.random.default_rng(p).normal(size=(3, p)).astype("float32")
    np.testing.assert_allclose(walsh_hadamard(x), x @ hadamard_matrix(p), atol=2e-5)


@pytest.mark.parametrize("p", [4096, 8192])
def test_walsh_hadamard_of_unit_vectors_are_rows_of_a_large_hadamard_matrix(p):
    picked = [0, 1, 63, 64, 65, p // 2, p - 1]
    units = np.zeros((len(picked), p), dtype="float32")
    units[np.arange(len(picked)), picked] = 1
    signs = [[(-1) ** (i & j).bit_count() for j in range(p)] for i in picked]
    np.testing.assert_allclose(walsh_hadamard(units) * np.sqrt(p), signs, atol=1e-4)


@given(seed=seeds, n=st.integers(1, 5), log_p=st.integers(0, 12))
@quick
def test_walsh_hadamard_is_its_own_inverse(seed, n, log_p):
    x = np.random.default_rng(seed).normal(size=(n, 2**log_p)).astype("float32")
    np.testing.assert_allclose(walsh_hadamard(walsh_hadamard(x)), x, atol=5e-5)


def test_walsh_hadamard_keeps_float32_and_its_input():
    x = np.ones((2, 128), dtype="float32")
    assert walsh_hadamard(x).dtype == np.float32
    np.testing.assert_array_equal(x, 1)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024), (50_176, 65_536)])
def test_the_length_is_the_power_of_two_at_or_above_m(m, p):
    assert Hadamard(m, 1).length == p


def explicit_hadamard_intensities(projection, bits):
    p, m = projection.length, projection.m
    h, x = hadamard_matrix(p), unpack(bits, m, "float64")
    pairs = [
        sum((h @ np.diag(d[2]) @ h @ np.diag(d[1]) @ h @ np.diag(d[0]))[:, :m].__matmul__(x.T).T ** 2 for d in pair)
        for pair in projection.signs.astype("float64")
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


def test_hadamard_signs_are_plus_and_minus_one_in_equal_shares():
    signs = Hadamard(1000, 2500, 3).signs
    assert signs.shape == (3, 2, 3, 1024)
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean(dtype="float64")) < 4 / np.sqrt(signs.size)


@pytest.mark.parametrize(("k", "pairs"), [(1, 1), (64, 1), (65, 2), (128, 2)])
def test_there_are_no_more_pairs_of_chains_than_components_need(k, pairs):
    assert Hadamard(64, k).signs.shape == (pairs, 2, 3, 64)


def test_no_two_chains_of_signs_are_alike():
    signs = Hadamard(256, 700, 3).signs.reshape(-1, 256)
    products = np.abs(signs.astype("int64") @ signs.T.astype("int64"))
    assert products[~np.eye(len(signs), dtype=bool)].max() < 6 * np.sqrt(256)


@every
def test_further_components_leave_the_first_as_they_are(kind):
    bits = random_bits(1, 6, 30)
    few, many = kind(30, 20, 7), kind(30, 90, 7)
    np.testing.assert_array_equal(many.intensities(bits)[:, :20], few.intensities(bits))


def rows_of_r(projection, which):
    """Rows of R as integers, whichever way the projection writes them."""
    rows = projection.rows(which)
    if isinstance(projection, DenseSigns):
        rows = 2 * unpack(rows.reshape(-1, rows.shape[-1]), projection.m).reshape(len(rows), 2, -1).astype("int64") - 1
    return rows.astype("int64")


@random_r
@given(seed=seeds, n=st.integers(0, 5), m=st.integers(1, 150), k=st.integers(1, 60))
@example(seed=0, n=3, m=128, k=16)
@example(seed=0, n=3, m=129, k=17)
@example(seed=2**32 - 1, n=2, m=700, k=33)
@quick
def test_dense_intensities_are_the_squared_moduli_of_rx(kind, seed, n, m, k):
    projection, bits = kind(m, k, seed), random_bits(seed, n, m)
    y = unpack(bits, m, "int64") @ rows_of_r(projection, slice(0, k)).transpose(1, 2, 0)
    expected = np.square(y[0].astype("float32")) + np.square(y[1].astype("float32"))
    intensities = projection.intensities(bits)
    assert intensities.dtype == np.float32
    np.testing.assert_array_equal(intensities, expected)


def test_sums_of_the_largest_entries_do_not_overflow():
    bits = np.full((1, 7500), 255, dtype="uint8")
    intensities = dense(bits, 16, 0, np.full(256, -127, dtype="int8"))
    np.testing.assert_array_equal(intensities, 2 * np.square(np.float32(127 * 60_000)))


@random_r
def test_a_row_is_projected_alike_among_few_and_among_many(kind):
    bits = random_bits(3, 8200, 40)
    whole = kind(40, 20, 1).intensities(bits)
    np.testing.assert_array_equal(whole[-3:], kind(40, 20, 1).intensities(bits[-3:]))


@pytest.mark.parametrize(("kind", "columns", "counter"), [(Dense, 16, 0), (DenseSigns, 128, 1)])
def test_r_is_what_the_counters_of_its_docstring_draw(kind, columns, counter):
    rows = kind(300, 5, 2**40 + 3).rows(slice(2, 5))
    drawn = philox((1, 4, 1, counter), 2**40 + 3)
    if kind is DenseSigns:
        np.testing.assert_array_equal(rows[2, 1, 16:32], drawn)
    else:
        ranks = np.argsort(np.argsort(drawn, kind="stable"), kind="stable")
        found = rows[2, 1, columns : 2 * columns]
        np.testing.assert_array_equal(found[np.argsort(ranks)], np.sort(found))


@random_r
@given(m=st.integers(1, 290), start=st.integers(0, 20), length=st.integers(1, 20))
@quick
def test_rows_of_r_are_the_same_by_whatever_slice_they_are_drawn(kind, m, start, length):
    projection = kind(m, 40, 11)
    which = slice(start, start + length)
    np.testing.assert_array_equal(projection.rows(which), projection.rows(slice(0, 40))[which])


@every
@given(seed=seeds, m=st.integers(1, 90), k=st.integers(1, 60))
@quick
def test_speckle_is_what_the_camera_sees_of_the_intensities(kind, seed, m, k):
    projection, bits = kind(m, k, seed), random_bits(seed, 5, m)
    camera = Camera.exposed(projection.intensities(bits))
    speckle = projection.speckle(bits, camera)
    assert speckle.dtype == np.uint8
    np.testing.assert_array_equal(speckle, camera.expose(projection.intensities(bits)))


def test_signs_of_r_are_balanced_and_independent():
    signs = rows_of_r(DenseSigns(4000, 20, 5), slice(0, 20)).reshape(40, 4000)
    assert np.abs(np.corrcoef(signs) - np.eye(40)).max() < 6 / np.sqrt(4000)
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)


def test_dense_rows_are_gaussian_of_sigma_40():
    drawn = Dense(2000, 100, 5).rows(slice(0, 100))
    assert drawn.dtype == np.int8
    assert drawn.shape == (100, 2, 2000)
    values = drawn.ravel().astype("float64")
    assert abs(values.mean()) < 0.3
    assert abs(values.std() - 40) < 0.5
    assert abs(scipy.stats.skew(values)) < 0.02
    assert abs(scipy.stats.kurtosis(values, fisher=False) - 3) < 0.15


def test_dense_rows_and_their_two_parts_do_not_correlate():
    drawn = Dense(4000, 20, 5).rows(slice(0, 20)).reshape(40, 4000)
    correlations = np.corrcoef(drawn)
    assert np.abs(correlations - np.eye(40)).max() < 6 / np.sqrt(4000)


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


def test_exact_kernel_is_its_formula_for_two_sets_of_rows():
    left, right = random_bits(3, 5, 77), random_bits(4, 7, 77)
    x, others = unpack(left, 77, "int64"), unpack(right, 77, "int64")
    expected = (x**2).sum(axis=1)[:, None] * (others**2).sum(axis=1) + (x @ others.T) ** 2
    counts = overlap(left, right)
    kernel = exact_kernel(counts, popcount(left), popcount(right))
    assert kernel.dtype == np.int64
    np.testing.assert_array_equal(kernel, expected)
    np.testing.assert_array_equal(counts, x @ others.T)
    assert exact_kernel(counts, popcount(left), popcount(right), out=counts) is counts
    np.testing.assert_array_equal(counts, expected)


def test_exact_kernel_counts_beyond_32_bits():
    norms = np.array([50_176])
    assert exact_kernel(norms[:, None], norms, norms)[0, 0] == 2 * 50_176**2


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


def test_a_brighter_intensity_is_never_a_darker_byte():
    intensities = np.linspace(0, 3000, 5001, dtype="float32")
    speckle = Camera(0.2).expose(intensities).astype("int64")
    assert np.all(np.diff(speckle) >= 0)
    assert set(speckle) == set(range(256))


def test_camera_rounds_to_the_nearest_byte_and_saturates():
    speckle = Camera(0.5).expose(np.array([[0, 0.9, 1.1, 2.0, 509, 510, 511, 520, 1e30]], dtype="float32"))
    np.testing.assert_array_equal(speckle, [[0, 0, 1, 1, 254, 255, 255, 255, 255]])
    assert speckle.dtype == np.uint8


@every
def test_exposure_puts_one_intensity_of_a_thousand_above_white(kind):
    projection = kind(200, 2000, 3)
    intensities = projection.intensities(random_bits(8, 50, 200))
    gain = Camera.exposed(intensities).gain
    assert np.mean(intensities * gain > 255) == pytest.approx(1e-3, rel=0.06)


def test_exposure_follows_the_brightness():
    intensities = np.random.default_rng(1).exponential(size=(20, 500)).astype("float32")
    dim, bright = Camera.exposed(intensities), Camera.exposed(intensities * 64)
    assert dim.gain == pytest.approx(64 * bright.gain)
    np.testing.assert_array_equal(dim.expose(intensities), bright.expose(intensities * 64))


@pytest.mark.parametrize("shape", [(4, 5), (0, 5)])
def test_exposure_of_darkness_or_of_nothing_keeps_zero_at_zero(shape):
    dark = np.zeros(shape, dtype="float32")
    camera = Camera.exposed(dark)
    assert np.isfinite(camera.gain)
    np.testing.assert_array_equal(camera.expose(dark), np.zeros(shape))


def test_a_noisy_camera_varies_as_its_photons_and_its_readout_do():
    light = np.full(200_000, 100, dtype="float32")
    random = np.random.default_rng(0)
    shot = NoisyCamera(1.0, full_well=2550, random=random).expose(light).astype("float64")
    read = NoisyCamera(1.0, full_well=1e9, readout=5e7, random=random).expose(light).astype("float64")
    # 1000 electrons at ten a grey value; rounding to whole grey values adds 1/12.
    assert shot.mean() == pytest.approx(100, abs=0.1)
    assert shot.var() == pytest.approx(10 + 1 / 12, rel=0.02)
    assert read.std() == pytest.approx(5e7 * 255 / 1e9, rel=0.02)


def test_without_photons_lost_a_noisy_camera_is_a_camera():
    light = np.linspace(0, 300, 1001, dtype="float32")
    noisy = NoisyCamera(1.0, full_well=1e13, random=np.random.default_rng(0)).expose(light)
    np.testing.assert_array_equal(noisy[light % 1 != 0.5], Camera(1.0).expose(light)[light % 1 != 0.5])


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
