"""Compiled loops of the placer: arrays and scalars only."""

import twin.kernels  # noqa: F401 (chooses where compiled kernels are kept)
