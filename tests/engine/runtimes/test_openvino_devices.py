"""OpenVINO's devices are looked up once."""

from unittest.mock import PropertyMock

from aurevoir.engine.runtimes import on_openvino


def test_devices_are_looked_up_once(monkeypatch):
    looked_up = PropertyMock(return_value=["CPU", "GPU"])
    monkeypatch.setattr(on_openvino, "_core", type("Core", (), {"available_devices": looked_up}))
    on_openvino.devices.cache_clear()
    try:
        assert [on_openvino.devices() for _ in range(3)] == [("cpu", "gpu")] * 3
    finally:
        on_openvino.devices.cache_clear()
    assert looked_up.call_count == 1
