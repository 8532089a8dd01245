"""One Ray cluster for the tests of a module: a head without processors, and machines with one each."""

import contextlib
import os
import sys
import warnings

import pytest

from aurevoir.cluster.connection import required_ray


@pytest.fixture(scope="module")
def machines(tmp_path_factory, root):
    """A started cluster to which this process is connected, and its folder of flaws; see `cluster_flaws`."""
    pytest.importorskip("ray")
    ray = required_ray()
    from ray.cluster_utils import Cluster

    flaws = tmp_path_factory.mktemp("flaws")
    # What a dead machine is told by: it is otherwise waited for much longer.
    system = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("AUREVOIR_FLAWS", str(flaws))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root / "tests" / "fakes"), *filter(None, sys.path)]))
        options = {"object_store_memory": 100 << 20, "include_dashboard": False}
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": system, **options})
        try:
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False, logging_level="CRITICAL")
            cluster.flaws = flaws
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def flaw(machines, monkeypatch):
    """A function that gives the workers that start from then on a flaw, for one test."""
    from cluster_flaws import Flawed

    monkeypatch.setattr("aurevoir.transfer.clustered._Embedding", Flawed)

    def add(name):
        (machines.flaws / name).touch()

    yield add
    for path in machines.flaws.iterdir():
        with contextlib.suppress(OSError):
            path.unlink()
