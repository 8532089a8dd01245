"""Kernels for NVIDIA GPUs, in Triton; see `reference` for their definitions.

They take and return CuPy arrays, on CuPy's current stream (under ``TRITON_INTERPRET=1``, NumPy arrays).
All products are of int8 rows on the tensor cores. Bits and speckle are converted to int8 once, beforehand;
inside the product they would be unpacked again for every tile.
"""
