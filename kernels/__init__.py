"""Numerical kernels on arrays: bits, projections, Grams and the ridge."""
