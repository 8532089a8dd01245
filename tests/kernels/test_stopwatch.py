"""Stages are timed when what they asked of the device is done."""

import pytest

from aurevoir.kernels.stopwatch import Stopwatch


def test_a_stopwatch_waits_for_its_device(cupy, monkeypatch):
    waited = []
    monkeypatch.setattr(cupy.cuda.get_current_stream(), "synchronize", lambda: waited.append(1))
    for device, times in (("cpu", 0), ("cuda", 2)):
        watch = Stopwatch(device)
        for stage in ("gram", "another"):
            with watch(stage):
                pass
        assert len(waited) == times
        assert watch.seconds["another"] >= 0
    with pytest.raises(ZeroDivisionError), Stopwatch("cuda")("solve"):
        raise ZeroDivisionError
    assert len(waited) == 2
