"""What OpenVINO has compiled of an engine is taken from the cache, gives the same outputs, and is never in the way."""

import numpy as np
import pytest

from aurevoir.cache import user_cache, without_cache
from aurevoir.engine.build import build_engine
from aurevoir.engine.load import load_engine
from aurevoir.engine.smoke import first_inference

pytest.importorskip("openvino")
from aurevoir.engine.runtimes import on_openvino

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), "uint8")


@pytest.fixture
def compiled(monkeypatch):
    """The hints of what is compiled, and not taken from the cache."""
    found, original = [], on_openvino._compiled

    def watched(model, precision, device, hint, *options, **others):
        found.append(hint)
        return original(model, precision, device, hint, *options, **others)

    monkeypatch.setattr(on_openvino, "_compiled", watched)
    return found


@pytest.fixture
def path(tiny_onnx, tmp_path, monkeypatch):
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUREVOIR_CACHE_SIZE")
    build_engine(tiny_onnx, runtime="openvino", smoke=False).save(tmp_path / "f.engine")
    return tmp_path / "f.engine"


def _outputs(path):
    engine = load_engine(path)
    return engine.bits(PIXELS), engine.bits(PIXELS[:1]), engine(PIXELS)


def _kept():
    return [each.path for each in user_cache().entries() if each.kind == "compiled"]


def test_a_second_process_compiles_nothing_and_computes_the_same(path, compiled):
    first = _outputs(path)
    assert sorted(compiled) == ["LATENCY", "THROUGHPUT", "THROUGHPUT"]
    assert len(_kept()) == 3
    compiled.clear()
    assert all(map(np.array_equal, first, _outputs(path)))
    assert compiled == []


def test_other_threads_are_compiled_apart(path, compiled):
    _outputs(path)
    compiled.clear()
    load_engine(path).with_threads(1, 1).bits(PIXELS)
    assert compiled == ["THROUGHPUT"]
    load_engine(path).with_threads(1, 1).bits(PIXELS)
    assert compiled == ["THROUGHPUT"]


def test_what_openvino_refuses_is_compiled_again(path, compiled):
    first = _outputs(path)
    cache = user_cache()
    for entry in _kept():
        cache.put("compiled", entry.name, b"what another version wrote")
    compiled.clear()
    assert all(map(np.array_equal, first, _outputs(path)))
    assert len(compiled) == 3
    assert all(len(cache.get("compiled", entry.name)) > 100 for entry in _kept())


def test_without_a_cache_nothing_is_kept(path, compiled):
    with without_cache():
        _outputs(path)
    assert len(compiled) == 3
    assert _kept() == []


def test_an_engine_that_is_trusted_is_kept_too_and_one_that_is_only_checked_not(path, compiled):
    first_inference(load_engine(path))
    assert _kept() == []
    load_engine(path, trusted=True).bits(PIXELS)
    assert compiled == ["THROUGHPUT"]
    assert len(_kept()) == 1
