"""Processors and memory are those that this process may use, by its affinity and its control groups."""

import os

import pytest

from aurevoir import limits


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that lets this process be in groups, given the lines of /proc and the files of the groups."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "affinity", lambda: 8)
    monkeypatch.setattr(limits, "memory", limits.memory.__wrapped__)

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name.replace("-", ".")).write_text(text)

    return write


def test_no_limit_leaves_the_affinity(groups):
    assert (limits.processors(), limits.memory()) == (8, 0)
    groups("0::/\n", **{"cpu-max": "max 100000\n", "memory-max": "max\n"})
    assert (limits.processors(), limits.memory()) == (8, 0)


def test_of_a_group_and_those_around_it_the_least_counts(groups):
    files = {"s__a__cpu-max": "350000 100000\n", "s__cpu-max": "150000 100000\n", "s__a__memory-max": "2147483648\n"}
    groups("0::/s/a\n", **files, **{"s__memory-max": "max\n"})
    assert (limits.processors(), limits.memory()) == (2, 2**31)


def test_a_container_whose_path_is_the_hosts_is_the_root_itself(groups):
    groups("0::/docker/0123\n", **{"cpu-max": "50000 100000\n", "memory-max": "1000000\n"})
    assert (limits.processors(), limits.memory()) == (1, 1_000_000)


def test_version_1(groups):
    files = {"cpu__j__cpu-cfs_quota_us": "300000\n", "cpu__j__cpu-cfs_period_us": "100000\n"}
    files |= {"cpu__cpu-cfs_quota_us": "-1\n", "cpu__cpu-cfs_period_us": "100000\n"}
    groups("4:memory:/j\n2:cpu,cpuacct:/j\n", **files, **{"memory__j__memory-limit_in_bytes": "3000000\n"})
    assert (limits.processors(), limits.memory()) == (3, 3_000_000)
    groups("4:memory:/j\n", **{"memory__j__memory-limit_in_bytes": "9223372036854771712\n"})
    assert limits.memory() == 0


def test_what_cannot_be_read_limits_nothing(groups):
    groups("nonsense\n\n")
    assert (limits.processors(), limits.memory()) == (8, 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert limits.affinity() == limits.processors() == 1
