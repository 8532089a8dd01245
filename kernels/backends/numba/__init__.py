"""Kernels for the CPU, compiled by Numba; see `reference` for what they compute."""
