"""What a pool does with machines that are lost or cannot start a worker, told by a stand-in for Ray."""

import os
from types import SimpleNamespace

import pytest

from aurevoir import Cluster, __version__
from aurevoir.cluster import pool
from aurevoir.cluster.worker import Opened, Worker
from aurevoir.errors import AurevoirError, AurevoirWarning


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class Later:
    """What an actor has been asked for: a result, an error, or for ever neither."""

    def __init__(self, result=None, error=None, never=False):
        self.result, self.error, self.never = result, error, never


class FakeRay:
    """Actors of given kinds in turn, the last of which all further ones are; a second passes where nothing comes."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *kinds):
        self.kinds, self.started, self.seconds, self.names = list(kinds), 0, 0.0, []

    def remote(self, **options):
        return lambda actor: SimpleNamespace(remote=self._start)

    def _start(self):
        kind = self.kinds[min(self.started, len(self.kinds) - 1)]
        self.started += 1
        opened = {
            "broken": Later(error=RayError("ModuleNotFoundError: No module named 'aurevoir'")),
            "never": Later(never=True),
        }.get(kind, Later(Opened("a machine", None, None)))

        def run(shard):
            start, stop = shard
            if kind == "dies" or (kind == "dies-of-45" and start <= 45 < stop):
                return Later(error=RayError("The actor is dead"))
            error = {"raises": ValueError("from core.cpp:90:\nno such layer\n"), "has-no-disk": OSError("disk")}.get(
                kind
            )
            return Later(shard) if error is None else Later(error=RayTaskError(error))

        return SimpleNamespace(open=self._asked(lambda *given: opened), run=self._asked(run))

    def _asked(self, function):
        def options(name):
            self.names.append(name)
            return SimpleNamespace(remote=function)

        return SimpleNamespace(options=options)

    def wait(self, asked, num_returns, timeout):
        ready = [each for each in asked if not each.never]
        self.seconds += 0 if ready else timeout
        assert self.seconds < 10_000, "it waits without end"
        return ready[-1:], []

    @staticmethod
    def get(asked):
        if asked.error:
            raise asked.error
        return asked.result

    @staticmethod
    def put(value):
        return value

    @staticmethod
    def kill(actor):
        pass

    @staticmethod
    def is_initialized():
        return True

    @staticmethod
    def available_resources():
        return {}


class Driver:
    def shard(self, start, stop):
        return start, stop

    def refusal(self, first):
        return None

    def contradiction(self, start, result):
        return None

    def unusable(self, index, why):
        return why


SPANS = [(start, min(start + 16, 500)) for start in range(0, 500, 16)]


def results(monkeypatch, ray, workers):
    monkeypatch.setattr(pool, "required_ray", lambda: ray)
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: ray.seconds))
    with pool.Pool(pool.Resources(workers, 1, 0), SimpleNamespace(name="embed"), b"", {}, Driver()) as made:
        return [(start, stop) for start, stop, _ in made.results(iter(SPANS), 16, 16)]


def test_an_image_that_ends_its_workers_is_found(monkeypatch):
    ray = FakeRay("dies-of-45")
    found = results(monkeypatch, ray, 2)
    assert found[0] == (0, 16)
    assert found[-1] == (496, 500)
    assert (45, 46) in found
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    # Twice each: 16, 8, 4, 2 images, and that one.
    assert ray.started == 2 + 10


def test_tasks_are_named_by_what_they_do_and_their_images(monkeypatch):
    ray = FakeRay("works")
    results(monkeypatch, ray, 2)
    assert ray.names[:3] == ["embed: open", "embed: open", "embed: 0-15"]
    assert ray.names[-1] == "embed: 496-499"


def test_an_error_in_a_worker_is_no_lost_process_and_is_not_tried_again(monkeypatch):
    ray = FakeRay("raises")
    with pytest.raises(AurevoirError, match="^the worker on a machine: ValueError: no such layer$"):
        results(monkeypatch, ray, 1)
    assert ray.started == 1


def test_an_error_that_only_one_machine_may_have_is_tried_elsewhere(monkeypatch):
    ray = FakeRay("has-no-disk", "good")
    assert results(monkeypatch, ray, 1) == SPANS
    assert ray.started == 2


@pytest.mark.parametrize(
    ("given", "machines", "found"),
    [
        ({}, [{"CPU": 8}, {"CPU": 2}], (5, 2, 0)),
        ({"workers": 3}, [{"CPU": 4}], (3, 1, 0)),
        ({"workers": 3}, [{"CPU": 12}, {}], (3, 4, 0)),
        ({"workers": 5}, [{"CPU": 4}], "workers 5 .* room for: 4 with 1 processors each, of 4 processors in 1 mach"),
        ({"workers": 3, "cpus_per_worker": 2}, [{"CPU": 3}] * 2, "room for: 2 with 2 processors each, of 6 processors"),
        ({"workers": 3, "gpus_per_worker": 0.5}, [{"CPU": 8, "GPU": 1}], "2 with .* and 0.5 GPUs each, .* and 1 GPUs"),
    ],
)
def test_workers_are_as_many_as_machines_have_room_for(monkeypatch, given, machines, found):
    nodes = [{"Alive": True, "Resources": each} for each in machines] + [{"Alive": False, "Resources": {"CPU": 99}}]
    monkeypatch.setattr(pool, "required_ray", lambda: SimpleNamespace(nodes=lambda: nodes))
    cluster, on_gpu = Cluster(**given), "gpus_per_worker" in given
    if isinstance(found, tuple):
        assert pool.resources(cluster, on_gpu) == found
        return
    with pytest.raises(AurevoirError, match=found):
        pool.resources(cluster, on_gpu)


def test_a_worker_has_the_variables_of_the_driver_and_lacks_what_that_lacks(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "1KiB")
    seen = []
    shards = SimpleNamespace(first=lambda: None)
    job = SimpleNamespace(open=lambda content: (seen.append(os.environ.get("AUREVOIR_MEMORY")), shards)[1])
    for value in ("2GiB", None):
        assert Worker().open(__version__, {"AUREVOIR_MEMORY": value}, job, b"").fault is None
    assert seen == ["2GiB", None]


def test_a_machine_that_starts_no_worker_does_not_end_what_others_do(monkeypatch):
    ray = FakeRay("good", "broken")
    with pytest.warns(
        AurevoirWarning, match="a worker is not used, it ends while it starts; .*No module named 'aurevoir'"
    ):
        found = results(monkeypatch, ray, 2)
    assert found == SPANS
    assert ray.started == 2


def test_workers_that_all_end_while_they_start_end_the_work(monkeypatch):
    with (
        pytest.warns(AurevoirWarning, match="a worker is not used"),
        pytest.raises(AurevoirError, match="workers end while they start; the last one .*No module named 'aurevoir'"),
    ):
        results(monkeypatch, FakeRay("broken"), 2)


def test_a_cluster_that_has_lost_its_last_machine_is_given_up(monkeypatch):
    ray = FakeRay("dies", "never")
    with pytest.raises(AurevoirError, match="no worker has started within 300 seconds"):
        results(monkeypatch, ray, 1)
    assert 300 <= ray.seconds < 310
