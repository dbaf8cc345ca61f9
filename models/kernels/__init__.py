"""Numba kernels on arrays and scalars: features, trees, and the surrogate that joins them."""

import twin.kernels  # noqa: F401 (chooses where compiled kernels are kept)
