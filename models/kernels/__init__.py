"""Numba kernels on arrays and scalars: features, trees, and the surrogate that joins them."""
