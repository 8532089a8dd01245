"""Compiled kernels: the same few functions for each kind of processor."""
