"""Numba kernels on arrays and scalars: no I/O, objects, wall clock or RNG creation."""
