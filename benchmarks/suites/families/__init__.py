"""Public model families in both of torch's ONNX exporters: what works, what is refused, and how exactly."""

from .benchmark import BENCHMARK

__all__ = ["BENCHMARK"]
