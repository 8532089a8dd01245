"""Projections and the popcount Gram: their seconds, and what they are worth."""

from .benchmark import BENCHMARK

__all__ = ["BENCHMARK"]
