"""The radial kernel of channel means of several layers."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from aurevoir.errors import UsageError
from aurevoir.kernels.bits import pack_signs
from aurevoir.kernels.fitting import fit_readout, kernel_paths
from aurevoir.kernels.pooled import Standardizations, standardization
from aurevoir.kernels.ridge import form
from aurevoir.kernels.training_kernel import TrainingKernel

LAYERS, N, M = (6, 3, 8), 120, 64
OWN = LAYERS[-1]


def images(seed=0, n=N, earlier=1.0):
    """Bits, channel means of three layers and labels; the first layer tells the class apart, the last hardly."""
    random, labels = np.random.default_rng(seed), np.arange(n) % 3
    centres = np.random.default_rng(99).normal(size=(3, sum(LAYERS)))
    centres[:, LAYERS[0] :] *= 0.2
    pooled = earlier * centres[labels] + random.normal(size=(n, sum(LAYERS)))
    bits = pack_signs(random.normal(size=(n, M)) + 0.2 * np.repeat(pooled[:, -OWN:], M // OWN, axis=1))
    return bits, (pooled * np.arange(1, sum(LAYERS) + 1)).astype("float32"), labels


def test_layers_count_alike_but_for_the_last_which_counts_twice():
    pooled = images()[1]
    pooled[:, 1] = 7
    ones = np.ones(N)
    found, plain = Standardizations(pooled, ones, LAYERS), standardization(pooled, ones)
    squares = (found.of("layers")(pooled).astype("float64") ** 2).sum(axis=0)
    shares = [part.sum() for part in np.split(squares, np.cumsum(LAYERS)[:-1])]
    np.testing.assert_allclose(np.array(shares) / shares[0], [1, 1, 2], rtol=1e-5)
    # One over the mean squared distance of two images, as for any standardization.
    assert squares.sum() == pytest.approx(N * (sum(LAYERS) - 1), rel=1e-5)
    assert found.of("layers").gamma == plain.gamma
    assert not found.of("layers").scale[1]
    last = standardization(pooled[:, -OWN:], ones)
    for kind in ("rbf", "pooled", "bits+rbf"):
        np.testing.assert_array_equal(found.of(kind).scale, last.scale)


def test_a_layer_that_is_the_same_everywhere_counts_for_nothing():
    pooled = images()[1]
    pooled[:, : LAYERS[0]] = 3
    found = Standardizations(pooled, np.ones(N), LAYERS).of("layers")(pooled)
    assert not found[:, : LAYERS[0]].any() and np.isfinite(found).all()


def test_the_scores_are_those_of_the_kernel():
    bits, pooled, labels = images()
    readout, path = fit_readout(bits, M, labels, 3, "layers", pooled=pooled, layers=LAYERS)
    assert (readout.kind, len(readout.mean), readout.uses_pooled) == ("layers", sum(LAYERS), True)
    standardize = Standardizations(pooled, np.ones(N), LAYERS).of("layers")
    new = images(seed=1)[1]
    expected = rbf_kernel(standardize(new).astype("float64"), standardize(pooled), standardize.gamma)
    scores = expected @ path.coefficients + path.intercept
    np.testing.assert_allclose(readout.scores(bits, pooled=new), scores, atol=1e-6)


def test_auto_takes_it_where_earlier_layers_tell_more():
    bits, pooled, labels = images()
    readout, path = fit_readout(bits, M, labels, 3, "auto", pooled=pooled, layers=LAYERS)
    others = fit_readout(bits, M, labels, 3, "auto", pooled=pooled[:, -OWN:])[1].loo_accuracy_of
    assert readout.kind == "layers"
    assert path.loo_accuracy_of == {**others, "layers": path.loo_accuracy}
    assert path.loo_accuracy > max(others.values()) + 0.1
    assert list(kernel_paths(bits, M, labels, 3, ("rbf", "layers"), pooled=pooled, layers=LAYERS)) == ["rbf", "layers"]


@pytest.mark.parametrize("kind", ["rbf", "pooled", "bits+rbf", "exact+rbf"])
def test_other_kernels_read_the_last_layer(kind):
    bits, pooled, labels = images()
    several, _ = fit_readout(bits, M, labels, 3, kind, pooled=pooled, layers=LAYERS)
    alone, _ = fit_readout(bits, M, labels, 3, kind, pooled=pooled[:, -OWN:])
    np.testing.assert_array_equal(several.scores(bits, pooled=pooled), alone.scores(bits, pooled=pooled[:, -OWN:]))


@pytest.mark.parametrize("kind", ["auto", "layers"])
def test_on_landmarks(monkeypatch, kind):
    bits, pooled, labels = images(n=2500)
    monkeypatch.setattr(form, "COMPARED_ROWS", 600)
    readout, path = fit_readout(bits, M, labels, 3, kind, pooled=pooled, layers=LAYERS, budget="24MiB")
    assert readout.kind == "layers" and len(readout.rows) < 2500
    new_bits, new, expected = images(seed=1, n=600)
    accuracy = (readout.scores(new_bits, pooled=new).argmax(axis=1) == expected).mean()
    assert abs(accuracy - path.loo_accuracy) < 0.06 and accuracy > 0.8


def test_the_kernel_with_its_training_images_and_others():
    bits, pooled, _ = images()
    kernel = TrainingKernel("layers", bits, pooled, np.ones(N), layers=LAYERS)
    gram = kernel.gram()
    np.testing.assert_allclose(np.diag(gram), 1)
    np.testing.assert_allclose(kernel.rows(bits[:5], pooled[:5]), gram[:5], atol=1e-6)


def test_one_layer_is_refused():
    bits, pooled, labels = images()
    with pytest.raises(UsageError, match=r"'layers' needs the channel means of several layers.*'rbf'"):
        fit_readout(bits, M, labels, 3, "layers", pooled=pooled)
