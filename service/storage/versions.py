"""Published versions on disk: a surrogate, the calibration it was trained on, and where both came from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from models.artifact import MANIFEST, load, read_manifest, shipped_directory
from models.errors import ModelsError
from service.errors import NotFoundError, VersionRefusedError
from service.services.catalog import Target
from service.storage.refreshes import LIVE, read_live_servers
from twin.calibration import (
    calibration_digest,
    calibration_from_json,
    calibration_to_json,
    load_calibration,
    shipped_calibration_ids,
)
from twin.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.artifact import Manifest
    from models.live import LiveServers
    from models.surrogate import Surrogate
    from service.storage.files import FileExchange
    from twin.domain import Calibration

log = structlog.get_logger()

CALIBRATION = "calibration.json"
LINEAGE = "lineage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a version came from, beside what its manifest tells.

    Attributes
    ----------
    created_at
        ISO 8601, None for what is shipped.
    measurement_set
        Id of the set that the calibration was fitted to, None where it is not one of ours.
    job_id
        The recalibration that made it, None for what is shipped.
    gate
        What its validation found (`service.services.gate`).
    live_servers
        Digest of the live servers that taught it beside the design; they stand beside it. None for none.
    """

    created_at: str | None = None
    measurement_set: str | None = None
    job_id: str | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    live_servers: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version as it is listed, its trees not loaded."""

    manifest: Manifest
    calibration: Calibration
    lineage: Lineage
    is_shipped: bool

    @property
    def name(self) -> str:
        """The surrogate version."""
        return self.manifest.surrogate_version


class VersionStore:
    """Publishes versions and loads them, trusting nothing that it reads."""

    def __init__(self, files: FileExchange) -> None:
        self._files = files
        self._listed: dict[str, Version] = {}
        self._unreadable: set[str] = set()

    def publish(
        self,
        directory: Path,
        calibration: Calibration,
        lineage: Lineage,
        live: LiveServers | None = None,
    ) -> Version:
        """Publish the surrogate in a directory; it is checked first, and appears whole or not at all.

        Parameters
        ----------
        directory, calibration, lineage
            The surrogate's files, and where it came from.
        live
            The live servers that taught it, where some did.

        Raises
        ------
        VersionRefusedError
            It is damaged, or was not trained on this calibration.
        """
        manifest, _ = _checked(directory, calibration, expected=None)
        names = [MANIFEST, manifest.trees.name]
        names += [] if manifest.teacher is None else [manifest.teacher.name]
        contents = {name: (directory / name).read_bytes() for name in names}
        contents[CALIBRATION] = calibration_to_json(calibration).encode()
        contents[LINEAGE] = orjson.dumps(asdict(lineage), option=orjson.OPT_INDENT_2)
        if live is not None:
            contents[LIVE] = live.to_json()
        name = _name_of(manifest.calibration_id, manifest.surrogate_version)
        return self._read(name, self._files.publish(name, contents))

    def publish_calibration(self, calibration: Calibration) -> str:
        """Keep a calibration under the digest of its content, which is returned."""
        digest = calibration_digest(calibration)
        name = f"calibrations/{calibration.calibration_id}/{digest}"
        self._files.publish(name, {CALIBRATION: calibration_to_json(calibration).encode()})
        return digest

    def calibration(self, calibration_id: str, digest: str) -> Calibration:
        """Return a calibration by id and digest, shipped or published.

        Raises
        ------
        NotFoundError, VersionRefusedError
            There is none, or its file is another one.
        """
        if calibration_id in shipped_calibration_ids():
            shipped = load_calibration(calibration_id)
            if calibration_digest(shipped) == digest:
                return shipped
        path = self._files.fetch(f"calibrations/{calibration_id}/{digest}") / CALIBRATION
        found = _read_calibration(path)
        if calibration_digest(found) != digest:
            raise VersionRefusedError(f"the calibration {calibration_id} of {digest} is damaged")
        return found

    def load(self, calibration_id: str, surrogate_version: str) -> Target:
        """Return a version, checked, ready to plan with.

        Raises
        ------
        NotFoundError
            There is none of this name.
        VersionRefusedError
            It is damaged.
        """
        shipped = _shipped(calibration_id)
        if shipped is not None and shipped.name == surrogate_version:
            directory, calibration = shipped_directory(calibration_id), shipped.calibration
        else:
            directory = self._files.fetch(_name_of(calibration_id, surrogate_version))
            calibration = _read_calibration(directory / CALIBRATION)
        _, surrogate = _checked(directory, calibration, expected=surrogate_version)
        return Target(calibration=calibration, surrogate=surrogate)

    def version(self, calibration_id: str, surrogate_version: str) -> Version:
        """Return one version, its trees not loaded.

        Raises
        ------
        NotFoundError, VersionRefusedError
            There is none of this name, or it cannot be read.
        """
        shipped = _shipped(calibration_id)
        if shipped is not None and shipped.name == surrogate_version:
            return shipped
        name = _name_of(calibration_id, surrogate_version)
        return self._read(name, self._files.fetch(name))

    def live_servers(self, version: Version) -> LiveServers | None:
        """Return the live servers that taught a version beside its design, None where none did.

        Raises
        ------
        VersionRefusedError
            Their file is damaged.
        """
        if version.lineage.live_servers is None:
            return None
        return read_live_servers(self.directory(version.manifest.calibration_id, version.name))

    def share(self, calibration_id: str, surrogate_version: str) -> None:
        """Give the store a published version that only this disk may have."""
        self._files.share(_name_of(calibration_id, surrogate_version))

    def directory(self, calibration_id: str, surrogate_version: str) -> Path:
        """Return where the files of a version are on this host."""
        shipped = _shipped(calibration_id)
        if shipped is not None and shipped.name == surrogate_version:
            return shipped_directory(calibration_id)
        return self._files.fetch(_name_of(calibration_id, surrogate_version))

    def versions(self) -> tuple[Version, ...]:
        """Return every version that can be read, shipped ones first, then the oldest first."""
        shipped = [one for one in map(_shipped, shipped_calibration_ids()) if one is not None]
        known = {one.name for one in shipped}
        published = []
        for name in self._files.names("surrogates"):
            try:
                if name.rpartition("/")[2] not in known:  # else the same trees were made again
                    published.append(self._read(name, self._files.fetch(name)))
            except (NotFoundError, VersionRefusedError) as error:
                self._tell_once(name, error)
        published.sort(key=lambda version: version.lineage.created_at or "")
        return (*shipped, *published)

    def _tell_once(self, name: str, error: Exception) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.warning("version_unreadable", name=name, reason=str(error))

    def _read(self, name: str, directory: Path) -> Version:
        if name not in self._listed:  # a name tells the content
            try:
                lineage = Lineage(**orjson.loads((directory / LINEAGE).read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                raise VersionRefusedError(f"{name}: {LINEAGE}: {error}") from error
            self._listed[name] = Version(
                manifest=_manifest(directory),
                calibration=_read_calibration(directory / CALIBRATION),
                lineage=lineage,
                is_shipped=False,
            )
        return self._listed[name]


def created_now() -> str:
    """Return this moment for a lineage."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _shipped(calibration_id: str) -> Version | None:
    """Return what the package ships for a calibration, None where that is nothing sound."""
    try:
        return Version(
            manifest=read_manifest(shipped_directory(calibration_id)),
            calibration=load_calibration(calibration_id),
            lineage=Lineage(),
            is_shipped=True,
        )
    except (ModelsError, TwinError):
        return None


def _name_of(calibration_id: str, surrogate_version: str) -> str:
    return f"surrogates/{calibration_id}/{surrogate_version}"


def _manifest(directory: Path) -> Manifest:
    try:
        return read_manifest(directory)
    except ModelsError as error:
        raise VersionRefusedError(f"{directory.name}: {error}") from error


def _read_calibration(path: Path) -> Calibration:
    try:
        return calibration_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TwinError) as error:
        raise VersionRefusedError(f"{path.parent.name}: {path.name}: {error}") from error


def _checked(
    directory: Path, calibration: Calibration, *, expected: str | None
) -> tuple[Manifest, Surrogate]:
    """Return manifest and trees of a sound surrogate of a calibration, and of no other."""
    manifest = _manifest(directory)
    try:
        surrogate = load(directory)
    except ModelsError as error:
        raise VersionRefusedError(f"{directory.name}: {error}") from error
    digest = hashlib.sha256(calibration_to_json(calibration).encode()).hexdigest()
    facts: Mapping[str, bool] = {
        "is another version than its name": expected in {None, surrogate.version},
        "is of another calibration": surrogate.calibration_id == calibration.calibration_id,
        "was trained on other numbers than its calibration": surrogate.agrees_with(calibration),
        "names another calibration file": manifest.calibration_sha256 == digest,
    }
    for complaint, is_sound in facts.items():
        if not is_sound:
            raise VersionRefusedError(f"{manifest.surrogate_version}: {complaint}")
    return manifest, surrogate
