"""Everything that needs an NVIDIA GPU, in one command."""

from .benchmark import BENCHMARK

__all__ = ["BENCHMARK"]
