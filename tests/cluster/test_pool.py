"""What a pool does with machines that are lost or cannot start a worker, told by a stand-in for Ray."""

from types import SimpleNamespace

import pytest

from aurevoir.cluster import pool
from aurevoir.cluster.worker import Opened
from aurevoir.errors import AurevoirError, AurevoirWarning


class RayError(Exception):
    pass


class Later:
    """What an actor has been asked for: a result, an error, or for ever neither."""

    def __init__(self, result=None, error=None, never=False):
        self.result, self.error, self.never = result, error, never


class FakeRay:
    """Actors of given kinds in turn, the last of which all further ones are; a second passes where nothing comes."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *kinds):
        self.kinds, self.started, self.seconds = list(kinds), 0, 0.0

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
            return Later(error=RayError("The actor is dead")) if kind == "dies" else Later(shard)

        return SimpleNamespace(open=_asked(lambda *given: opened), run=_asked(run))

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


def _asked(function):
    return SimpleNamespace(remote=function)


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
    with pool.Pool(pool.Resources(workers, 1, 0), None, b"", {}, Driver()) as made:
        return [(start, stop) for start, stop, _ in made.results(iter(SPANS), 16, 16)]


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
