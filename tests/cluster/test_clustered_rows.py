"""Passes of the ridge on the workers of a cluster: what comes back is what this machine alone computes."""

from contextlib import contextmanager

import numpy as np
import pytest
from cluster_flaws import FlawedPass

from aurevoir import Cluster
from aurevoir.cluster.pool import Resources
from aurevoir.errors import AurevoirError
from aurevoir.kernels.backends import limit_threads
from aurevoir.kernels.backends.numba import threads
from aurevoir.kernels.camera import NoisyCamera
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.projection import Hadamard, Projection
from aurevoir.kernels.ridge import passes
from aurevoir.transfer import clustered_rows
from aurevoir.transfer.clustered_rows import digest, sharing

ONE = Cluster(workers=1)
N, M, CHANNELS, CLASSES = 1300, 600, 12, 3


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(passes, "SEGMENT", 512)


@pytest.fixture(scope="module")
def images():
    """Bits, labels and channel means of rows about a centre a class."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, size=N)
    centres = random.normal(size=(CLASSES, M))
    bits = np.packbits(centres[labels] + 3 * random.normal(size=(N, M)) > 0, axis=1)
    return bits, labels, (labels[:, None] + random.normal(size=(N, CHANNELS))).astype("float32")


@contextmanager
def on(cluster):
    with sharing(cluster, N, False, "1GiB") as share:
        yield share


def fitted(images, projection, share=passes.here, budget="3MiB", weights=None, multilabel=False, layers=()):
    bits, labels, pooled = images
    if multilabel:
        labels = np.eye(CLASSES, dtype="int64")[labels] | np.eye(CLASSES, dtype="int64")[labels[::-1]]
    options = {"n_components": 256 if projection == "hadamard" else None, "weights": weights, "budget": budget}
    options |= {"layers": layers}
    return fit_readout(bits, M, labels, CLASSES, projection, pooled=pooled, share=share, **options)


@pytest.mark.parametrize(
    ("projection", "options"),
    [
        ("none", {}),
        ("bits+rbf", {"weights": np.random.default_rng(1).uniform(0.5, 2, size=N)}),
        ("rbf", {"multilabel": True}),
        ("pooled", {}),
        ("layers", {"layers": (5, CHANNELS - 5)}),
        ("hadamard", {"budget": 2_800_000}),
    ],
)
def test_a_ridge_is_that_of_this_machine_to_the_last_bit(machines, images, monkeypatch, projection, options):
    monkeypatch.setattr("aurevoir.kernels.ridge.form.COMPARED_ROWS", 1000)
    shared = []
    with on(ONE) as share:

        def counted(*given):
            for result in share(*given):
                shared.append(result)
                yield result

        found = fitted(images, projection, counted, **options)
    # Sums, and then leave-one-out at all alphas, of three segments.
    assert len(shared) == 2 * 3
    assert digest(found) == digest(fitted(images, projection, **options))


def test_a_lost_worker_loses_no_segment_and_counts_none_twice(machines, images, flaw_of_passes):
    flaw_of_passes("dies-once")
    with on(ONE) as share:
        assert digest(fitted(images, "none", share)) == digest(fitted(images, "none"))
    assert (machines.flaws / "died").exists()


def test_rows_that_end_their_workers_end_the_fit(machines, images, flaw_of_passes):
    flaw_of_passes("dies")
    with on(ONE) as share, pytest.raises(AurevoirError, match="workers end on rows 0 to 512 of the ridge: .*--memory"):
        fitted(images, "none", share)


def test_a_worker_with_other_results_is_refused_unless_any_will_do(machines, images, flaw_of_passes):
    flaw_of_passes("other-sums")
    with on(ONE) as share, pytest.raises(AurevoirError, match="its results of the first 512 rows differ"):
        fitted(images, "none", share)
    with on(Cluster(workers=1, any_processor=True)) as share:
        assert digest(fitted(images, "none", share)) == digest(fitted(images, "none"))


@pytest.fixture
def no_cluster(monkeypatch):
    """A cluster that must not be asked."""
    monkeypatch.setattr(clustered_rows, "_shared", lambda *given: pytest.fail("a cluster was asked"))
    return Cluster("127.0.0.1:1")


@pytest.mark.parametrize("flawed", ["camera", "projection"])
def test_speckle_that_differs_each_time_is_projected_here(images, no_cluster, flawed):
    class Other(Projection):
        """A projection by a device."""

        kind = "other"

        def __init__(self, m, k, seed):
            self.m, self.k, self.seed, self._inner = m, k, seed, Hadamard(m, k, seed)
            self.row_bytes, self.intensities = self._inner.row_bytes, self._inner.intensities

    bits, labels, _ = images
    camera = NoisyCamera(1e-3) if flawed == "camera" else None
    with on(no_cluster) as share:
        make = Other if flawed == "projection" else "hadamard"
        fit_readout(bits, M, labels, CLASSES, make, 256, budget=2_800_000, camera=camera, share=share)


def test_arrays_of_a_gpu_are_summed_there(images, no_cluster, cupy):
    bits, labels, _ = images
    with on(no_cluster) as share:
        fit_readout(cupy.asarray(bits), M, cupy.asarray(labels), CLASSES, "none", budget="3MiB", share=share)


@pytest.mark.parametrize(
    ("machines_there", "size", "expected"),
    [(4, 100, (4, 2)), (4, 2**29, (1, 1)), (1, 2**31, (1, 1)), (3, 100 << 20, (3, 1))],
)
def test_results_that_wait_fit_half_of_the_budget(machines_there, size, expected):
    room, ahead = clustered_rows._bounded(Resources(machines_there, 2, 0.0), size, 1 << 30)
    assert (room.workers, ahead) == expected


def test_threads_of_compiled_kernels_are_limited():
    limit_threads(1)
    assert threads.thread_count() == 1
    threads.limit_threads(None)
    assert threads.thread_count() == threads.most_threads()


@pytest.mark.parametrize(
    ("n", "length", "segments"),
    [
        (100, 16_384, 1),
        (16_384, 16_384, 1),
        (16_385, 2560, 7),
        (18_800, 2560, 8),
        (131_073, 16_384, 9),
        (10**6, 16_384, 62),
    ],
)
def test_many_rows_have_segments_for_several_workers(monkeypatch, n, length, segments):
    monkeypatch.undo()
    assert passes.segment(n) == length
    assert -(-n // length) == segments


def test_few_rows_stay_here_and_ask_no_cluster(no_cluster):
    with sharing(no_cluster, passes.SEGMENT, True) as share:
        assert share is passes.here


def test_passes_over_many_rows_show_a_bar(images, monkeypatch, capsys):
    monkeypatch.setattr("aurevoir.progress.SLOW", 0)
    with sharing(None, N, True) as share:
        assert digest(fitted(images, "none", share)) == digest(fitted(images, "none"))
    assert capsys.readouterr().err.count(f"ridge: {N}/{N} row") == 2


@pytest.fixture
def flaw_of_passes(machines, monkeypatch):
    """A function that gives workers of passes a flaw, for one test."""
    monkeypatch.setattr(clustered_rows, "_Pass", FlawedPass)
    yield lambda name: (machines.flaws / name).touch()
    for path in machines.flaws.iterdir():
        path.unlink(missing_ok=True)
