"""Kernels for the CPU, compiled by Numba; see `reference` for their definitions."""
