"""Fast bodies for the CPU, compiled by Numba; each has a plain NumPy reference in the tests."""
