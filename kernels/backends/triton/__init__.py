"""Kernels for NVIDIA GPUs, in Triton; see `reference` for what they compute.

They take and return CuPy arrays, on CuPy's current stream (under ``TRITON_INTERPRET=1``, NumPy arrays).
Every product is one of int8 rows on the tensor cores. Bits and speckle are widened to int8 beforehand,
once an element: inside the product each would be unpacked again for every tile that meets it.
"""
