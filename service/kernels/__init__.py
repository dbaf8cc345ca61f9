"""Compiled loops of the service; see `twin.kernels` for the rules.

None calls a function of another file, so Numba's own check for changed sources is enough here.
"""

import twin.kernels  # noqa: F401 (chooses where compiled kernels are kept)
