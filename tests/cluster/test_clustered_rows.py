"""Passes of the ridge on the workers of a cluster: what comes back is what this machine alone computes."""

import numpy as np
import pytest
from cluster_flaws import FlawedPass

from aurevoir import Cluster
from aurevoir.errors import AurevoirError
from aurevoir.kernels.readout import fit_readout
from aurevoir.kernels.ridge import passes
from aurevoir.transfer import clustered_rows
from aurevoir.transfer.clustered_rows import digest, share_on, sharing

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


def fitted(images, projection, share=passes.here, budget="3MiB", weights=None):
    bits, labels, pooled = images
    options = {"n_components": 256 if projection == "hadamard" else None, "weights": weights, "budget": budget}
    return fit_readout(bits, M, labels, CLASSES, projection, pooled=pooled, share=share, **options)


@pytest.mark.parametrize(
    ("projection", "weighted"), [("none", False), ("bits+rbf", True), ("pooled", True), ("hadamard", False)]
)
def test_a_ridge_is_that_of_this_machine_to_the_last_bit(machines, images, monkeypatch, projection, weighted):
    monkeypatch.setattr("aurevoir.kernels.ridge.form.COMPARED_ROWS", 1000)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=N) if weighted else None
    budget = 2_800_000 if projection == "hadamard" else "3MiB"
    shared = []

    def share(*given):
        for result in share_on(ONE)(*given):
            shared.append(result)
            yield result

    found = fitted(images, projection, share, budget, weights)
    assert len(shared) == 2 * 3
    assert digest(found) == digest(fitted(images, projection, budget=budget, weights=weights))


def test_a_lost_worker_loses_no_segment_and_counts_none_twice(machines, images, flaw_of_passes):
    flaw_of_passes("dies-once")
    assert digest(fitted(images, "none", share_on(ONE))) == digest(fitted(images, "none"))
    assert (machines.flaws / "died").exists()


def test_rows_that_end_their_workers_end_the_fit(machines, images, flaw_of_passes):
    flaw_of_passes("dies")
    with pytest.raises(AurevoirError, match="rows from 0 cannot be summed on the cluster: .*more memory"):
        fitted(images, "none", share_on(ONE))


def test_a_worker_with_other_sums_is_refused(machines, images, flaw_of_passes):
    flaw_of_passes("other-sums")
    with pytest.raises(AurevoirError, match="its sums over the first 512 rows differ from the driver's"):
        fitted(images, "none", share_on(ONE))


def test_few_rows_stay_here_and_ask_no_cluster():
    with sharing(Cluster("127.0.0.1:1"), passes.SEGMENT, True) as share:
        assert share is passes.here
    with sharing(None, 10 * passes.SEGMENT, False) as share:
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
