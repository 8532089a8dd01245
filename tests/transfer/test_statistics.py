from dataclasses import astuple

import numpy as np
import pytest
from safetensors.numpy import save

from aurevoir.errors import AurevoirError, UsageError
from aurevoir.kernels.ridge import one_vs_rest
from aurevoir.kernels.statistics import Statistics
from aurevoir.transfer.statistics import load_statistics, save_statistics


def statistics(seed, weights=None):
    random = np.random.default_rng(seed)
    speckle = random.integers(0, 256, size=(30, 7), dtype="uint8")
    return Statistics.of(speckle, one_vs_rest(random.integers(0, 3, size=30), 3), weights)


def equal(a, b):
    for left, right in zip(astuple(a), astuple(b), strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.asarray(left).dtype == np.asarray(right).dtype


@pytest.mark.parametrize("weights", [None, np.linspace(0.1, 2, 30)])
def test_statistics_are_read_as_they_were_written(tmp_path, weights):
    written = statistics(0, weights)
    save_statistics(written, tmp_path / "s")
    equal(load_statistics(tmp_path / "s"), written)


def test_statistics_from_files_add_up(tmp_path):
    for seed in range(2):
        save_statistics(statistics(seed), tmp_path / str(seed))
    equal(load_statistics(tmp_path / "0") + load_statistics(tmp_path / "1"), statistics(1) + statistics(0))


def test_what_is_not_a_file_of_statistics_is_refused(tmp_path):
    with pytest.raises(UsageError, match="do not exist"):
        load_statistics(tmp_path / "none")
    (tmp_path / "broken").write_bytes(b"broken")
    with pytest.raises(AurevoirError, match="is damaged"):
        load_statistics(tmp_path / "broken")
    (tmp_path / "other").write_bytes(save({"weights": np.zeros(3)}))
    with pytest.raises(AurevoirError, match="holds weights, not the statistics"):
        load_statistics(tmp_path / "other")
