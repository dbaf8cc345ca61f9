"""Numba's cache of a kernel looks at its own file only, not at the kernels that it inlines."""

from pathlib import Path

import twin.kernels


def _forget_stale_machine_code() -> None:
    """Remove cached machine code that is older than any kernel's source."""
    folder = Path(twin.kernels.__file__).parent
    newest_source_ns = max(path.stat().st_mtime_ns for path in folder.glob("*.py"))
    for path in (folder / "__pycache__").glob("*.nb[ci]"):
        if path.stat().st_mtime_ns < newest_source_ns:
            path.unlink(missing_ok=True)


_forget_stale_machine_code()
