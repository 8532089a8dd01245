"""The ridge: seconds of its parts, its choice of alpha, and the post's full size."""

from .benchmark import BENCHMARK

__all__ = ["BENCHMARK"]
