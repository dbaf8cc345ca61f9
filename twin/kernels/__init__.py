"""Numba kernels on arrays and scalars: no I/O, objects, wall clock or RNG creation.

Importing this package chooses where compiled kernels are kept. Numba notices a change of the file
that a cached function stands in, but not of a file whose functions were inlined into it; so the
folder is named after all kernel sources, and any change of any of them starts afresh.
"""

import hashlib
import os
from pathlib import Path

from numba import config

KERNEL_PACKAGES = ("twin", "models", "placer")


def _cache_directory() -> Path:
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in KERNEL_PACKAGES:
        for source in sorted((root / package / "kernels").glob("*.py")):
            digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "loadmaster" / "kernels" / digest.hexdigest()[:16]


if not config.CACHE_DIR:
    config.CACHE_DIR = str(_cache_directory())
