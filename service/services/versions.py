"""Which versions are in force: activated, rolled back, followed by every process within seconds."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.errors import (
    ConflictError,
    NotFoundError,
    StoreUnavailableError,
    VersionRefusedError,
)
from service.observability import LOOP_ERRORS, REFUSED_VERSIONS
from service.services.gauges import show_surrogate
from service.services.rounds import survived
from service.storage.activations import Activation, newer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from service.services.catalog import Catalog, Target
    from service.services.clock import Clock
    from service.storage.activations import ActivationStore
    from service.storage.versions import Version, VersionStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVersion:
    """A version as it is told: in force here or not, since when, and why one in force is refused here."""

    version: Version
    is_active: bool
    since_s: float | None
    refused: str | None


class VersionService:
    """Exchanges what a catalog plans with for what is in force.

    Parameters
    ----------
    may_act_alone
        Whether an act is taken on this disk where the store is away; the store is brought up to it later.
    """

    def __init__(
        self,
        catalog: Catalog,
        versions: VersionStore,
        activations: ActivationStore,
        clock: Clock,
        *,
        may_act_alone: bool = False,
    ) -> None:
        self._may_act_alone = may_act_alone
        self._catalog = catalog
        self._versions = versions
        self._activations = activations
        self._clock = clock
        self._turn = threading.Lock()
        self._refused: dict[str, tuple[Activation, str]] = {}
        self._taken: dict[str, int] = {}

    def start(self) -> None:
        """Take up what this host knew last; neither store nor a sound version is needed."""
        self._adopt(self._activations.on_disk())

    def refresh(self) -> None:
        """Take up what is in force in the store; bring store and disk to the newer of both.

        What is refused leaves what was in force before, and is counted and listed.

        Raises
        ------
        StoreUnavailableError
            What is in force may have changed unseen.
        """
        shared, kept = self._activations.shared(), self._activations.on_disk()
        newest = newer_of(shared, kept)
        for calibration_id, activation in newest.items():
            if shared.get(calibration_id) != activation:
                self._versions.share(calibration_id, activation.surrogate_version)
                self._activations.put(activation, expected=shared.get(calibration_id))
        self._adopt(newest)
        if newest != kept:
            self._keep(newest)

    def activate(self, surrogate_version: str, *, actor: str) -> ListedVersion:
        """Put a version in force and return it; what it replaces can be rolled back to.

        Raises
        ------
        NotFoundError, VersionRefusedError, ConflictError, StoreUnavailableError
            There is no such version, it is damaged, others activate at the same time, or the store is away.
        """
        version = self._named(surrogate_version)
        calibration_id = version.manifest.calibration_id

        def following(current: Activation) -> tuple[str, tuple[str, ...]]:
            if current.surrogate_version == surrogate_version:
                return surrogate_version, current.before
            return surrogate_version, (*current.before, current.surrogate_version)

        return self._write(calibration_id, following, actor)

    def roll_back(self, calibration_id: str, *, actor: str) -> ListedVersion:
        """Put in force what was so before, and return it.

        Raises
        ------
        NotFoundError, ConflictError
            There is no such calibration; nothing was in force before.
        VersionRefusedError, StoreUnavailableError
            What was in force before is damaged, or the store is away.
        """

        def before(current: Activation) -> tuple[str, tuple[str, ...]]:
            told = [name for name in current.before if name]
            if not told:
                raise ConflictError(f"nothing was in force for {calibration_id} before")
            return told[-1], tuple(told[:-1])

        return self._write(calibration_id, before, actor)

    def in_force(self, calibration_id: str) -> str | None:
        """Return the version in force by the store's pointer, else by what is shipped; None for neither."""
        pointer = self._activations.shared().get(calibration_id)
        if pointer is not None:
            return pointer.surrogate_version
        target = self._catalog.targets.get(calibration_id)
        return None if target is None else target.surrogate.version

    def _write(
        self,
        calibration_id: str,
        choose: Callable[[Activation], tuple[str, tuple[str, ...]]],
        actor: str,
    ) -> ListedVersion:
        stored, is_up = self._stored(calibration_id)
        current = stored or self._activations.on_disk().get(calibration_id) or self._as_it_is(calibration_id)
        wanted, before = choose(current)
        target = self._versions.load(calibration_id, wanted)
        following = current.followed_by(
            wanted, since_s=self._clock.wall_s(), actor=actor, before=tuple(name for name in before if name)
        )
        if is_up and not self._activations.put(following, expected=stored):
            raise ConflictError(f"others change what is in force for {calibration_id}", retry_after_s=1)
        with self._turn:
            self._take(following, target)
        self._keep({calibration_id: following})
        return self._listed(self._named(wanted), {calibration_id: following})

    def _stored(self, calibration_id: str) -> tuple[Activation | None, bool]:
        """Return the store's pointer, and whether there is a store to write the next one to."""
        try:
            return self._activations.shared().get(calibration_id), True
        except StoreUnavailableError:
            if not self._may_act_alone:
                raise
            return None, False

    def _keep(self, activations: Mapping[str, Activation]) -> None:
        """Copy what is in force to disk; a disk that does not take it is counted, the store has it."""
        try:
            self._activations.keep(activations)
        except OSError as error:
            LOOP_ERRORS.labels("versions").inc()
            log.warning("activations_not_kept", reason=str(error))

    def _as_it_is(self, calibration_id: str) -> Activation:
        """Return what stands for a pointer where none was ever written: what is shipped, or nothing."""
        target = self._catalog.targets.get(calibration_id)
        known = {version.manifest.calibration_id for version in self._versions.versions()}
        if target is None and calibration_id not in known:
            raise NotFoundError("names no calibration", field="calibration_id")
        version = "" if target is None else target.surrogate.version
        return Activation(
            calibration_id=calibration_id, surrogate_version=version, revision=0, since_s=0.0, actor=""
        )

    def _adopt(self, activations: Mapping[str, Activation]) -> None:
        with self._turn:
            for calibration_id, activation in activations.items():
                if activation.revision < self._taken.get(calibration_id, 0):  # read before a later act
                    continue
                target = self._catalog.targets.get(calibration_id)
                if target is not None and target.surrogate.version == activation.surrogate_version:
                    self._refused.pop(calibration_id, None)
                    continue
                self._try(activation)

    def _try(self, activation: Activation) -> None:
        calibration_id = activation.calibration_id
        try:
            target = self._versions.load(calibration_id, activation.surrogate_version)
        except (NotFoundError, VersionRefusedError) as error:
            known = self._refused.get(calibration_id)
            if known is None or known[0] != activation:
                REFUSED_VERSIONS.inc()
                log.error("version_refused", calibration_id=calibration_id, reason=error.detail)  # noqa: TRY400
            self._refused[calibration_id] = (activation, error.detail)
        except (StoreUnavailableError, OSError) as error:  # to be tried again
            LOOP_ERRORS.labels("versions").inc()
            log.warning("version_not_loaded", calibration_id=calibration_id, reason=str(error))
        else:
            self._take(activation, target)

    def _take(self, activation: Activation, target: Target) -> None:
        calibration_id = activation.calibration_id
        self._taken[calibration_id] = activation.revision
        before = self._catalog.targets.get(calibration_id)
        self._catalog.adopt(target)
        self._refused.pop(calibration_id, None)
        show_surrogate(calibration_id, target, before)
        log.info(
            "version_in_force",
            calibration_id=calibration_id,
            surrogate_version=activation.surrogate_version,
            actor=activation.actor,
        )

    def listing(self) -> tuple[ListedVersion, ...]:
        """Return every version; those in force are what this process plans with."""
        kept = self._activations.on_disk()
        return tuple(self._listed(version, kept) for version in self._versions.versions())

    def _listed(self, version: Version, kept: Mapping[str, Activation]) -> ListedVersion:
        calibration_id = version.manifest.calibration_id
        target = self._catalog.targets.get(calibration_id)
        activation = kept.get(calibration_id)
        is_meant = activation is not None and activation.surrogate_version == version.name
        refused = self._refused.get(calibration_id)
        return ListedVersion(
            version=version,
            is_active=target is not None and target.surrogate.version == version.name,
            since_s=activation.since_s if is_meant and activation is not None else None,
            refused=refused[1] if is_meant and refused is not None else None,
        )

    def _named(self, surrogate_version: str) -> Version:
        for version in self._versions.versions():
            if version.name == surrogate_version:
                return version
        raise NotFoundError("names no version", field="surrogate_version")


def try_refresh(service: VersionService) -> None:
    """Refresh; a failure is counted, and the next round comes soon."""
    with survived("versions", event="versions_refresh_failed"):
        service.refresh()
