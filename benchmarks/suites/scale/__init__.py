"""The ridge by default settings over the number of rows, to a million on one machine."""

from .benchmark import BENCHMARK

__all__ = ["BENCHMARK"]
