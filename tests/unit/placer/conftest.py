"""Numba's cache of a kernel looks at its own file only, not at the kernels that it inlines."""

from pathlib import Path

import models.kernels
import placer.kernels
import twin.kernels


def _forget_stale_machine_code() -> None:
    """Remove cached machine code of the placer that is older than a source it may inline."""
    folders = [Path(package.__path__[0]) for package in (twin.kernels, models.kernels, placer.kernels)]
    newest_source_ns = max(path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.py"))
    for path in (folders[-1] / "__pycache__").glob("*.nb[ci]"):
        if path.stat().st_mtime_ns < newest_source_ns:
            path.unlink(missing_ok=True)


_forget_stale_machine_code()
