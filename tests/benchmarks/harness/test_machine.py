"""Where a figure was measured."""

from aurevoir.benchmarks.harness.machine import describe_gpus


def test_a_gpu_is_described_whatever_its_driver_tells(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X, with a comma, 580.1, 81559'\necho 'NVIDIA GB10, 580.2, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert describe_gpus() == [
        {"name": "NVIDIA X, with a comma", "driver": "580.1", "memory_gib": 79.6},
        {"name": "NVIDIA GB10", "driver": "580.2", "memory_gib": None},
    ]
