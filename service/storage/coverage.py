"""Where surrogates were taught, one small file a version, shared by all hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.coverage import coverage_from_bytes

if TYPE_CHECKING:
    from models.coverage import Coverage
    from service.storage.files import FileExchange

COVERAGE = "coverage.npz"


def keep_coverage(
    files: FileExchange, calibration_id: str, surrogate_version: str, coverage: Coverage
) -> None:
    """Keep where a version was taught; twice is once."""
    files.publish(_name(calibration_id, surrogate_version), {COVERAGE: coverage.to_bytes()})


def coverage_of(files: FileExchange, calibration_id: str, surrogate_version: str) -> Coverage:
    """Return where a version was taught.

    Raises
    ------
    NotFoundError
        Nobody has looked yet.
    """
    path = files.fetch(_name(calibration_id, surrogate_version)) / COVERAGE
    return coverage_from_bytes(path.read_bytes(), str(path))


def _name(calibration_id: str, surrogate_version: str) -> str:
    return f"coverage/{calibration_id}/{surrogate_version}"
